/** Laws D1 to D3 of `decide.ts` over random command sequences. */
import {
  evolve,
  initialRunState,
  isClosed,
  isMillraceError,
  toRow,
  validateEvent,
  type RunState,
} from "@millrace/schemas";
import fc from "fast-check";
import { expect, test } from "vitest";
import { decide, type Command, type Decision } from "./decide.ts";

const step = fc.record({ name: fc.constantFrom("a", "b"), occurrence: fc.constantFrom(1, 2) });
const token = fc.constantFrom("t1", "t2", "t3");
const now = fc.integer({ min: 0, max: 10_000 });
const command: fc.Arbitrary<Command> = fc.oneof(
  { weight: 6, arbitrary: fc.record({ kind: fc.constant("begin" as const), step, token, now }) },
  {
    weight: 6,
    arbitrary: fc.record({ kind: fc.constant("completeStep" as const), step, token, output: fc.jsonValue() }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constant("failStep" as const),
      step,
      token,
      now,
      random: fc.double({ min: 0, max: 0.99, noNaN: true }),
      error: fc.record({ message: fc.string(), retryable: fc.boolean() }),
    }),
  },
  fc.record({ kind: fc.constantFrom("cancel" as const, "terminate" as const), reason: fc.string() }),
  fc.record({ kind: fc.constant("complete" as const), output: fc.jsonValue() }),
  fc.record({ kind: fc.constant("fail" as const), error: fc.record({ message: fc.string() }) }),
);

function started(driver: "code" | "external"): RunState {
  const state = initialRunState("x", "t");
  return evolve(
    state,
    { type: "WorkflowStarted", data: { version: "1", input: null, driver } },
    { sequence: 1, at: 1 },
  );
}

/** A rejection decides nothing; anything but a rejection of ours is a bug. */
function decisionOf(state: RunState, asked: Command): Decision {
  try {
    return decide(state, asked);
  } catch (error) {
    if (!isMillraceError(error)) throw error;
    return { events: [] };
  }
}

test.each(["code", "external"] as const)("D1, D2, D3 hold for a run driven by %s", (driver) => {
  fc.assert(
    fc.property(fc.array(command, { maxLength: 30 }), (commands) => {
      const state = started(driver);
      let sequence = 1;
      for (const next of commands) {
        const closed = isClosed(state.status);
        const decision = decisionOf(state, next);
        if (decision.events.length === 0) continue;
        expect(closed, "D3").toBe(false);
        sequence++;
        for (const event of decision.events) {
          validateEvent(event); // D1
          evolve(state, event, { sequence, at: sequence });
        }
        expect(state.sequence).toBe(sequence);
        // D2, but for `begin`, which by design supersedes an attempt that has not ended.
        if (next.kind === "begin") continue;
        const before = JSON.stringify(toRow(state));
        expect(decide(state, next).events).toEqual([]);
        expect(JSON.stringify(toRow(state))).toBe(before);
      }
    }),
  );
});

test("a worker's run takes no driver command", () => {
  expect(() => decide(started("code"), { kind: "complete", output: 1 })).toThrow(/executed by a worker/);
});
