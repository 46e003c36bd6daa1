import { createMemoryLog, type EventLog, type FollowOptions, type StoredCommit } from "@millrace/event-log";
import { MillraceError } from "@millrace/schemas";
import { afterEach, expect, it } from "vitest";
import type { RunCommit } from "./core/run-commit.ts";
import { silentLogger } from "./logger.ts";
import { Tail } from "./tail.ts";
import { progress, started } from "./testing/world.ts";

const open: { stop(): Promise<void> }[] = [];
afterEach(async () => {
  for (const each of open.splice(0)) await each.stop();
});

/** The memory log; what is followed passes through `bend`. */
async function tailOf(bend: (options: FollowOptions) => FollowOptions) {
  const inner = createMemoryLog();
  const log: EventLog = { ...inner, follow: (options) => inner.follow(bend(options)) };
  const batches: (readonly RunCommit[])[] = [];
  const states: string[] = [];
  let undecodable = 0;
  let look = (): void => undefined;
  const tail = new Tail({
    log,
    logger: silentLogger,
    onBatch: (batch) => {
      batches.push(batch);
      look();
    },
    onState: (state) => {
      states.push(state);
      look();
    },
    onUndecodable: () => undecodable++,
  });
  open.push({
    async stop() {
      await tail.stop();
      await inner.close();
    },
  });
  await tail.start(0);
  const append = async (n: number) =>
    await inner.append({
      commitId: `01${String(n).padStart(24, "0")}`,
      workflowId: "a",
      type: "order",
      expected: n === 1 ? "new" : "any",
      events: [n === 1 ? started() : progress(`${n}`)],
    });
  const until = (condition: () => boolean) =>
    new Promise<void>((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error("it did not come within 5 s")), 5_000);
      look = () => {
        if (!condition()) return;
        clearTimeout(timer);
        resolve();
      };
      look();
    });
  const sequences = () => batches.flat().map(({ sequence }) => sequence);
  return { append, until, sequences, batches, states, undecodable: () => undecodable };
}

it("I1: dispatches what arrives in one turn as one batch, in order", async () => {
  const { append, until, sequences, batches } = await tailOf((options) => options);
  await Promise.all([1, 2, 3].map(append));
  await until(() => sequences().length === 3);
  expect(sequences()).toEqual([1, 2, 3]);
  expect(batches.length).toBeLessThanOrEqual(3);
  expect(batches.flat()[1]).toMatchObject({
    workflowId: "a",
    type: "order",
    events: [{ type: "ProgressReported" }],
  });
});

it("I2: tells of a commit that cannot be read, and goes on", async () => {
  const unreadable = (commit: StoredCommit): StoredCommit =>
    Object.create(commit, {
      sequence: { value: commit.sequence },
      events: {
        get() {
          throw new MillraceError("event_type_unknown", "from the future");
        },
      },
    }) as StoredCommit;
  const { append, until, sequences, undecodable } = await tailOf((options) => ({
    ...options,
    onCommit: (commit, pending) =>
      options.onCommit(commit.sequence === 2 ? unreadable(commit) : commit, pending),
  }));
  for (const n of [1, 2, 3]) await append(n);
  await until(() => sequences().length === 2);
  expect(sequences()).toEqual([1, 3]);
  expect(undecodable()).toBe(1);
});

it("I3: begins a new follower from the same position when one failed", async () => {
  let failures = 0;
  const { append, until, sequences, states } = await tailOf((options) => ({
    ...options,
    onCommit(commit, pending) {
      if (commit.sequence === 3 && failures++ === 0) throw new Error("the follower breaks");
      options.onCommit(commit, pending);
    },
  }));
  for (const n of [1, 2, 3, 4]) await append(n);
  await until(() => sequences().length === 4);
  expect(sequences()).toEqual([1, 2, 3, 4]);
  expect(states).toContain("lost");
  await until(() => states.at(-1) === "live");
});
