import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { validateEvent } from "./commit.ts";
import type { EventType, WorkflowEvent } from "./events.ts";
import { evolve, evolveCommit, initialRunState, isClosed, runStatuses, type RunState } from "./run-state.ts";
import { initialRunPhase, phaseAfter, runPhaseOf } from "./run-phase.ts";
import { progressOf, toRow, toUpdate } from "./row.ts";

const step = {
  name: fc.constantFrom("reserve", "charge", "ship"),
  occurrence: fc.integer({ min: 1, max: 3 }),
};
const attempt = { ...step, attempt: fc.integer({ min: 1, max: 4 }) };
const error = fc.record({ message: fc.string(), code: fc.string() }, { requiredKeys: ["message"] });
const operator = fc.record({ reason: fc.string(), by: fc.string() }, { requiredKeys: [] });
/** As a commit is read: without -0, which JSON does not keep. */
const json = fc.json().map((text) => JSON.parse(JSON.stringify(JSON.parse(text))) as unknown);
const small = fc.integer({ min: 0, max: 9 });
const attributeValue = fc.oneof(fc.string(), small, fc.boolean());
/** Few, so that events hit what others began; one that JavaScript objects take for something else. */
const word = fc.constantFrom("a", "b", "c", "__proto__");
const onClose = fc.constantFrom("cancel" as const, "terminate" as const, "abandon" as const);
const run = fc.integer({ min: 2, max: 4 });
const optional = <T>(model: { [K in keyof T]: fc.Arbitrary<T[K]> }, ...requiredKeys: (keyof T)[]) =>
  fc.record(model, { requiredKeys });

const scheduledRun = fc.record({
  tick: small,
  id: word,
  kind: fc.constantFrom("tick" as const, "manual" as const, "backfill" as const),
});
const spec = fc.record({
  cron: fc.constantFrom(null, "0 3 * * *"),
  timeZone: fc.constant("UTC"),
  everyMs: fc.constant(null),
  startAt: fc.constant(null),
  endAt: fc.constant(null),
  jitterMs: small,
  overlap: fc.constantFrom(
    "skip" as const,
    "buffer-one" as const,
    "allow" as const,
    "cancel-previous" as const,
  ),
  catchUpWindowMs: small,
  workflow: fc.record({
    type: word,
    attributes: fc.constant({}),
    timeoutMs: fc.constantFrom(null, 1),
  }),
  note: fc.constant(null),
});
const memo = fc.record({
  specSequence: fc.constantFrom(null, 3),
  createdAt: small,
  commits: small,
  paused: fc.constantFrom(null, { since: 1, reason: null, by: null }),
  through: small,
  nextTickAt: fc.constantFrom(null, 7),
  nextDueAt: fc.constantFrom(null, 8),
  open: fc.array(scheduledRun, { maxLength: 2 }),
  waiting: fc.array(scheduledRun, { maxLength: 2 }),
  backfills: fc.constant([]),
  counts: fc.record({ triggered: small, skipped: small, missed: small }),
  recent: fc.constant([]),
  failure: fc.constant(null),
});

