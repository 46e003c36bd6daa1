/**
 * The report that the runs write: one row per file, kept under the idempotency key of the step that wrote it.
 *
 * I1 Writing the same row again, also after being killed in the middle of it, leaves one row.
 * I2 A row is there whole or not at all.
 */
import { createHash } from "node:crypto";
import { mkdir, readdir, readFile, rename, writeFile } from "node:fs/promises";
import { join } from "node:path";

export interface ReportRow {
  readonly idempotencyKey: string;
  readonly path: string;
  readonly sha256: string;
  readonly bytes: number;
  readonly words: number;
}

export async function writeReportRow(reportDir: string, row: ReportRow): Promise<void> {
  await mkdir(reportDir, { recursive: true });
  const name = createHash("sha256").update(row.idempotencyKey).digest("hex").slice(0, 32);
  const unfinished = join(reportDir, `${name}.part`);
  await writeFile(unfinished, JSON.stringify(row));
  await rename(unfinished, join(reportDir, `${name}.json`));
}

export async function readReportRows(reportDir: string): Promise<ReportRow[]> {
  const names = (await readdir(reportDir)).filter((name) => name.endsWith(".json"));
  return Promise.all(
    names
      .toSorted()
      .map(async (name) => JSON.parse(await readFile(join(reportDir, name), "utf8")) as ReportRow),
  );
}
