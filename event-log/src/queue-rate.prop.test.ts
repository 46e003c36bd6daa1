import fc from "fast-check";
import { expect, test } from "vitest";
import { rateOf, tokenDelayMs, tokensAt, usedUntilAfter } from "./queue-rate.ts";

const rate = fc.record({
  perS: fc.double({ min: 0.01, max: 10_000, noNaN: true }),
  burst: fc.integer({ min: 1, max: 500 }),
});
/** Workers that come at random times and want random numbers. */
const wants = fc.array(
  fc.record({ afterMs: fc.integer({ min: 0, max: 5_000 }), count: fc.integer({ min: 1, max: 100 }) }),
  { minLength: 1, maxLength: 60 },
);

test("Q4: in every span at most the burst and what the rate gives in it, and nobody is refused for ever", () => {
  fc.assert(
    fc.property(rate, wants, (limit, asked) => {
      let now = 1_700_000_000_000;
      let usedUntil = 0;
      const begun: { at: number; count: number }[] = [];
      for (const { afterMs, count } of asked) {
        now += afterMs;
        const granted = Math.min(count, tokensAt(limit, usedUntil, now));
        usedUntil = usedUntilAfter(limit, usedUntil, now, granted);
        begun.push({ at: now, count: granted });
        const delayMs = tokenDelayMs(limit, usedUntil, now);
        expect(tokensAt(limit, usedUntil, now + delayMs)).toBeGreaterThan(0);
        expect(tokensAt(limit, usedUntil, now) > 0).toBe(delayMs === 0);
      }
      for (const [i, first] of begun.entries()) {
        let sum = 0;
        for (const { at, count } of begun.slice(i)) {
          sum += count;
          expect(sum).toBeLessThanOrEqual(limit.burst + ((at - first.at) * limit.perS) / 1_000 + 0.1);
        }
      }
    }),
  );
});

test("the burst is what a second allows, at least one, unless it is given", () => {
  expect(rateOf({ ratePerS: null, burst: 5 })).toBeNull();
  expect(rateOf({ ratePerS: 10, burst: null })).toEqual({ perS: 10, burst: 10 });
  expect(rateOf({ ratePerS: 0.2, burst: null })).toEqual({ perS: 0.2, burst: 1 });
  expect(rateOf({ ratePerS: 10, burst: 2 })).toEqual({ perS: 10, burst: 2 });
});
