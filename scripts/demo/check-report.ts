import { groupBy } from "./group-by.ts";
import type { ReportRow } from "./report-rows.ts";

/** The report has exactly one row for each file, with these values. One sentence for each difference. */
export function checkReport(
  expected: readonly Omit<ReportRow, "idempotencyKey">[],
  rows: readonly ReportRow[],
): string[] {
  const problems: string[] = [];
  const byPath = groupBy(rows, ({ path }) => path);
  for (const wanted of expected) {
    const { path } = wanted;
    const [row, ...more] = byPath.get(path) ?? [];
    byPath.delete(path);
    if (row === undefined || more.length > 0) {
      problems.push(`The report has ${row === undefined ? 0 : more.length + 1} rows of ${path}, not 1.`);
    } else if (row.sha256 !== wanted.sha256 || row.bytes !== wanted.bytes || row.words !== wanted.words) {
      problems.push(`The report's row of ${path} is ${JSON.stringify(row)}, not ${JSON.stringify(wanted)}.`);
    }
  }
  for (const path of byPath.keys())
    problems.push(`The report has a row of ${path}, which is none of the files.`);
  return problems;
}
