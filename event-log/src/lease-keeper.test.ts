/** Time is told by hand here: what happens when answers are late, lost or never come. */
import { MillraceError } from "@millrace/schemas";
import { expect, test } from "vitest";
import { keepLease, type LeaseWrites } from "./lease-keeper.ts";

const leaseMs = 10_000;

function manualTimers() {
  let nowMs = 0;
  const pending = new Set<{ readonly at: number; readonly callback: () => void }>();
  return {
    timers: {
      now: () => nowMs,
      wake(delayMs: number, callback: () => void) {
        const timer = { at: nowMs + delayMs, callback };
        pending.add(timer);
        return () => void pending.delete(timer);
      },
    },
    pending,
    /** Fires what is due in its order, letting promises settle in between. */
    advanceTo: async (ms: number): Promise<void> => {
      await new Promise((resolve) => setImmediate(resolve));
      for (;;) {
        const [next] = [...pending].filter(({ at }) => at <= ms).toSorted((a, b) => a.at - b.at);
        if (next === undefined) break;
        pending.delete(next);
        nowMs = Math.max(nowMs, next.at);
        next.callback();
        await new Promise((resolve) => setImmediate(resolve));
      }
      nowMs = ms;
    },
    /** The process stands still: everything that became due fires late, at once. */
    stallUntil: async (ms: number): Promise<void> => {
      nowMs = ms;
      const due = [...pending].filter(({ at }) => at <= ms).toSorted((a, b) => a.at - b.at);
      for (const timer of due) {
        if (!pending.delete(timer)) continue;
        timer.callback();
      }
      await new Promise((resolve) => setImmediate(resolve));
    },
  };
}

type Answer = "stored" | "recovered" | "unanswered" | "refused";

async function kept(answers: readonly Answer[] = []) {
  const manual = manualTimers();
  const written: { readonly at: number; readonly value: string; readonly expected: number }[] = [];
  const removed: number[] = [];
  const lost: MillraceError[] = [];
  let revision = 0;
  const writes: LeaseWrites = {
    async write(_key, value, expected) {
      const answer = answers[written.length] ?? answers.at(-1) ?? "stored";
      written.push({ at: manual.timers.now(), value, expected });
      if (answer === "unanswered") throw new MillraceError("unavailable", "no answer");
      if (answer === "refused") throw new MillraceError("conflict", "refused");
      return { revision: ++revision, recovered: answer === "recovered" };
    },
    async remove(_key, expected) {
      removed.push(expected);
    },
  };
  let ended = 0;
  const lease = await keepLease(
    writes,
    manual.timers,
    { key: "k", value: "v", leaseMs, onLost: (error) => lost.push(error as MillraceError) },
    () => ended++,
  );
  return { ...manual, lease, written, removed, lost, ended: () => ended };
}

test("I1: renews three times within a lease, each on the revision of the one before", async () => {
  const { advanceTo, written } = await kept();
  await advanceTo(9_500);
  expect(written.map(({ at, expected }) => [at, expected])).toEqual([
    [0, 0],
    [3_000, 1],
    [6_000, 2],
    [9_000, 3],
  ]);
});

test("I2: ends before the broker lets the key expire when no renewal is answered, having tried often", async () => {
  const { advanceTo, written, lost, removed, pending } = await kept(["stored", "unanswered"]);
  await advanceTo(9_400);
  expect(lost).toEqual([]);
  expect(written.length).toBeGreaterThan(10);
  await advanceTo(9_600);
  expect(lost).toMatchObject([{ code: "unavailable", details: { leaseMs } }]);
  expect(removed).toEqual([1]);
  const count = written.length;
  await advanceTo(60_000);
  expect(written).toHaveLength(count);
  expect(pending.size).toBe(0);
});

test("a renewal that was stored but not answered is found, and counts from when it was sent first", async () => {
  const { advanceTo, lost, written } = await kept(["stored", "unanswered", "recovered", "unanswered"]);
  await advanceTo(9_400);
  expect(lost).toEqual([]);
  expect(written[3]).toMatchObject({ expected: 2 });
  // Recovering it has not made the lease any longer.
  await advanceTo(9_600);
  expect(lost).toHaveLength(1);
});

test("a process that stood still for longer than its lease knows it as soon as it goes on", async () => {
  const { stallUntil, lost, ended } = await kept(["stored", "refused"]);
  await stallUntil(30_000);
  expect(lost).toHaveLength(1);
  expect(ended()).toBe(1);
});

test("I3: a refused renewal ends it at once; a release ends it without a word", async () => {
  const refused = await kept(["stored", "refused"]);
  await refused.advanceTo(3_000);
  expect(refused.lost).toMatchObject([{ code: "conflict" }]);
  const released = await kept();
  await released.lease.release();
  await released.advanceTo(60_000);
  expect(released.written).toHaveLength(1);
  expect(released.removed).toEqual([1]);
  expect(released.lost).toEqual([]);
  await expect(released.lease.update("late")).rejects.toMatchObject({ code: "unavailable" });
});

test("an update is written at once, and again after an answer that did not come", async () => {
  const { lease, written, advanceTo } = await kept(["stored", "unanswered", "stored"]);
  const stored = lease.update("new");
  await advanceTo(1_000);
  await stored;
  expect(written.map(({ value }) => value)).toEqual(["v", "new", "new"]);
  expect(lease.revision).toBe(2);
});
