import { setMaxListeners } from "node:events";
import { setTimeout as delay } from "node:timers/promises";
import { describe, expect, it } from "vitest";
import { ChangeSignal } from "./change-signal.ts";
import { planFaults, runsMin, startsAllowed } from "./plan-faults.ts";
import { WorkGate } from "./work-gate.ts";

const sizes = [runsMin, runsMin + 1, 41, 137, 440, 10_000];

describe("planFaults", () => {
  it.each(sizes)("cuts ten times and more and kills both parts in the midst of %i runs", (totalRuns) => {
    const { faults, cuts, windowRuns } = planFaults(totalRuns);
    expect(cuts).toBeGreaterThanOrEqual(10);
    expect(faults.flatMap(({ fault }) => (fault.kind === "kill" ? [fault.part] : []))).toEqual([
      "engine",
      "stream-server",
    ]);
    const points = faults.map(({ atRuns }) => atRuns);
    expect(points).toEqual(points.toSorted((a, b) => a - b));
    expect(points[0]).toBeGreaterThan(0);
    expect(points.at(-1)).toBeLessThanOrEqual(totalRuns - windowRuns);
  });

  it("refuses too few runs", () => {
    expect(() => planFaults(runsMin - 1)).toThrow(`there are ${runsMin - 1}`);
  });
});

describe("WorkGate", () => {
  it.each(sizes.slice(0, 5))(
    "meets every fault with work left, and ends, over %i runs",
    async (totalRuns) => {
      const plan = planFaults(totalRuns);
      const change = new ChangeSignal();
      const gate = new WorkGate(plan, change);
      const { signal } = new AbortController();
      setMaxListeners(0, signal);
      let [started, underWay, underWayMax] = [0, 0, 0];
      const runs = Array.from({ length: totalRuns }, () => async (): Promise<void> => {
        expect(started).toBeLessThan(startsAllowed(plan, gate.nextFault));
        started += 1;
        underWay += 1;
        underWayMax = Math.max(underWayMax, underWay);
        await Promise.resolve();
        underWay -= 1;
      });
      const met: number[] = [];
      await Promise.all([
        gate.work(runs, signal),
        gate.disturb(async ({ fault, atRuns }) => {
          expect(gate.completed).toBeGreaterThanOrEqual(atRuns);
          expect(gate.completed).toBeLessThan(totalRuns);
          met.push(gate.completed);
          if (fault.kind !== "relight") return;
          // What the demo waits for while it holds the client in the dark must be reachable.
          const since = met.at(-2) ?? 0;
          await change.until(() => gate.completed >= since + fault.runs, signal);
        }, signal),
      ]);
      expect(met).toHaveLength(plan.faults.length);
      expect(gate.completed).toBe(totalRuns);
      expect(underWayMax).toBeLessThanOrEqual(plan.windowRuns);
    },
  );

  it("rejects with the first run that fails", async () => {
    const change = new ChangeSignal();
    const gate = new WorkGate(planFaults(runsMin), change);
    const runs = Array.from({ length: runsMin }, () => () => Promise.reject(new Error("no more")));
    await expect(gate.work(runs, AbortSignal.timeout(5_000))).rejects.toThrow("no more");
  });
});

describe("ChangeSignal", () => {
  it("waits until a condition holds, and gives up with the signal's reason", async () => {
    const change = new ChangeSignal();
    const stop = new AbortController();
    let value = 0;
    const two = change.until(() => value === 2, stop.signal);
    const never = change.until(() => value === 3, stop.signal);
    value = 1;
    change.changed();
    await expect(Promise.race([two, delay(0, "still waiting")])).resolves.toBe("still waiting");
    value = 2;
    change.changed();
    await two;
    stop.abort(new Error("enough"));
    await expect(never).rejects.toThrow("enough");
  });
});
