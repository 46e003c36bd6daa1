import { mkdir, opendir, readFile, stat, writeFile } from "node:fs/promises";
import { join, relative, sep } from "node:path";
import { MillraceError } from "@millrace/schemas";

export interface SelectedFile {
  /** Relative to the folder, with `/`. */
  readonly path: string;
  /** The copy that the runs work on. */
  readonly copy: string;
  readonly bytes: Buffer;
}

export interface Selection {
  readonly files: readonly SelectedFile[];
  /** What was left out because of a limit, in words; empty when nothing was. */
  readonly leftOut: readonly string[];
}

export const selectionLimits = { files: 400, fileBytes: 524_288, foldersDeep: 24, entries: 50_000 } as const;

const skippedFolders = new Set(["node_modules", "dist", "coverage", ".git", ".millrace"]);

/**
 * The text files of a folder, in the order of their paths, each copied to `copyDir`: a file that is edited while the
 * demo runs must not pass for a wrong checksum. `invalid_request` when the folder cannot be read or has no text file.
 */
export async function selectFiles(dir: string, copyDir: string): Promise<Selection> {
  await mkdir(copyDir, { recursive: true });
  const walk: Walk = { dir, paths: [], entries: 0, tooDeep: 0, unreadable: 0 };
  await walkFolder(walk, dir, 0);
  const files: SelectedFile[] = [];
  let tooLarge = 0;
  let beyond = 0;
  for (const path of walk.paths.toSorted()) {
    if (files.length === selectionLimits.files) {
      beyond += 1;
      continue;
    }
    const bytes = await readSmall(join(dir, path));
    if (typeof bytes === "string") {
      if (bytes === "too large") tooLarge += 1;
      else walk.unreadable += 1;
      continue;
    }
    // The customary test for "not text", which word statistics would make no sense of.
    if (bytes.includes(0)) continue;
    const copy = join(copyDir, `${String(files.length).padStart(4, "0")}.txt`);
    await writeFile(copy, bytes);
    files.push({ path: path.split(sep).join("/"), copy, bytes });
  }
  if (files.length === 0) {
    throw new MillraceError(
      "invalid_request",
      `--dir ${dir} has no text file of at most ${selectionLimits.fileBytes} bytes. Give a folder that has some.`,
      { details: { dir, tooLarge } },
    );
  }
  return { files, leftOut: leftOutInWords(walk, tooLarge, beyond) };
}

async function readSmall(file: string): Promise<Buffer | "too large" | "unreadable"> {
  try {
    const { size } = await stat(file);
    return size > selectionLimits.fileBytes ? "too large" : await readFile(file);
  } catch {
    // Not ours to read, or gone since: others may be working in that folder.
    return "unreadable";
  }
}

interface Walk {
  readonly dir: string;
  readonly paths: string[];
  entries: number;
  tooDeep: number;
  unreadable: number;
}

async function walkFolder(walk: Walk, folder: string, depth: number): Promise<void> {
  const folders: string[] = [];
  try {
    for await (const entry of await opendir(folder)) {
      if (walk.entries >= selectionLimits.entries) return;
      walk.entries += 1;
      const path = join(folder, entry.name);
      if (entry.isFile()) walk.paths.push(relative(walk.dir, path));
      else if (entry.isDirectory() && !skippedFolders.has(entry.name)) folders.push(path);
    }
  } catch (cause) {
    walk.unreadable += 1;
    if (depth > 0) return;
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new MillraceError(
      "invalid_request",
      `Folder ${folder} cannot be read (${reason}). Give another --dir.`,
      {
        cause,
      },
    );
  }
  if (depth === selectionLimits.foldersDeep) {
    walk.tooDeep += folders.length;
    return;
  }
  for (const next of folders.toSorted()) await walkFolder(walk, next, depth + 1);
}

function leftOutInWords(walk: Walk, tooLarge: number, beyond: number): string[] {
  const { files, fileBytes, foldersDeep, entries } = selectionLimits;
  return [
    ...(beyond > 0 ? [`${beyond} files beyond the limit of ${files}`] : []),
    ...(tooLarge > 0 ? [`${tooLarge} files over ${fileBytes} bytes`] : []),
    ...(walk.unreadable > 0 ? [`${walk.unreadable} files or folders that could not be read`] : []),
    ...(walk.tooDeep > 0 ? [`${walk.tooDeep} folders more than ${foldersDeep} deep`] : []),
    ...(walk.entries >= entries ? [`what lies beyond the first ${entries} entries`] : []),
  ];
}
