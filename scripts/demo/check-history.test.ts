import { describe, expect, it } from "vitest";
import { checkHistory, type HistoryCommit } from "./check-history.ts";
import { checkReport } from "./check-report.ts";

const first = commit(1);
const second = commit(2);
const third = commit(5);
const log = [first, second, third];

describe("checkHistory", () => {
  it("finds nothing wrong with a copy", () => {
    expect(checkHistory(log, structuredClone(log))).toEqual([]);
  });

  it.each<readonly [string, readonly HistoryCommit[]]>([
    ["lacks commit c2 of run-1 at sequence 2", [first, third]],
    ["has commit c2 of run-1 at sequence 2 2 times", [first, second, second, third]],
    ["has commit c5 of run-1 at sequence 5 with another content", [first, second, { ...third, body: "{}" }]],
    ["has sequence 7; the log does not", [...log, commit(7)]],
    ["is out of order at sequence 1", [second, first, third]],
  ])("notices that it %s", (sentence, history) => {
    expect(checkHistory(log, history)).toEqual([`The history in SQLite ${sentence}.`]);
  });
});

describe("checkReport", () => {
  const wanted = { path: "a.md", sha256: "ff", bytes: 2, words: 1 };
  const row = { ...wanted, idempotencyKey: "file-1/1/report#1" };

  it("finds nothing wrong with one row per file", () => {
    expect(checkReport([wanted], [row])).toEqual([]);
  });

  it.each([
    ["The report has 0 rows of a.md, not 1.", []],
    ["The report has 2 rows of a.md, not 1.", [row, { ...row, idempotencyKey: "file-1/1/report#2" }]],
    ["The report has a row of b.md, which is none of the files.", [row, { ...row, path: "b.md" }]],
    ["The report's row of a.md is", [{ ...row, sha256: "fe" }]],
  ])("notices: %s", (sentence, rows) => {
    expect(checkReport([wanted], rows)).toEqual([expect.stringContaining(sentence)]);
  });
});

function commit(sequence: number): HistoryCommit {
  const body = JSON.stringify({ v: 1, events: [{ type: "WorkflowStarted", data: { sequence } }] });
  return {
    sequence,
    commitId: `c${sequence}`,
    workflowId: "run-1",
    type: "ingest",
    at: 1_000 + sequence,
    body,
  };
}
