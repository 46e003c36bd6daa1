import { evolveCommit, initialRunState, isoTime, type RunState, type WorkflowEvent } from "@millrace/schemas";
import { expect, test } from "vitest";
import { decide } from "./decide.ts";

const step = { name: "check", occurrence: 1 };
const error = { message: "no" };

/** A run that a driver drives, after these events. */
function driven(...events: WorkflowEvent[]): RunState {
  const started: WorkflowEvent = {
    type: "WorkflowStarted",
    data: { version: "1", input: null, driver: "external" },
  };
  return evolveCommit(initialRunState("case-1", "permit"), {
    sequence: 1,
    at: 0,
    events: [started, ...events],
  });
}

test("begin before the next attempt is due says until when to wait, and records nothing; then it executes", () => {
  const retrying = driven(
    { type: "StepStarted", data: { ...step, attempt: 1, token: "t1" } },
    { type: "StepRetryScheduled", data: { ...step, attempt: 1, error, nextAttemptAt: 5_000 } },
  );
  const early = decide(retrying, { kind: "begin", step, token: "t2", now: 4_999 });
  expect(early).toEqual({ events: [], begin: { outcome: "wait", until: isoTime(5_000), sequence: 1 } });
  const due = decide(retrying, { kind: "begin", step, token: "t2", now: 5_000 });
  expect(due.begin).toMatchObject({ outcome: "execute", attempt: 2, token: "t2" });
  expect(due.events).toHaveLength(1);
});

test.each([
  [1, 1, "StepFailed"],
  [2, 1, "StepRetryScheduled"],
  [2, 2, "StepFailed"],
  [undefined, 2, "StepRetryScheduled"],
  [undefined, 3, "StepFailed"],
])("with maxAttempts %s given to begin, the failure of attempt %i is %s", (maxAttempts, attempt, type) => {
  const running = driven({
    type: "StepStarted",
    data: { ...step, attempt, token: "t", ...(maxAttempts === undefined ? {} : { maxAttempts }) },
  });
  const { events } = decide(running, { kind: "failStep", step, token: "t", error, now: 0, random: 0.5 });
  expect(events.map((event) => event.type)).toEqual([type]);
});

test("begin records the maxAttempts that it was given", () => {
  const { events } = decide(driven(), { kind: "begin", step, token: "t", now: 0, maxAttempts: 7 });
  expect(events[0]).toMatchObject({ type: "StepStarted", data: { maxAttempts: 7 } });
});