/** One arbitrary for each event type: a new type does not compile without one. */
const data = {
  WorkflowStarted: fc.record(
    {
      version: fc.string(),
      input: json,
      driver: fc.constantFrom("code", "external"),
      plan: fc.array(step.name, { maxLength: 4 }),
      attributes: fc.dictionary(fc.string(), attributeValue, { maxKeys: 2 }),
      timeoutMs: small,
      parent: fc.record({ id: word, child: word, onClose }),
    },
    { requiredKeys: ["version", "input", "driver"] },
  ),
  WorkflowCompleted: fc.record({ output: json }),
  WorkflowFailed: fc.record({ error }),
  WorkflowCancelRequested: operator,
  WorkflowCancelled: fc.record({ reason: fc.string() }, { requiredKeys: [] }),
  WorkflowTerminated: operator,
  WorkflowTurnFailed: fc.record({ error, step: fc.string() }, { requiredKeys: ["error"] }),
  WorkflowTimedOut: fc.record({ timeoutMs: small }),
  WorkflowContinuedAsNew: fc.record({ run }),
  WorkflowPaused: operator,
  WorkflowResumed: operator,
  WorkflowReset: optional(
    { run, kind: fc.constantFrom("reset", "retry"), partial: fc.boolean(), by: fc.string() },
    "run",
    "kind",
  ),
  WorkflowForked: optional({ from: word, partial: fc.boolean() }, "from"),
  HistoryCopied: fc.constant({}),
  WorkflowMigrated: fc.record({ from: word, to: word }),
  HistoryLimitApproached: fc.record({ commits: small, limit: small }),
  StepScheduled: optional(
    {
      ...attempt,
      queue: word,
      token: word,
      input: json,
      priority: small,
      scheduleToStartMs: small,
      startToCloseMs: small,
      heartbeatMs: small,
      retry: optional({ maxAttempts: small, factor: small }),
    },
    "name",
    "occurrence",
    "attempt",
    "queue",
    "token",
  ),
  StepCancelled: fc.record(step),
  TimerStarted: fc.record({ timer: word, dueAt: small }),
  TimerFired: fc.record({ timer: word }),
  TimerCancelled: fc.record({ timer: word }),
  SignalReceived: optional({ name: word, payload: json, id: word, by: fc.string() }, "name"),
  WaitStarted: optional({ wait: word, signal: word, dueAt: small }, "wait"),
  WaitSatisfied: fc.record({ wait: word }),
  WaitTimedOut: fc.record({ wait: word }),
  WaitCancelled: fc.record({ wait: word }),
  UpdateAccepted: optional({ id: word, name: word, input: json }, "id", "name"),
  UpdateCompleted: optional({ id: word, output: json, error }, "id"),
  ChildWorkflowStarted: optional(
    { child: word, type: word, input: json, onClose },
    "child",
    "type",
    "onClose",
  ),
  ChildWorkflowCancelRequested: fc.record({ child: word }),
  ChildWorkflowClosed: optional(
    { child: word, status: fc.constantFrom("completed", "failed", "refused"), output: json, error },
    "child",
    "status",
  ),
  AttributesUpserted: fc.record({
    attributes: fc.dictionary(fc.string(), fc.option(attributeValue), { maxKeys: 2 }),
  }),
  PatchRecorded: fc.record({ patch: word }),
  CompensationRegistered: fc.record(step),
  CompensationStarted: fc.record(step),
  CompensationCompleted: fc.record({ ...attempt, output: json }),
  CompensationFailed: fc.record({ ...attempt, error }),
  StepStarted: fc.record(
    { ...attempt, token: fc.string() },
    { requiredKeys: ["name", "occurrence", "attempt"] },
  ),
  StepCompleted: fc.record({ ...attempt, output: json }),
  StepFailed: fc.record({ ...attempt, error }),
  StepTimedOut: fc.record({ ...attempt, error }),
  StepRetryScheduled: fc.record({ ...attempt, error, nextAttemptAt: small }),
  ProgressReported: fc.record({ current: small, total: small, message: fc.string() }, { requiredKeys: [] }),
  SideEffectRecorded: fc.record({
    kind: fc.constant("now"),
    index: fc.integer({ min: 1, max: 5 }),
    value: small,
  }),
  ScheduleCreated: fc.record({ spec, input: json, memo }),
  ScheduleUpdated: fc.record({ spec, input: json, memo }),
  SchedulePaused: fc.record({ memo }),
  ScheduleResumed: fc.record({ memo }),
  ScheduleTriggered: fc.record({
    runs: fc.array(scheduledRun, { maxLength: 2 }),
    skipped: fc.constant([]),
    memo,
  }),
  ScheduleStartFailed: fc.record({ run: scheduledRun, error: fc.string(), memo }),
  ScheduleDeleted: fc.record({ memo }),
} satisfies Record<EventType, fc.Arbitrary<unknown>>;

const closing: ReadonlySet<string> = new Set([
  "WorkflowCompleted",
  "WorkflowFailed",
  "WorkflowCancelled",
  "WorkflowTerminated",
  "WorkflowTimedOut",
]);
const beginning: ReadonlySet<string> = new Set(["WorkflowReset", "WorkflowContinuedAsNew"]);
const event = fc
  // Rare, else most histories would be over after two events.
  .oneof(
    ...Object.keys(data).map((type) => ({
      arbitrary: fc.constant(type as EventType),
      weight: closing.has(type) || type.startsWith("Schedule") ? 1 : 8,
    })),
  )
  .chain((type) => data[type].map((value) => ({ type, data: value }) as WorkflowEvent));
const history = fc.array(fc.array(event, { minLength: 1, maxLength: 4 }), { maxLength: 20 }).map((commits) =>
  commits.map((events, index) => ({
    sequence: 3 * (index + 1),
    at: 1_700_000_000_000 + 10 * index,
    events,
  })),
);

function fold(
  commits: readonly { sequence: number; at: number; events: readonly WorkflowEvent[] }[],
): RunState {
  const state = initialRunState("order-1", "order");
  for (const commit of commits) evolveCommit(state, commit);
  return state;
}

