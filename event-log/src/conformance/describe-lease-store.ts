/** What every adapter of the leases must do, K1 to K4 of the port: run it over each adapter. */
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from "vitest";
import type { EventLog } from "../event-log.ts";
import type { LeaseChange, LeaseStore } from "../lease-store.ts";
import type { EventLogHarness } from "./event-log-harness.ts";

/** Far above what it takes, since the machine may be busy. */
const deadline = { timeout: 20_000, interval: 10 };
const leaseMs = 2_000;

/** A watch that keeps the last value of each key, and every change. */
async function collect(store: LeaseStore) {
  const values = new Map<string, string | null>();
  const changes: LeaseChange[] = [];
  const watch = await store.watch((change) => {
    values.set(change.key, change.value);
    changes.push(change);
  });
  return { values, changes, watch };
}

const ignore = (): void => undefined;

/** Describes the port's promises over one adapter. `makeHarness` is called once. */
export function describeLeaseStore(name: string, makeHarness: () => Promise<EventLogHarness>): void {
  describe(`${name}: the leases`, () => {
    let harness: EventLogHarness;
    let spaces = 0;
    const opened: EventLog[] = [];
    beforeAll(async () => {
      harness = await makeHarness();
    });
    afterEach(async () => {
      await Promise.all(opened.splice(0).map((log) => log.close()));
    });
    afterAll(async () => {
      await harness.stop();
    });

    /** Several connections' views of the leases of one fresh namespace. */
    async function stores(): Promise<[LeaseStore, LeaseStore]> {
      const namespace = `k${++spaces}`;
      const logs = [await harness.open(namespace), await harness.open(namespace)] as const;
      opened.push(...logs);
      return [await logs[0].leases(), await logs[1].leases()];
    }

    test("K1: a write succeeds only on the revision that it expects", async () => {
      const [a, b] = await stores();
      const first = await a.write("shard.g.1", "a", 0);
      await expect(b.write("shard.g.1", "b", 0)).rejects.toMatchObject({
        code: "conflict",
        details: { expected: 0, actual: first },
      });
      const second = await b.write("shard.g.1", "b", first);
      expect(second).toBeGreaterThan(first);
      await expect(a.write("shard.g.1", "c", first)).rejects.toMatchObject({ code: "conflict" });
      await expect(a.remove("shard.g.1", first)).rejects.toMatchObject({ code: "conflict" });
      await a.remove("shard.g.1", second);
      await a.remove("shard.g.1", second);
      expect(await b.write("shard.g.1", "again", 0)).toBeGreaterThan(second);
    });

    test("K1: of many that write at once, one succeeds", async () => {
      const [a, b] = await stores();
      const writes = Array.from({ length: 20 }, (_, n) =>
        (n % 2 === 0 ? a : b).write("key", `value ${n}`, 0),
      );
      const outcomes = await Promise.allSettled(writes);
      expect(outcomes.filter(({ status }) => status === "fulfilled")).toHaveLength(1);
    });

    test("K2: a kept key stays as long as it is kept, takes new values, and goes when it is released", async () => {
      const [a, b] = await stores();
      const seen = await collect(b);
      const lost: Error[] = [];
      const kept = await a.keep({
        key: "session.a",
        value: "one",
        leaseMs,
        onLost: (error) => lost.push(error),
      });
      await expect(b.keep({ key: "session.a", value: "two", leaseMs, onLost: ignore })).rejects.toMatchObject(
        {
          code: "conflict",
        },
      );
      await kept.update("changed");
      // Renewals are seen as changes: three of them are longer than the lease.
      await vi.waitFor(
        () => expect(seen.changes.filter(({ value }) => value === "changed").length).toBeGreaterThan(4),
        deadline,
      );
      expect(seen.changes.map(({ value }) => value)).not.toContain(null);
      await kept.release();
      await vi.waitFor(() => expect(seen.values.get("session.a")).toBeNull(), deadline);
      await expect(kept.update("late")).rejects.toMatchObject({ code: "unavailable" });
      expect(lost).toEqual([]);
    });

    test("K2, K4: a key whose process is gone vanishes within its lease, and watchers are told", async () => {
      const [, b] = await stores();
      const other = await harness.open(`k${spaces}`);
      const seen = await collect(b);
      await (await other.leases()).keep({ key: "session.dead", value: "x", leaseMs, onLost: ignore });
      await vi.waitFor(() => expect(seen.values.get("session.dead")).toBe("x"), deadline);
      const stoppedAt = performance.now();
      // Ends without giving anything back, as a killed process does.
      await other.close();
      await vi.waitFor(() => expect(seen.values.get("session.dead")).toBeNull(), deadline);
      expect(performance.now() - stoppedAt).toBeLessThan(leaseMs + 1_000);
    });

    test("K3: who keeps a key that somebody else removed is told", async () => {
      const [a, b] = await stores();
      let lose: (error: Error) => void = ignore;
      const lost = new Promise<Error>((resolve) => (lose = resolve));
      const kept = await a.keep({ key: "session.a", value: "x", leaseMs, onLost: (error) => lose(error) });
      await b.remove("session.a", kept.revision);
      expect(await lost).toMatchObject({ code: "conflict" });
      await expect(kept.update("y")).rejects.toMatchObject({ code: "unavailable" });
    });

    test("K3: while the server is away, who keeps a key is told that its lease lapsed", async () => {
      const [a] = await stores();
      let lose: (error: Error) => void = ignore;
      const lost = new Promise<Error>((resolve) => (lose = resolve));
      await a.keep({ key: "session.a", value: "x", leaseMs, onLost: (error) => lose(error) });
      await harness.kill();
      try {
        expect(await lost).toMatchObject({ code: "unavailable", details: { leaseMs } });
        await expect(a.write("other", "x", 0)).rejects.toMatchObject({ code: "unavailable" });
      } finally {
        await harness.start();
      }
    });

    test("K4: a watch tells what is there, then every change in order; after a reconnect also what went away", async () => {
      const [a, b] = await stores();
      await a.write("shard.g.1", "one", 0);
      await a.write("shard.g.2", "two", 0);
      const kept = await a.keep({ key: "session.short", value: "x", leaseMs, onLost: ignore });
      const seen = await collect(b);
      expect([...seen.values]).toEqual([
        ["shard.g.1", "one"],
        ["shard.g.2", "two"],
        ["session.short", "x"],
      ]);
      const revisions = seen.changes.map(({ revision }) => revision);
      expect(revisions).toEqual(revisions.toSorted((x, y) => x - y));
      await harness.kill();
      // Its lease ends while nobody can be told.
      await expect(kept.update("never stored")).rejects.toMatchObject({ code: "unavailable" });
      await harness.start();
      await vi.waitFor(() => expect(seen.values.get("session.short")).toBeNull(), deadline);
      await vi.waitFor(async () => {
        await a.write("shard.g.3", "three", 0);
      }, deadline);
      await vi.waitFor(() => expect(seen.values.get("shard.g.3")).toBe("three"), deadline);
      const told = seen.changes.length;
      seen.watch.stop();
      await a.write("shard.g.4", "four", 0);
      const again = await collect(b);
      expect(again.values.get("shard.g.4")).toBe("four");
      expect(seen.changes).toHaveLength(told);
    });

    test("refuses a lease that the broker could not keep", async () => {
      const [a] = await stores();
      for (const wrong of [1_000, 2_500])
        await expect(a.keep({ key: "x", value: "x", leaseMs: wrong, onLost: ignore })).rejects.toMatchObject({
          code: "invalid_request",
        });
    });
  });
}
