import { isoTime, type WorkflowRow } from "@millrace/schemas";
import { describe, expect, it } from "vitest";
import { checkRuns, type ExpectedRun } from "./check-runs.ts";
import type { LoggedEvent } from "./compare-stream.ts";

const run: ExpectedRun = { id: "file-1", type: "ingest", outputs: { checksum: "abc", words: { words: 3 } } };
const log: readonly LoggedEvent[] = [
  event(1, "WorkflowStarted", {}),
  event(2, "StepCompleted", { name: "checksum", occurrence: 1, attempt: 1, output: "abc" }),
  event(3, "StepCompleted", { name: "words", occurrence: 1, attempt: 1, output: { words: 3 } }),
  event(4, "WorkflowCompleted", {}),
];

describe("checkRuns", () => {
  it("finds nothing wrong with a run that was recorded once and as computed", () => {
    expect(checkRuns([run], log, [row()])).toEqual({ steps: 2, problems: [] });
  });

  it("notices a wrong checksum in the log", () => {
    const wrong = log.with(1, event(2, "StepCompleted", { name: "checksum", output: "abd" }));
    expect(checkRuns([run], wrong, [row()]).problems).toEqual([
      `The log's step checksum of file-1 is "abd"; the independent computation gives "abc".`,
    ]);
  });

  it("notices a wrong checksum in the read model", () => {
    expect(checkRuns([run], log, [row({ checksum: "abd" })]).problems).toEqual([
      `The read model's step checksum of file-1 is "abd"; the independent computation gives "abc".`,
    ]);
  });

  it("notices a wrong word count", () => {
    expect(checkRuns([run], log, [row({ words: { words: 4 } })]).problems).toHaveLength(1);
  });

  it("notices a step that was recorded twice, or not at all", () => {
    const step = event(5, "StepCompleted", { name: "words", output: { words: 3 } });
    expect(checkRuns([run], [...log, step], [row()]).problems).toEqual([
      "The log has step words of file-1 recorded 2 times, not once.",
    ]);
    expect(checkRuns([run], log.toSpliced(2, 1), [row()]).problems).toEqual([
      "The log has step words of file-1 recorded 0 times, not once.",
    ]);
  });

  it("notices a run that ended twice, did not end, or nobody started", () => {
    const end = event(6, "WorkflowCompleted", {});
    expect(checkRuns([run], [...log, end], [row()]).problems).toEqual([
      "The log has 2 WorkflowCompleted of file-1, not 1.",
    ]);
    expect(checkRuns([run], log.slice(0, 3), [row({}, "running")]).problems).toEqual([
      "The log has 0 WorkflowCompleted of file-1, not 1.",
      "The read model has file-1 as running, not as completed.",
    ]);
    expect(checkRuns([], log, [row()]).problems).toEqual([
      "The log has a run file-1 that nobody started.",
      "The read model has a run file-1 that nobody started.",
    ]);
  });

  it("notices a run that the read model lacks or has twice", () => {
    expect(checkRuns([run], log, []).problems).toEqual(["The read model has 0 rows of file-1, not 1."]);
    expect(checkRuns([run], log, [row(), row()]).problems).toEqual([
      "The read model has 2 rows of file-1, not 1.",
    ]);
  });
});

function event(sequence: number, type: string, data: object): LoggedEvent {
  return { sequence, index: 0, type, workflowId: "file-1", at: isoTime(0), data: JSON.stringify(data) };
}

function row(
  outputs: Readonly<Record<string, unknown>> = {},
  status: WorkflowRow["status"] = "completed",
): WorkflowRow {
  const at = isoTime(0);
  return {
    id: "file-1",
    type: "ingest",
    version: "1",
    status,
    currentStep: 2,
    totalSteps: 2,
    message: "",
    input: null,
    output: null,
    error: null,
    attributes: {},
    run: 1,
    driver: "code",
    paused: null,
    cancelRequested: false,
    copying: false,
    plan: [],
    waits: [],
    startedAt: at,
    updatedAt: at,
    closedAt: at,
    sequence: 4,
    steps: Object.entries({ ...run.outputs, ...outputs }).map(([name, output]) => ({
      name,
      occurrence: 1,
      status: "completed",
      attempt: 1,
      startedAt: at,
      completedAt: at,
      output,
      error: null,
    })),
  };
}