describe("evolve", () => {
  test("the arbitrary makes events that the schemas accept", () => {
    fc.assert(
      fc.property(event, (each) => {
        expect(() => validateEvent(each)).not.toThrow();
      }),
    );
  });

  test("I1: is total: every sequence of events gives a state with a row", () => {
    fc.assert(
      fc.property(history, (commits) => {
        const state = fold(commits);
        expect(runStatuses).toContain(state.status);
        expect(state.sequence).toBe(commits.at(-1)?.sequence ?? 0);
        const row = toRow(state);
        expect(JSON.parse(JSON.stringify(row))).toEqual(row);
        expect(toUpdate(state)).toMatchObject({
          workflow_id: "order-1",
          current_step: row.currentStep,
          sequence: row.sequence,
        });
      }),
    );
  });

  test("I2: is deterministic, and does not keep or change what it was given", () => {
    fc.assert(
      fc.property(history, (commits) => {
        const before = JSON.stringify(commits);
        expect(fold(commits)).toEqual(fold(JSON.parse(before) as typeof commits));
        expect(JSON.stringify(commits)).toBe(before);
      }),
    );
  });

  test("projecting twice equals once, wherever the repetition begins", () => {
    fc.assert(
      fc.property(history, fc.nat(), (commits, from) => {
        const state = fold(commits);
        const once = JSON.stringify([toRow(state), state]);
        for (const commit of commits.slice(from % (commits.length + 1))) evolveCommit(state, commit);
        expect(JSON.stringify([toRow(state), state])).toBe(once);
      }),
    );
  });

  test("any split of the history into batches gives the same state", () => {
    fc.assert(
      fc.property(history, fc.nat(), (commits, at) => {
        const cut = at % (commits.length + 1);
        const state = fold(commits.slice(0, cut));
        toRow(state);
        for (const commit of commits.slice(cut)) evolveCommit(state, commit);
        expect(state).toEqual(fold(commits));
      }),
    );
  });

  test("R1: the status folded by itself is the status of the whole fold, from wherever it goes on", () => {
    const condition = fc.constantFrom(null, "running" as const, "handed-off" as const, "waiting" as const);
    fc.assert(
      fc.property(
        history,
        fc.array(condition, { minLength: 20, maxLength: 20 }),
        fc.nat(),
        (commits, said, at) => {
          const state = initialRunState("order-1", "order");
          let phase = initialRunPhase;
          for (const [n, commit] of commits.entries()) {
            const declared = { ...commit, condition: said[n] ?? null };
            if (n === at % 20) phase = runPhaseOf(state);
            evolveCommit(state, declared);
            phase = phaseAfter(phase, declared);
            expect(phase.status).toBe(state.status);
          }
          expect(phase).toEqual(runPhaseOf(state));
        },
      ),
      { numRuns: 500 },
    );
  });

  test("I3: a closed run never opens again but by a reset, and nothing of it changes but the sequence", () => {
    fc.assert(
      fc.property(history, fc.array(event, { minLength: 1 }), (commits, later) => {
        const state = fold(commits);
        evolve(state, { type: "WorkflowTerminated", data: {} }, { sequence: 100, at: 1_700_000_001_000 });
        expect(isClosed(state.status)).toBe(true);
        const row = toRow(state);
        const ordinary = later.filter(({ type }) => type !== "WorkflowReset");
        fc.pre(ordinary.length > 0);
        for (const each of ordinary) evolve(state, each, { sequence: 101, at: 1_700_000_002_000 });
        expect(toRow(state)).toEqual({ ...row, sequence: 101 });
        evolve(
          state,
          { type: "WorkflowReset", data: { run: 2, kind: "retry" } },
          { sequence: 102, at: 1_700_000_003_000 },
        );
        expect(state).toMatchObject({ status: "running", run: 2, closedAt: null, startAwaited: true });
      }),
    );
  });

  test("I4: a step's first outcome stands", () => {
    fc.assert(
      fc.property(fc.array(event), (later) => {
        const state = initialRunState("order-1", "order");
        const done = { name: "charge", occurrence: 1, attempt: 1, output: "paid" };
        evolve(state, { type: "StepCompleted", data: done }, { sequence: 1, at: 1 });
        const first = { ...state.steps.get("charge") };
        for (const each of later) {
          // A new run number has its own steps.
          if (!beginning.has(each.type)) evolve(state, each, { sequence: 2, at: 2 });
        }
        expect(state.steps.get("charge")).toEqual(first);
      }),
    );
  });

  test("progress never shows more steps begun than planned, unless the run says so itself", () => {
    fc.assert(
      fc.property(history, (commits) => {
        const state = fold(commits);
        fc.pre(state.progressCount === 0);
        const { currentStep, totalSteps } = progressOf(state);
        expect(currentStep).toBeLessThanOrEqual(totalSteps);
        expect(totalSteps).toBeGreaterThanOrEqual(state.plan.length);
        expect(state.status !== "completed" || currentStep === totalSteps).toBe(true);
      }),
    );
  });
});
