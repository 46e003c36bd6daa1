/** What every adapter of the task queues must do, Q1 to Q4 of the port among it. */
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from "vitest";
import { isMillraceError, type TaskPriority } from "@millrace/schemas";
import type { EventLog } from "../event-log.ts";
import { noQueueLimits, type TakenTask, type TaskMessage, type TaskQueues } from "../task-queues.ts";
import type { EventLogHarness } from "./event-log-harness.ts";

const deadline = { timeout: 20_000, interval: 10 };
/** Long enough for a busy machine to extend in time, short enough to be waited for. */
const leaseMs = 1_000;

let tokens = 0;

/** A task with a token of its own. */
export function taskOf(given: Partial<TaskMessage> = {}): TaskMessage {
  return {
    token: `token-${++tokens}`,
    workflowId: "order-1",
    type: "order",
    run: 1,
    name: "charge",
    occurrence: 1,
    attempt: 1,
    queue: "payments",
    priority: 1,
    input: { n: tokens },
    sequence: 2,
    startToCloseMs: null,
    heartbeatMs: null,
    traceparent: null,
    ...given,
  };
}

function inputs(taken: readonly TakenTask[]): unknown[] {
  return taken.map(({ task }) => task.input);
}

/** Describes the port's promises over one adapter. `makeHarness` is called once. */
export function describeTaskQueues(name: string, makeHarness: () => Promise<EventLogHarness>): void {
  describe(`${name}: task queues`, () => {
    let harness: EventLogHarness;
    const opened: EventLog[] = [];
    let spaces = 0;
    beforeAll(async () => {
      harness = await makeHarness();
    });
    afterEach(async () => {
      await Promise.all(opened.splice(0).map((log) => log.close()));
    });
    afterAll(() => harness.stop());
    async function open(namespace: string): Promise<TaskQueues> {
      const log = await harness.open(namespace, { taskLeaseMs: leaseMs });
      opened.push(log);
      return log.tasks;
    }
    const space = (): string => `q${++spaces}`;
    const now = { max: 100, waitMs: 0 };
    const later = { max: 100, waitMs: 15_000 };

    test("Q1: a task is taken once as it was published, and never again after it is finished", async () => {
      const [here, there] = [await open("qa"), await open("qa")];
      const task = taskOf({ input: { text: "ä", list: [1, null] }, startToCloseMs: 5, heartbeatMs: 6 });
      await here.publish(task);
      const [taken, ...more] = await there.take("payments", later);
      expect(more).toEqual([]);
      expect(taken).toMatchObject({ task, delivery: 1 });
      expect(await here.take("payments", now)).toEqual([]);
      // From another connection than the one that took it.
      here.finish(taken?.handle ?? "");
      expect(await there.take("payments", { max: 1, waitMs: 2 * leaseMs })).toEqual([]);
      expect(await here.queues()).toMatchObject([{ queue: "payments", depth: 0, inFlight: 0 }]);
    });

    test("Q1: the same token is published once", async () => {
      const queues = await open(space());
      const task = taskOf();
      await Promise.all([queues.publish(task), queues.publish(task)]);
      await queues.publish(task);
      expect(await queues.take("payments", later)).toHaveLength(1);
      expect(await queues.take("payments", now)).toEqual([]);
    });

    test("Q1: a task comes again when its lease passes, and not while it is extended", async () => {
      const namespace = space();
      const [holder, other] = [await open(namespace), await open(namespace)];
      await holder.publish(taskOf({ queue: "slow" }));
      const [held] = await holder.take("slow", later);
      const extending = setInterval(() => holder.extend(held?.handle ?? ""), leaseMs / 5);
      expect(await other.take("slow", { max: 1, waitMs: 2.5 * leaseMs })).toEqual([]);
      clearInterval(extending);
      const [again] = await other.take("slow", later);
      expect(again).toMatchObject({ task: held?.task, delivery: 2 });
    });

    test("Q1: a released task goes to somebody else at once, or after the delay", async () => {
      const queues = await open(space());
      await queues.publish(taskOf());
      const [first] = await queues.take("payments", later);
      queues.release(first?.handle ?? "");
      const [second] = await queues.take("payments", later);
      expect(second?.delivery).toBe(2);
      const begun = performance.now();
      queues.release(second?.handle ?? "", 300);
      const [third] = await queues.take("payments", later);
      expect(third?.delivery).toBe(3);
      expect(performance.now() - begun).toBeGreaterThanOrEqual(290);
    });

    test("a task is pushed to whoever waits; a wait ends after its time, or at its signal", async () => {
      const namespace = space();
      const [worker, publisher] = [await open(namespace), await open(namespace)];
      expect(await worker.take("idle", { max: 1, waitMs: 50 })).toEqual([]);
      const stop = new AbortController();
      const waiting = worker.take("idle", { max: 1, waitMs: 60_000, signal: stop.signal });
      stop.abort();
      expect(await waiting).toEqual([]);
      expect(await worker.take("idle", { max: 1, waitMs: 60_000, signal: stop.signal })).toEqual([]);
      const pushed = worker.take("idle", later);
      // Nobody waits here any more: what the aborted wait asked for must not keep the task.
      await publisher.publish(taskOf({ queue: "idle" }));
      expect(await pushed).toHaveLength(1);
      await publisher.publish(taskOf({ queue: "idle" }));
      expect(await publisher.take("idle", later)).toHaveLength(1);
    });

    test("no task is given twice, and none forgotten, by many that take at once", async () => {
      const namespace = space();
      const sides = [await open(namespace), await open(namespace)] as const;
      const wanted = Array.from({ length: 300 }, (_, n) => n);
      const got: unknown[] = [];
      const takers = sides.flatMap((side) =>
        [1, 7, 50].map(async (max) => {
          while (got.length < wanted.length) {
            for (const { task, handle } of await side.take("shared", { max, waitMs: 200 })) {
              got.push(task.input);
              side.finish(handle);
            }
          }
        }),
      );
      await Promise.all(wanted.map((input) => sides[0].publish(taskOf({ queue: "shared", input }))));
      await Promise.all(takers);
      expect(got.toSorted((a, b) => Number(a) - Number(b))).toEqual(wanted);
    });

    test("Q2: the highest priority first, the oldest within it; queues do not see each other's tasks", async () => {
      const queues = await open(space());
      const order: [TaskPriority, string][] = [
        [0, "low 1"],
        [1, "mid 1"],
        [0, "low 2"],
        [2, "high 1"],
        [1, "mid 2"],
        [2, "high 2"],
      ];
      for (const [priority, input] of order)
        await queues.publish(taskOf({ queue: "ranked", priority, input }));
      await queues.publish(taskOf({ queue: "ranked-2", input: "other" }));
      expect(inputs(await queues.take("ranked", { max: 4, waitMs: 5_000 }))).toEqual([
        ...["high 1", "high 2", "mid 1", "mid 2"],
      ]);
      expect(inputs(await queues.take("ranked", later))).toEqual(["low 1", "low 2"]);
      expect(inputs(await queues.take("ranked-2", later))).toEqual(["other"]);
    });

    test("Q3: a limit holds over all connections; what ends lets the next one through, whoever asks for it", async () => {
      const namespace = space();
      const sides = [await open(namespace), await open(namespace)] as const;
      await sides[0].setLimits("narrow", { ...noQueueLimits, concurrency: 2 });
      await expect.poll(() => sides[1].limits("narrow"), deadline).toMatchObject({ concurrency: 2 });
      const count = 30;
      for (let n = 0; n < count; n++)
        await sides[0].publish(taskOf({ queue: "narrow", priority: n % 2 === 0 ? 1 : 2 }));
      let running = 0;
      let most = 0;
      const done = new Set<string>();
      await Promise.all(
        sides.map(async (side) => {
          while (done.size < count) {
            const taken = await side.take("narrow", { max: 5, waitMs: 300 });
            running += taken.length;
            most = Math.max(most, running);
            await Promise.all(
              taken.map(async ({ task, handle }) => {
                await new Promise((resolve) => setTimeout(resolve, 5));
                running--;
                done.add(task.token);
                side.finish(handle);
              }),
            );
          }
        }),
      );
      expect(most).toBe(2);
    });

    test("Q3: the place of one that died is free after its lease; a raised limit holds at once, none lets all through", async () => {
      const namespace = space();
      const [dying, worker] = [await open(namespace), await open(namespace)];
      await dying.setLimits("narrow", { ...noQueueLimits, concurrency: 1 });
      for (let n = 0; n < 6; n++) await dying.publish(taskOf({ queue: "narrow", input: n }));
      expect(await dying.take("narrow", later)).toHaveLength(1);
      await expect.poll(() => worker.limits("narrow"), deadline).toMatchObject({ concurrency: 1 });
      expect(await worker.take("narrow", now)).toEqual([]);
      expect(await worker.take("narrow", later)).toHaveLength(1);
      const waiting = worker.take("narrow", later);
      await dying.setLimits("narrow", { ...noQueueLimits, concurrency: 2 });
      expect(await waiting).toHaveLength(1);
      await dying.setLimits("narrow", noQueueLimits);
      await expect.poll(() => worker.limits("narrow"), deadline).toEqual(noQueueLimits);
      expect((await worker.take("narrow", later)).length).toBeGreaterThanOrEqual(3);
    });

    test("Q4: a rate holds over all connections, after its burst", async () => {
      const namespace = space();
      const sides = [await open(namespace), await open(namespace)] as const;
      await sides[0].setLimits("paced", { concurrency: null, ratePerS: 20, burst: 4 });
      await expect.poll(() => sides[1].limits("paced"), deadline).toMatchObject({ ratePerS: 20 });
      for (let n = 0; n < 16; n++) await sides[0].publish(taskOf({ queue: "paced" }));
      const times: number[] = [];
      await Promise.all(
        sides.map(async (side) => {
          while (times.length < 16) {
            for (const { handle } of await side.take("paced", { max: 10, waitMs: 200 })) {
              times.push(Date.now());
              side.finish(handle);
            }
          }
        }),
      );
      times.sort((a, b) => a - b);
      for (const [i, from] of times.entries()) {
        const inOneSecond = times.slice(i).filter((at) => at - from < 500).length;
        expect(inOneSecond).toBeLessThanOrEqual(4 + 10 + 1);
      }
      expect((times.at(-1) ?? 0) - (times[0] ?? 0)).toBeGreaterThanOrEqual(550);
    });

    test("limits out of range are refused", async () => {
      const queues = await open(space());
      for (const wrong of [
        { concurrency: 0 },
        { concurrency: 1.5 },
        { concurrency: 1_001 },
        { ratePerS: 0 },
        { ratePerS: -1 },
        { burst: 5 },
      ]) {
        await expect(queues.setLimits("q", { ...noQueueLimits, ...wrong })).rejects.toMatchObject({
          code: "invalid_request",
        });
      }
      await expect(queues.take("a.b", now)).rejects.toMatchObject({ code: "invalid_id" });
      await expect(queues.publish(taskOf({ queue: "*" }))).rejects.toMatchObject({ code: "invalid_id" });
      for (const handle of ["", "$JS.API.STREAM.DELETE.X", "mr.default.1", "a b c"])
        expect(() => queues.finish(handle)).toThrow(/no handle/);
    });

    test("heartbeats: the last one of a step, with the broker's time", async () => {
      const queues = await open(space());
      const key = { workflowId: "order-1", run: 1, name: "import ü/ä.csv *", occurrence: 2 };
      expect(await queues.lastBeat(key)).toBeNull();
      await queues.beat(key, { token: "t1", details: { row: 1 } });
      await queues.beat(key, { token: "t2", details: { row: 2 } });
      const last = await queues.lastBeat(key);
      expect(last).toMatchObject({ token: "t2", details: { row: 2 } });
      expect(Math.abs((last?.at ?? 0) - Date.now())).toBeLessThan(60_000);
      expect(await queues.lastBeat({ ...key, occurrence: 3 })).toBeNull();
    });

    test("dead letters: kept by queue, oldest first, in pages, each once; removed ones are gone", async () => {
      const queues = await open(space());
      const letters = [1, 2, 3].map((n) => ({
        task: taskOf({ input: n }),
        reason: `reason ${n}`,
        attempts: n,
      }));
      for (const letter of letters) await queues.bury(letter);
      await queues.bury({ ...letters[0], task: taskOf({ queue: "other" }), reason: "r", attempts: 1 });
      const first = await queues.deadLetters("payments", { limit: 2 });
      expect(first).toMatchObject([letters[0], letters[1]].map((letter) => ({ ...letter })));
      const rest = await queues.deadLetters("payments", { limit: 2, after: first[1]?.sequence ?? 0 });
      expect(rest).toMatchObject([{ ...letters[2] }]);
      const token = letters[1]?.task.token ?? "";
      expect(await queues.deadLetter("payments", token)).toMatchObject({ reason: "reason 2", attempts: 2 });
      await queues.bury({ ...letters[1], task: taskOf({ token }), reason: "again", attempts: 2 });
      expect(await queues.deadLetter("payments", token)).toMatchObject({ reason: "again" });
      expect(await queues.removeDeadLetter("payments", token)).toBe(true);
      expect(await queues.removeDeadLetter("payments", token)).toBe(false);
      expect(await queues.deadLetter("payments", token)).toBeNull();
      expect(await queues.queues()).toMatchObject([
        { queue: "other", deadLetters: 1 },
        { queue: "payments", deadLetters: 2 },
      ]);
    });

    test("says what each queue has: waiting, in flight, the oldest", async () => {
      const queues = await open(space());
      expect(await queues.queues()).toEqual([]);
      for (let n = 0; n < 3; n++)
        await queues.publish(taskOf({ queue: "seen", priority: n as TaskPriority }));
      const [before] = await queues.queues();
      expect(before).toMatchObject({ queue: "seen", depth: 3, inFlight: 0, limits: noQueueLimits });
      expect(before?.oldestAgeMs).toBeGreaterThanOrEqual(0);
      await queues.take("seen", { max: 2, waitMs: 5_000 });
      expect(await queues.queues()).toMatchObject([{ depth: 1, inFlight: 2 }]);
    });

    test("while the server is away all says so; afterwards nothing is lost and takers go on", async () => {
      const queues = await open(space());
      await queues.publish(taskOf({ input: "before" }));
      await queues.publish(taskOf({ input: "held" }));
      const [held] = await queues.take("payments", { max: 1, waitMs: 5_000 });
      const waiting = queues.take("empty", later).catch((error: unknown) => error);
      await harness.kill();
      expect(isMillraceError(await waiting, "unavailable")).toBe(true);
      await vi.waitFor(async () => {
        await expect(queues.take("payments", now)).rejects.toMatchObject({ code: "unavailable" });
      }, deadline);
      await harness.start();
      const got = new Set<unknown>();
      await vi.waitFor(async () => {
        for (const { task, handle } of await queues.take("payments", { max: 5, waitMs: 500 })) {
          got.add(task.input);
          queues.finish(handle);
        }
        expect(got).toEqual(new Set(["before", "held"]));
      }, deadline);
      expect(held?.task.input).toBe("before");
      await queues.publish(taskOf({ input: "after" }));
      expect(inputs(await queues.take("payments", later))).toEqual(["after"]);
    });
  });
}
