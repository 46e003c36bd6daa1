import type { ExpectedRun } from "./check-runs.ts";
import { planCases, type Case } from "./drive-cases.ts";
import { independentFacts, type FileFacts } from "./independent-facts.ts";
import { ingest } from "./ingest.ts";
import type { ReportRow } from "./report-rows.ts";
import type { SelectedFile } from "./select-files.ts";

export interface FileRun extends ExpectedRun {
  readonly file: SelectedFile;
  readonly reportRow: Omit<ReportRow, "idempotencyKey">;
}

export interface WorkPlan {
  readonly files: readonly FileRun[];
  readonly cases: readonly Case[];
}

const casesCount = 40;
const slugChars = 80;

/** A run per file and a fixed number of cases, each with what must come out of it. */
export async function planWork(selected: readonly SelectedFile[]): Promise<WorkPlan> {
  const files = await Promise.all(
    selected.map(async (file, place): Promise<FileRun> => {
      const facts = await independentFacts(new Uint8Array(file.bytes));
      const slug = file.path.replaceAll(/[^A-Za-z0-9_-]+/g, "-").slice(-slugChars);
      const id = `file-${String(place + 1).padStart(4, "0")}-${slug}`;
      return { id, type: ingest.type, outputs: outputsOf(facts), file, reportRow: rowOf(file, facts) };
    }),
  );
  return { files, cases: planCases(casesCount) };
}

function outputsOf({ read, checksum, words }: FileFacts): Record<string, unknown> {
  return { read, checksum, words, report: { written: true } };
}

function rowOf(
  { path }: SelectedFile,
  { read, checksum, words }: FileFacts,
): Omit<ReportRow, "idempotencyKey"> {
  return { path, sha256: checksum, bytes: read.bytes, words: words.words };
}

/** Spreads the items of the shorter list evenly among those of the longer one; each list keeps its order. */
export function interleave<A, B>(some: readonly A[], others: readonly B[]): (A | B)[] {
  const placed = <T>(items: readonly T[]): { at: number; item: T }[] =>
    items.map((item, place) => ({ at: (place + 0.5) / items.length, item }));
  return [...placed<A | B>(some), ...placed<A | B>(others)]
    .toSorted((a, b) => a.at - b.at)
    .map(({ item }) => item);
}
