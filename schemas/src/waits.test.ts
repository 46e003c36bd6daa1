import { expect, test } from "vitest";
import type { WorkflowEvent } from "./events.ts";
import { limits } from "./limits.ts";
import { toRow } from "./row.ts";
import { evolveCommit, initialRunState } from "./run-state.ts";
import { waitsOf } from "./waits.ts";

/** One commit a second from second 1 on. */
function run(driver: "code" | "external", ...events: WorkflowEvent[]) {
  const state = initialRunState("r", "order");
  const started: WorkflowEvent = { type: "WorkflowStarted", data: { version: "1", driver } };
  for (const [n, event] of [started, ...events].entries())
    evolveCommit(state, { sequence: n + 1, at: (n + 1) * 1_000, events: [event] });
  return state;
}
const step = { name: "charge", occurrence: 2, attempt: 1 };

test("what a run of code waits for, longest first, with names as its code has them", () => {
  const state = run(
    "code",
    { type: "WaitStarted", data: { wait: "approve#1", signal: "approve", dueAt: 9_000 } },
    { type: "TimerStarted", data: { timer: "sleep#1", dueAt: 60_000 } },
    { type: "ChildWorkflowStarted", data: { child: "r-ship", type: "ship", onClose: "cancel" } },
    { type: "StepScheduled", data: { ...step, queue: "payments", token: "T" } },
    { type: "WaitStarted", data: { wait: "condition#1" } },
    {
      type: "StepRetryScheduled",
      data: { name: "mail", occurrence: 1, attempt: 1, error: { message: "no" }, nextAttemptAt: 70_000 },
    },
  );
  const none = { queue: null, worker: null };
  expect(waitsOf(state)).toEqual([
    { kind: "signal", name: "approve", since: 2_000, due: 9_000, ...none },
    { kind: "timer", name: "sleep#1", since: 3_000, due: 60_000, ...none },
    { kind: "child", name: "r-ship", since: 4_000, due: null, ...none },
    { kind: "task", name: "charge#2", since: 5_000, due: null, queue: "payments", worker: null },
    { kind: "condition", name: "condition#1", since: 6_000, due: null, ...none },
    { kind: "retry", name: "mail", since: null, due: 70_000, ...none },
  ]);
  evolveCommit(state, {
    sequence: 9,
    at: 9_000,
    events: [
      { type: "WaitSatisfied", data: { wait: "approve#1" } },
      { type: "TimerFired", data: { timer: "sleep#1" } },
      { type: "StepStarted", data: { ...step, token: "T", worker: "py-1" } },
      { type: "ChildWorkflowClosed", data: { child: "r-ship", status: "completed" } },
    ],
  });
  expect(waitsOf(state).map(({ kind, since, worker }) => [kind, since, worker])).toEqual([
    ["condition", 6_000, null],
    ["task", 9_000, "py-1"],
    ["retry", null, null],
  ]);
  expect(toRow(state).waits[1]).toEqual({
    kind: "task",
    name: "charge#2",
    since: "1970-01-01T00:00:09.000Z",
    due: null,
    queue: "payments",
    worker: "py-1",
  });
});

test("a closed run waits for nothing; a driver's open attempt is what its run waits for", () => {
  const begun: WorkflowEvent = { type: "StepStarted", data: { ...step, token: "T" } };
  expect(waitsOf(run("external", begun)).map(({ kind, name }) => [kind, name])).toEqual([
    ["driver", "charge#2"],
  ]);
  expect(waitsOf(run("external", begun, { type: "WorkflowTerminated", data: {} }))).toEqual([]);
});

test("a row shows a bounded number of them, and who holds the run", () => {
  const timers = Array.from({ length: limits.rowWaits + 5 }, (_, n): WorkflowEvent => ({
    type: "TimerStarted",
    data: { timer: `t${n}`, dueAt: 0 },
  }));
  const row = toRow(run("code", ...timers, { type: "WorkflowPaused", data: { by: "ada", reason: "audit" } }));
  expect(row.waits).toHaveLength(limits.rowWaits);
  expect(row).toMatchObject({
    status: "paused",
    paused: { by: "ada", reason: "audit" },
    run: 1,
    driver: "code",
  });
});
