/** Laws A1 to A3 of `decide-task.ts`, over random sequences of what owners, workers and zombies do. */
import {
  evolve,
  initialRunState,
  isClosed,
  isMillraceError,
  stepKey,
  validateEvent,
  type RunState,
  type WorkflowEvent,
} from "@millrace/schemas";
import fc from "fast-check";
import { expect, test } from "vitest";
import { completeTask, failTask, isTaskUnwanted, startTask } from "./decide-task.ts";

const step = { name: "charge", occurrence: 1 };
const attemptToken = fc.constantFrom("t1", "t1~2", "t1~3", "t2", "t2~3", "t3");
const messageToken = fc.constantFrom("t1", "t2", "t3", "t4");
const action = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record({ kind: fc.constant("start" as const), token: messageToken, delivery: fc.nat(3) }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constant("complete" as const),
      token: attemptToken,
      output: fc.jsonValue(),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constant("fail" as const),
      token: attemptToken,
      retryable: fc.boolean(),
    }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constantFrom("cancel" as const, "close" as const) }) },
);

interface World {
  readonly state: RunState;
  sequence: number;
}

function record(world: World, events: readonly WorkflowEvent[]): void {
  if (events.length === 0) return;
  world.sequence++;
  for (const event of events) {
    validateEvent(event);
    evolve(world.state, event, { sequence: world.sequence, at: world.sequence });
  }
}

/** A run whose first attempt is in the queue under t1. */
function scheduled(maxAttempts: number): World {
  const world: World = { state: initialRunState("order-1", "order"), sequence: 0 };
  record(world, [{ type: "WorkflowStarted", data: { version: "1", input: null, driver: "code" } }]);
  record(world, [
    {
      type: "StepScheduled",
      data: { ...step, attempt: 1, queue: "payments", token: "t1", retry: { maxAttempts, jitter: "none" } },
    },
  ]);
  return world;
}

function unlessRefused<T>(act: () => T): T | null {
  try {
    return act();
  } catch (error) {
    if (!isMillraceError(error)) throw error;
    return null;
  }
}

interface Played {
  /** Tokens of the attempts that were begun, in order. */
  readonly begun: string[];
  outcomes: number;
  /** Of the last message. */
  fresh: number;
}

function start(world: World, played: Played, token: string, delivery: number): void {
  const { state } = world;
  const closed = isClosed(state.status);
  const command = { step, token, worker: "w", delivery };
  const decision = startTask(state, command);
  record(world, decision.events);
  if (decision.outcome === "dead") played.outcomes += decision.events.length;
  if (decision.outcome !== "run") return;
  expect(closed).toBe(false);
  played.begun.push(decision.token);
  // The same message again, while this one works.
  expect(startTask(state, { ...command, delivery: 1 }).outcome).toBe("drop");
}

function complete(world: World, played: Played, token: string, output: unknown): void {
  const decision = unlessRefused(() => completeTask(world.state, { step, token, output }));
  if (decision === null) return;
  played.outcomes += decision.events.length;
  record(world, decision.events);
  expect(completeTask(world.state, { step, token, output: 0 }).events).toEqual([]);
}

function fail(world: World, played: Played, token: string, retryable: boolean): void {
  const command = { step, token, error: { message: "no", retryable }, retryAfterMs: null, timedOut: false };
  const failed = unlessRefused(() => failTask(world.state, { ...command, now: 0, random: 0 }));
  if (failed === null) return;
  if (failed.final) played.outcomes += failed.events.length;
  record(world, failed.events);
  const again = failTask(world.state, { ...command, now: 9, random: 0 });
  expect(again).toMatchObject({ events: [], final: failed.final, nextAttemptAt: failed.nextAttemptAt });
}

/** What the owner does: the next attempt gets a token of its own. */
function scheduleNext(world: World, played: Played): void {
  const now = world.state.steps.get(stepKey("charge", 1));
  if (now?.status !== "retrying") return;
  const next = { ...step, attempt: now.attempt + 1, queue: "payments", token: `t${++played.fresh}` };
  record(world, [{ type: "StepScheduled", data: next }]);
}

