/** Tasks on a real broker that is killed, by workers that die: none lost, each recorded once. */
import { openEventLog } from "@millrace/event-log";
import { startTestBroker, type TestBroker } from "@millrace/event-log/conformance";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { connect } from "../connect.ts";
import { defineWorkflow } from "../definition.ts";
import type { Millrace } from "../millrace.ts";
import type { TaskContext } from "./task-function.ts";

const deadline = { timeout: 60_000, interval: 20 };
const leaseMs = 1_500;
const retry = { maxAttempts: 50, initialDelayMs: 10, maxDelayMs: 200 };

describe("tasks on JetStream", () => {
  let broker: TestBroker;
  const open: Millrace[] = [];
  let spaces = 0;
  beforeAll(async () => {
    broker = await startTestBroker();
  });
  afterEach(async () => {
    await Promise.all(open.splice(0).map((each) => each.close()));
  });
  afterAll(() => broker.stop());

  async function connected(namespace: string): Promise<Millrace> {
    const log = await openEventLog({
      servers: broker.url,
      namespace,
      taskLeaseMs: leaseMs,
      appendTimeoutMs: 500,
    });
    const millrace = await connect({ log });
    const close = millrace.close.bind(millrace);
    open.push(Object.assign(millrace, { close: () => close().then(() => log.close()) }));
    return millrace;
  }
  const space = (): string => `tasks${++spaces}`;

  const batch = defineWorkflow({ type: "batch" }, async (ctx, input: { n: number; size: number }) => {
    const all = Array.from({ length: input.size }, (_, i) =>
      ctx.task<number>("square", input.n * 100 + i, { queue: "work", retry, priority: i % 2 === 0 ? 1 : 2 }),
    );
    return Promise.all(all);
  });
  const expected = (n: number, size: number): number[] =>
    Array.from({ length: size }, (_, i) => (n * 100 + i) ** 2);

  /** How often each step was recorded as completed. */
  async function completions(millrace: Millrace, ids: readonly string[]): Promise<Map<string, number>> {
    const counts = new Map<string, number>();
    for (const id of ids) {
      for (const { events } of await millrace.log.load(id)) {
        for (const event of events) {
          if (event.type !== "StepCompleted") continue;
          const key = `${id} ${event.data.name}#${event.data.occurrence}`;
          counts.set(key, (counts.get(key) ?? 0) + 1);
        }
      }
    }
    return counts;
  }

  test("the broker is killed three times while two workers work: every run completes, every task is recorded once", async () => {
    const namespace = space();
    const owner = await connected(namespace);
    await owner.worker({ workflows: [batch] });
    let calls = 0;
    const square = async ({ input }: TaskContext<number>): Promise<number> => {
      calls++;
      await new Promise((resolve) => setTimeout(resolve, 15));
      return input ** 2;
    };
    for (let n = 0; n < 2; n++)
      await (await connected(namespace)).worker({ tasks: { square }, queues: ["work"], taskConcurrency: 5 });
    const size = 20;
    const ids = Array.from({ length: 15 }, (_, n) => `batch-${n}`);
    const results = await Promise.all(
      ids.map(async (id, n) => (await owner.start(batch, { n, size }, { id })).result()),
    );
    expect(results).toEqual(ids.map((_, n) => expected(n, size)));
    expect(calls).toBeGreaterThanOrEqual(ids.length * size);

    const more = ids.map((id) => `more-${id}`);
    const running = more.map(async (id, n) => (await owner.start(batch, { n, size }, { id })).result());
    const settled = Promise.all(running);
    for (let kill = 0; kill < 3; kill++) {
      await expect.poll(() => calls, deadline).toBeGreaterThan(ids.length * size + (kill + 1) * 20);
      await broker.kill();
      await broker.start();
    }
    expect(await settled).toEqual(more.map((_, n) => expected(n, size)));
    const counts = await completions(owner, [...ids, ...more]);
    expect(counts.size).toBe(2 * ids.length * size);
    expect(new Set(counts.values())).toEqual(new Set([1]));
    // What is left in the queue are messages of attempts that are over: they go when they are taken.
    await expect
      .poll(async () => (await owner.tasks.queues())[0], deadline)
      .toMatchObject({ depth: 0, inFlight: 0, deadLetters: 0 });
  });

  test("a worker that dies with many tasks: others do them, each outcome is recorded once", async () => {
    const namespace = space();
    const owner = await connected(namespace);
    await owner.worker({ workflows: [batch] });
    const size = 30;
    const handle = await owner.start(batch, { n: 1, size }, { id: "batch" });
    const dying = await connected(namespace);
    // Begun and never heard of again.
    const taken = await dying.tasks.poll("work", { max: 10, waitMs: 10_000, worker: "dying" });
    expect(taken.length).toBeGreaterThan(0);
    const living = await connected(namespace);
    await living.worker({ tasks: { square: ({ input }) => (input as number) ** 2 }, queues: ["work"] });
    expect(await handle.result()).toEqual(expected(1, size));
    const counts = await completions(owner, ["batch"]);
    expect([...counts.values()]).toEqual(Array.from({ length: size }, () => 1));
    const lost = (await owner.log.load("batch")).flatMap(({ events }) =>
      events.filter((event) => event.type === "StepStarted" && event.data.attempt === 2),
    );
    expect(lost).toHaveLength(taken.length);
    const [late] = taken;
    await expect(dying.tasks.complete(late?.token ?? "", 0)).rejects.toMatchObject({
      code: "attempt_superseded",
    });
  });

  test("tasks that were scheduled while no owner lived are put into their queue by the next one", async () => {
    const namespace = space();
    const starter = await connected(namespace);
    const worker = await connected(namespace);
    await worker.worker({ tasks: { square: ({ input }) => (input as number) ** 2 }, queues: ["work"] });
    const handle = await starter.start(batch, { n: 2, size: 1 }, { id: "orphan" });
    // As an owner leaves it that dies between its commit and the queue.
    const { sequence } = (await starter.log.last("orphan")) ?? { sequence: 0 };
    await starter.log.append({
      commitId: "01ARZ3NDEKTSV4RRFFQ69G5FAV",
      workflowId: "orphan",
      type: "batch",
      expected: sequence,
      condition: "handed-off",
      events: [
        {
          type: "StepScheduled",
          data: {
            name: "square",
            occurrence: 1,
            attempt: 1,
            queue: "work",
            token: "orphaned",
            input: 200,
            retry,
          },
        },
      ],
    });
    const owner = await connected(namespace);
    await owner.worker({ workflows: [batch] });
    expect(await handle.result()).toEqual([200 ** 2]);
  });
});
