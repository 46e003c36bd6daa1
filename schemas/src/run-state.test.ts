import { describe, expect, test } from "vitest";
import type { WorkflowEvent } from "./events.ts";
import { evolve, initialRunState, type RunState } from "./run-state.ts";
import { progressOf, toRow } from "./row.ts";

const started: WorkflowEvent = {
  type: "WorkflowStarted",
  data: { version: "2", input: { total: 12 }, driver: "code", plan: ["reserve", "charge", "ship"] },
};

function fold(...events: WorkflowEvent[]): RunState {
  const state = initialRunState("order-1", "order");
  for (const [index, event] of events.entries())
    evolve(state, event, { sequence: index + 1, at: 1_000 * (index + 1) });
  return state;
}

describe("evolve", () => {
  test("a run starts with its plan, and only once", () => {
    const state = fold(started, {
      type: "WorkflowStarted",
      data: { version: "3", input: null, driver: "external" },
    });
    expect(toRow(state)).toMatchObject({
      status: "running",
      version: "2",
      input: { total: 12 },
      currentStep: 0,
      totalSteps: 3,
      startedAt: "1970-01-01T00:00:01.000Z",
      sequence: 2,
    });
  });

  test("a step that fails, retries and completes keeps its number of attempts", () => {
    const ref = { name: "charge", occurrence: 1 };
    const error = { message: "card declined" };
    const state = fold(started, {
      type: "StepRetryScheduled",
      data: { ...ref, attempt: 1, error, nextAttemptAt: 9_000 },
    });
    expect(state.steps.get("charge")).toMatchObject({
      status: "retrying",
      attempt: 1,
      nextAttemptAt: 9_000,
      error,
    });
    expect(state.message).toBe("Step charge failed, attempt 2 follows: card declined");
    evolve(state, { type: "StepStarted", data: { ...ref, attempt: 2 } }, { sequence: 3, at: 9_000 });
    expect(state.steps.get("charge")).toMatchObject({ status: "started", attempt: 2, nextAttemptAt: null });
    evolve(
      state,
      { type: "StepCompleted", data: { ...ref, attempt: 2, output: 1 } },
      { sequence: 4, at: 9_500 },
    );
    expect(toRow(state).steps).toEqual([
      {
        name: "charge",
        occurrence: 1,
        status: "completed",
        attempt: 2,
        startedAt: "1970-01-01T00:00:09.000Z",
        completedAt: "1970-01-01T00:00:09.500Z",
        output: 1,
        error: null,
      },
    ]);
  });

  test("an output that is undefined is stored as null", () => {
    const data = JSON.parse('{"name":"a","occurrence":1,"attempt":1}') as {
      name: string;
      occurrence: number;
      attempt: number;
    };
    const state = fold(started, { type: "StepCompleted", data: { ...data, output: undefined } });
    expect(state.steps.get("a")?.output).toBeNull();
  });

  test("a stuck run goes on with its own progress, not with facts from outside", () => {
    const stuck: WorkflowEvent = { type: "WorkflowTurnFailed", data: { error: { message: "step renamed" } } };
    const state = fold(started, stuck, { type: "WorkflowCancelRequested", data: { reason: "typo" } });
    expect(state).toMatchObject({
      status: "stuck",
      error: { message: "step renamed" },
      cancelRequested: { reason: "typo" },
    });
    evolve(
      state,
      { type: "StepCompleted", data: { name: "reserve", occurrence: 1, attempt: 1, output: null } },
      { sequence: 4, at: 4_000 },
    );
    expect(state).toMatchObject({ status: "running", error: null });
  });

  test("values of now() count from 1 and leave no gap", () => {
    const now = (index: number, value: number): WorkflowEvent => ({
      type: "SideEffectRecorded",
      data: { kind: "now", index, value },
    });
    expect(fold(started, now(1, 10), now(3, 30), now(2, 20), now(2, 21)).nowValues).toEqual([10, 20]);
  });
});

describe("progressOf", () => {
  const step = (name: string): WorkflowEvent => ({
    type: "StepCompleted",
    data: { name, occurrence: 1, attempt: 1, output: null },
  });

  test("counts steps begun against the plan, and grows with what was not planned", () => {
    expect(progressOf(fold(started, step("reserve")))).toEqual({ currentStep: 1, totalSteps: 3 });
    const more = ["reserve", "charge", "ship", "thank"].map(step);
    expect(progressOf(fold(started, ...more))).toEqual({ currentStep: 4, totalSteps: 4 });
  });

  test("is overridden by what the run reports, and complete at completion", () => {
    const reported: WorkflowEvent = {
      type: "ProgressReported",
      data: { current: 40, total: 100, message: "Copying" },
    };
    expect(progressOf(fold(started, reported))).toEqual({ currentStep: 40, totalSteps: 100 });
    const completed: WorkflowEvent = { type: "WorkflowCompleted", data: { output: null } };
    expect(progressOf(fold(started, reported, completed))).toEqual({ currentStep: 100, totalSteps: 100 });
  });
});
