import { readdirSync, readFileSync } from "node:fs";
import { join, relative, resolve, sep } from "node:path";

export const repositoryRoot = resolve(import.meta.dirname, "..");

/** What the tests read of a `package.json`. */
export interface PackageManifest {
  readonly name: string;
  readonly license?: string;
  readonly type?: string;
  readonly engines?: { readonly node?: string };
  readonly exports?: Readonly<Record<string, Readonly<Record<string, string>>>>;
  readonly workspaces?: readonly string[];
  readonly dependencies?: Readonly<Record<string, string>>;
  readonly peerDependencies?: Readonly<Record<string, string>>;
  readonly devDependencies?: Readonly<Record<string, string>>;
}

export interface Workspace {
  readonly folder: string;
  readonly manifest: PackageManifest;
}

const generatedFolders = new Set(["node_modules", "dist", "coverage", ".git", ".millrace"]);

export function repositoryPath(path: string): string {
  return join(repositoryRoot, path);
}

export function readText(path: string): string {
  return readFileSync(repositoryPath(path), "utf8");
}

/** Every file that a person wrote, sorted, from the root and with forward slashes. */
export function repositoryFiles(): readonly string[] {
  return filesBelow(repositoryRoot).sort();
}

export function rootManifest(): PackageManifest {
  return readManifest("package.json");
}

export function workspaces(): readonly Workspace[] {
  return (rootManifest().workspaces ?? []).map((folder) => ({
    folder,
    manifest: readManifest(`${folder}/package.json`),
  }));
}

function readManifest(path: string): PackageManifest {
  return JSON.parse(readText(path)) as PackageManifest;
}

function filesBelow(folder: string): string[] {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    if (entry.isDirectory())
      return generatedFolders.has(entry.name) ? [] : filesBelow(join(folder, entry.name));
    return entry.isFile() ? [relative(repositoryRoot, join(folder, entry.name)).split(sep).join("/")] : [];
  });
}
