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
const token = fc.constantFrom("t1", "t1~2", "t1~3", "t2", "t2~3", "t3");
const messageToken = fc.constantFrom("t1", "t2", "t3", "t4");
const action = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record({ kind: fc.constant("start" as const), token: messageToken, delivery: fc.nat(3) }),
  },
  {
    weight: 3,
    arbitrary: fc.record({ kind: fc.constant("complete" as const), token, output: fc.jsonValue() }),
  },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant("fail" as const), token, retryable: fc.boolean() }) },
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

test("A1, A2, A3: at most so many attempts, each begun once, one outcome, and repetitions change nothing", () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 4 }),
      fc.array(action, { maxLength: 40 }),
      (maxAttempts, actions) => {
        const world = scheduled(maxAttempts);
        const { state } = world;
        const begun: string[] = [];
        let outcomes = 0;
        let fresh = 1;
        for (const next of actions) {
          const now = state.steps.get(stepKey("charge", 1));
          // What the owner does: the next attempt gets a token of its own.
          if (now?.status === "retrying") {
            record(world, [
              {
                type: "StepScheduled",
                data: { ...step, attempt: now.attempt + 1, queue: "payments", token: `t${++fresh}` },
              },
            ]);
          }
          switch (next.kind) {
            case "start": {
              const given = { step, token: next.token, worker: "w", delivery: next.delivery + 1 };
              const decision = startTask(state, given);
              if (decision.outcome === "run") {
                expect(isClosed(state.status)).toBe(false);
                begun.push(decision.token);
                if (decision.token !== next.token) fresh++;
              }
              if (decision.outcome === "dead" && decision.events.length > 0) outcomes++;
              record(world, decision.events);
              // The same message again, for somebody else, while this one works.
              if (decision.outcome === "run")
                expect(startTask(state, { ...given, delivery: 1 }).outcome).toBe("drop");
              break;
            }
            case "complete": {
              const decision = unlessRefused(() =>
                completeTask(state, { step, token: next.token, output: next.output }),
              );
              if (decision === null) break;
              outcomes += decision.events.length;
              record(world, decision.events);
              expect(completeTask(state, { step, token: next.token, output: 0 }).events).toEqual([]);
              break;
            }
            case "fail": {
              const command = {
                step,
                token: next.token,
                error: { message: "no", retryable: next.retryable },
              };
              const failed = unlessRefused(() =>
                failTask(state, { ...command, retryAfterMs: null, now: 0, random: 0 }),
              );
              if (failed === null) break;
              if (failed.events.length > 0 && failed.final) outcomes++;
              record(world, failed.events);
              const again = failTask(state, { ...command, retryAfterMs: null, now: 9, random: 0 });
              expect(again).toMatchObject({
                events: [],
                final: failed.final,
                nextAttemptAt: failed.nextAttemptAt,
              });
              break;
            }
            case "cancel":
              record(world, [{ type: "WorkflowCancelRequested", data: {} }]);
              break;
            case "close":
              record(world, [{ type: "WorkflowTerminated", data: {} }]);
              break;
          }
        }
        expect(new Set(begun).size).toBe(begun.length);
        expect(begun.length).toBeLessThanOrEqual(maxAttempts);
        expect(outcomes).toBeLessThanOrEqual(1);
        expect(state.steps.get("charge")?.attempt).toBeLessThanOrEqual(maxAttempts);
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

test("a delay that the worker asks for is kept to, a failure that must not be retried is final", () => {
  const world = scheduled(3);
  record(world, [{ type: "StepStarted", data: { ...step, attempt: 1, token: "t1" } }]);
  const command = {
    step,
    token: "t1",
    error: { message: "busy" },
    retryAfterMs: 7_000,
    now: 1_000,
    random: 0.5,
  };
  expect(failTask(world.state, command)).toMatchObject({ final: false, nextAttemptAt: 8_000 });
  expect(failTask(world.state, { ...command, error: { message: "no", retryable: false } })).toMatchObject({
    final: true,
    events: [{ type: "StepFailed" }],
  });
});