test("A1, A2, A3: at most so many attempts, each begun once, one outcome, and repetitions change nothing", () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 4 }),
      fc.array(action, { maxLength: 40 }),
      (maxAttempts, actions) => {
        const world = scheduled(maxAttempts);
        const played: Played = { begun: [], outcomes: 0, fresh: 1 };
        for (const next of actions) {
          scheduleNext(world, played);
          switch (next.kind) {
            case "start":
              start(world, played, next.token, next.delivery + 1);
              break;
            case "complete":
              complete(world, played, next.token, next.output);
              break;
            case "fail":
              fail(world, played, next.token, next.retryable);
              break;
            case "cancel":
              record(world, [{ type: "WorkflowCancelRequested", data: {} }]);
              break;
            case "close":
              record(world, [{ type: "WorkflowTerminated", data: {} }]);
              break;
          }
        }
        expect(new Set(played.begun).size).toBe(played.begun.length);
        expect(played.begun.length).toBeLessThanOrEqual(maxAttempts);
        expect(played.outcomes).toBeLessThanOrEqual(1);
        expect(world.state.steps.get("charge")?.attempt).toBeLessThanOrEqual(maxAttempts);
      },
    ),
  );
});

test("a message whose worker is lost begins the next attempt, and after the last one fails the step", () => {
  const world = scheduled(3);
  const message = { step, token: "t1" };
  record(world, startTask(world.state, { ...message, worker: "a", delivery: 1 }).events);
  for (const [delivery, worker] of [
    [2, "b"],
    [3, "c"],
  ] as const) {
    const next = startTask(world.state, { ...message, worker, delivery });
    expect(next).toMatchObject({ outcome: "run", attempt: delivery, token: `t1~${delivery}` });
    record(world, next.events);
    expect(() => completeTask(world.state, { ...message, output: 1 })).toThrow(/attempt under way/);
  }
  const last = startTask(world.state, { ...message, worker: "d", delivery: 4 });
  expect(last).toMatchObject({ outcome: "dead", reason: "Attempt 3 was lost: c gave no sign of life." });
  record(world, last.events);
  expect(world.state.steps.get("charge")).toMatchObject({ status: "failed", error: { code: "task_lost" } });
  // The worker that wrote it may die before the dead letter is kept: the message tells the next one.
  const after = startTask(world.state, { ...message, worker: "e", delivery: 5 });
  expect(after).toMatchObject({ outcome: "dead", events: [] });
});

test("a worker learns that it is not wanted: a cancel, a cancelled step, a closed run; a stale one is refused", () => {
  const begun = (): World => {
    const world = scheduled(3);
    record(world, [{ type: "StepStarted", data: { ...step, attempt: 1, token: "t1", worker: "a" } }]);
    return world;
  };
  expect(isTaskUnwanted(begun().state, { step, token: "t1" })).toBe(false);
  expect(() => isTaskUnwanted(begun().state, { step, token: "t9" })).toThrow(/not that of the attempt/);
  const events: WorkflowEvent[] = [
    { type: "WorkflowCancelRequested", data: {} },
    { type: "StepCancelled", data: step },
    { type: "WorkflowCompleted", data: {} },
  ];
  for (const event of events) {
    const world = begun();
    record(world, [event]);
    expect(isTaskUnwanted(world.state, { step, token: "t1" }), event.type).toBe(true);
  }
});

test("a paused run holds what did not begin; what is under way ends", () => {
  const world = scheduled(3);
  const message = { step, token: "t1", worker: "a", delivery: 1 };
  record(world, [{ type: "WorkflowPaused", data: {} }]);
  expect(startTask(world.state, message)).toEqual({ events: [], outcome: "hold" });
  record(world, [{ type: "WorkflowResumed", data: {} }]);
  record(world, startTask(world.state, message).events);
  record(world, [{ type: "WorkflowPaused", data: {} }]);
  expect(startTask(world.state, { ...message, delivery: 2 }).outcome).toBe("hold");
  expect(completeTask(world.state, { ...message, output: 1 }).events).toHaveLength(1);
});

test("a delay that the worker asks for is kept to, a failure that must not be retried is final", () => {
  const world = scheduled(3);
  record(world, [{ type: "StepStarted", data: { ...step, attempt: 1, token: "t1" } }]);
  const command = {
    step,
    token: "t1",
    error: { message: "busy" },
    retryAfterMs: 7_000,
    timedOut: false,
    now: 1_000,
    random: 0.5,
  };
  expect(failTask(world.state, command)).toMatchObject({ final: false, nextAttemptAt: 8_000 });
  expect(failTask(world.state, { ...command, error: { message: "no", retryable: false } })).toMatchObject({
    final: true,
    events: [{ type: "StepFailed" }],
  });
});
