import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { ParkedRuns } from "./parked-runs.ts";
import { clockCheckMs, DueTimers, type Clock } from "./due-timers.ts";

/** A clock that stands still until told, can be set as an operator does, and counts the timers of the system. */
function manualClock() {
  /** What the system's timers go by, whatever the clock is set to. */
  let nowMs = 0;
  let setMs = 0;
  let wakeAt: { at: number; callback: () => void } | null = null;
  let armed = 0;
  const clock: Clock = {
    now: () => nowMs + setMs,
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
    /** Sets the clock forward, or back: the system's timers do not follow. */
    set(ms: number) {
      setMs += ms;
    },
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

  test("I3: a clock set forward is noticed within clockCheckMs; set back, it delays what is due and fires nothing early", () => {
    const time = manualClock();
    const timers = new DueTimers(time.clock);
    const hour = 3_600_000;
    const fired: string[] = [];
    timers.add(hour, () => fired.push("hour"));
    timers.add(3 * hour, () => fired.push("three hours"));
    time.advanceTo(1_000);
    time.set(hour);
    expect(fired).toEqual([]);
    time.advanceTo(1_000 + clockCheckMs);
    expect(fired).toEqual(["hour"]);
    time.set(-hour);
    time.advanceTo(3 * hour - 1);
    expect(fired).toEqual(["hour"]);
    time.advanceTo(3 * hour);
    expect(fired).toEqual(["hour", "three hours"]);
    // By two hours, with an hour to go: the due time is a time of the clock, so it is three hours away now.
    timers.add(4 * hour, () => fired.push("four hours"));
    time.set(-2 * hour);
    time.advanceTo(6 * hour - 1);
    expect(fired).toHaveLength(2);
    time.advanceTo(6 * hour);
    expect(fired).toHaveLength(3);
    expect(time.armed()).toBe(0);
  });

  test("a clock that nobody can set is not looked at in between", () => {
    const time = manualClock();
    let wakes = 0;
    const steady: Clock = {
      now: () => time.clock.now(),
      steady: true,
      wake: (delayMs, callback) => {
        wakes++;
        return time.clock.wake(delayMs, callback);
      },
    };
    const timers = new DueTimers(steady);
    timers.add(86_400_000, () => undefined);
    time.advanceTo(86_400_000);
    expect([wakes, timers.size]).toEqual([1, 0]);
  });

  test(
    "a million pending timers, and a million parked runs with one each, fit in memory as stated",
    { timeout: 60_000 },
    () => {
      const count = 1_000_000;
      const time = manualClock();
      const timers = new DueTimers(time.clock);
      let fired = 0;
      const callback = (): void => void fired++;
      const empty = heapBytes();
      for (let n = 0; n < count; n++) timers.add(1 + ((n * 7_919) % count), callback);
      expect((heapBytes() - empty) / count).toBeLessThan(timerBytesMax);
      time.advanceTo(count);
      expect([fired, timers.size]).toEqual([count, 0]);
      const parked = new ParkedRuns(timers, callback);
      const before = heapBytes();
      for (let n = 0; n < count; n++) parked.park(`order-${n}`, "order", 2 * count + n);
      expect((heapBytes() - before) / count).toBeLessThan(parkedBytesMax);
      time.advanceTo(3 * count);
      expect([fired, parked.size]).toEqual([2 * count, 0]);
    },
  );
});

/** Of heap for a timer, and for a parked run with its id and timer: a million are 100 MB, and 450 MB. */
const timerBytesMax = 100;
const parkedBytesMax = 450;

function heapBytes(): number {
  setFlagsFromString("--expose-gc");
  (runInNewContext("gc") as () => void)();
  return process.memoryUsage().heapUsed;
}
