import type { EventEntry } from "@millrace/schemas";
import fc from "fast-check";
import { expect, test } from "vitest";
import {
  initialSubscription,
  stepSubscription,
  type SubscriptionEffect,
  type SubscriptionEvent,
  type SubscriptionState,
} from "./subscription-machine.ts";
import { entry } from "./testing/scripted-server.ts";

/** Positions of the matching events: the log that all frames below speak of. */
const log = Array.from({ length: 60 }, (_unused, index) => 3 + index * 2 + (index % 5));

function between(p: number, s: number): EventEntry[] {
  return log.filter((sequence) => sequence > p && sequence <= s).map((sequence) => entry(sequence));
}

const sequence = fc.nat(140);
const span = fc.tuple(sequence, sequence).map(([a, b]) => ({ p: Math.min(a, b), s: Math.max(a, b) }));

/** Whatever a server may say that is true of the log, in any order. */
const truths: fc.Arbitrary<SubscriptionEvent> = fc.oneof(
  {
    weight: 6,
    arbitrary: span.map(({ p, s }) => ({ type: "chain", p, s, entries: between(p, s) }) as const),
  },
  {
    weight: 2,
    arbitrary: span
      .filter(({ p, s }) => between(p, s).length === 0)
      .map(({ p, s }) => ({ type: "chain", p, s, entries: null }) as const),
  },
  {
    weight: 2,
    arbitrary: sequence.map((s) => {
      const last = log.findLast((matching) => matching <= s);
      return { type: "heartbeat", s, last } as const;
    }),
  },
  sequence.map((s) => ({ type: "live", s }) as const),
  fc.constantFrom<SubscriptionEvent>(
    { type: "ready", epoch: "9f3a" },
    { type: "lost" },
    { type: "subbed", mode: "catchup", s: 0 },
    { type: "subbed", mode: "live", s: 0 },
    { type: "behind", why: "slow" },
    { type: "full" },
    { type: "drained" },
  ),
);

interface Run {
  readonly delivered: readonly number[];
  readonly state: SubscriptionState;
  readonly effects: readonly SubscriptionEffect[];
}

function run(events: readonly SubscriptionEvent[]): Run {
  let state = initialSubscription({ epoch: "9f3a", sequence: 0 });
  const delivered: number[] = [];
  const effects: SubscriptionEffect[] = [];
  for (const event of events) {
    const before = state.mark.position?.sequence ?? 0;
    const result = stepSubscription(state, event, { onGone: "error" });
    state = result.state;
    effects.push(...result.effects);
    for (const effect of result.effects) {
      if (effect.do !== "deliver") continue;
      for (const { item } of effect.items) if ("sequence" in item) delivered.push(item.sequence);
    }
    expect(state.mark.position?.sequence ?? 0, "I1: the position never moves back").toBeGreaterThanOrEqual(
      before,
    );
  }
  return { delivered, state, effects };
}

test("I1, I2, I3: whatever true frames come, what is delivered is the log up to the position, exactly", () => {
  fc.assert(
    fc.property(fc.array(truths, { maxLength: 80 }), (events) => {
      const { delivered, state } = run(events);
      const position = state.mark.position?.sequence ?? 0;
      expect(delivered).toEqual(log.filter((matching) => matching <= position));
    }),
    { numRuns: 500 },
  );
});

test("I3: every gap is counted, reported and asked for again from the position", () => {
  fc.assert(
    fc.property(fc.array(truths, { maxLength: 80 }), (events) => {
      const { effects } = run(events);
      for (const [index, effect] of effects.entries()) {
        if (effect.do !== "gap") continue;
        const [report, unsubscribe, next] = effects.slice(index + 1);
        expect(report).toMatchObject({ do: "report", breaks: 1 });
        expect(unsubscribe).toEqual({ do: "unsubscribe" });
        const again = { do: "subscribe", from: `9f3a.${effect.after.sequence}` };
        expect([again, { do: "reconnect", reason: expect.any(String) }]).toContainEqual(next);
      }
    }),
  );
});

test("I5: nothing happens after the end", () => {
  fc.assert(
    fc.property(fc.array(truths, { maxLength: 20 }), fc.array(truths, { maxLength: 20 }), (before, after) => {
      const ended = run([...before, { type: "close" }]);
      const later = run([...before, { type: "close" }, ...after, { type: "fail", error: new Error("late") }]);
      expect(later.state).toEqual(ended.state);
      expect(later.effects).toEqual(ended.effects);
    }),
  );
});
