import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { DueTimers, type Clock } from "./due-timers.ts";

/** A clock that stands still until told, and counts the timers of the system. */
function manualClock() {
  let nowMs = 0;
  let wakeAt: { at: number; callback: () => void } | null = null;
  let armed = 0;
  const clock: Clock = {
    now: () => nowMs,
    wake(delayMs, callback) {
      armed++;
      const mine = { at: nowMs + delayMs, callback };
      wakeAt = mine;
      return () => {
        if (wakeAt !== mine) return;
        armed--;
        wakeAt = null;
      };
    },
  };
  return {
    clock,
    armed: () => armed,
    advanceTo(ms: number) {
      while (wakeAt !== null && wakeAt.at <= ms) {
        const { at, callback } = wakeAt;
        wakeAt = null;
        armed--;
        nowMs = Math.max(nowMs, at);
        callback();
      }
      nowMs = ms;
    },
  };
}

describe("DueTimers", () => {
  test("what is cancelled long before its time is let go", () => {
    const time = manualClock();
    const timers = new DueTimers(time.clock);
    let fired = 0;
    timers.add(1, () => fired++);
    for (let i = 0; i < 5_000; i++) timers.add(1_000 + i, () => undefined)();
    expect(timers.size).toBeLessThan(2_100);
    for (let i = 0; i < 10; i++) timers.add(2_000 - i, () => fired++);
    time.advanceTo(10_000);
    expect([fired, timers.size]).toEqual([11, 0]);
  });

  test("I1 fires each timer once, in order of time, never early, and not after cancel; I2 one timer of the system", () => {
    fc.assert(
      fc.property(
        fc.array(fc.record({ at: fc.nat(1_000), cancel: fc.boolean() }), { maxLength: 60 }),
        (wanted) => {
          const time = manualClock();
          const timers = new DueTimers(time.clock);
          const fired: number[] = [];
          const cancels = wanted.map(({ at }) =>
            timers.add(at, () => {
              expect(time.clock.now()).toBeGreaterThanOrEqual(at);
              fired.push(at);
            }),
          );
          for (const [index, { cancel }] of wanted.entries()) if (cancel) cancels[index]?.();
          expect(time.armed()).toBeLessThanOrEqual(1);
          for (let ms = 0; ms <= 1_000; ms += 37) time.advanceTo(ms);
          time.advanceTo(1_000);
          expect(fired).toEqual(
            wanted
              .filter(({ cancel }) => !cancel)
              .map(({ at }) => at)
              .toSorted((a, b) => a - b),
          );
          expect(time.armed()).toBe(0);
        },
      ),
    );
  });

  test("waits for years in pieces that the system's timer can hold", () => {
    const time = manualClock();
    const timers = new DueTimers(time.clock);
    const yearsMs = 5 * 365 * 86_400_000;
    let fired = false;
    timers.add(yearsMs, () => (fired = true));
    time.advanceTo(yearsMs - 1);
    expect(fired).toBe(false);
    time.advanceTo(yearsMs);
    expect(fired).toBe(true);
  });
});
