/** The fleet on a real broker, each worker on a connection of its own, with the broker killed in between. */
import { openEventLog, type EventLog } from "@millrace/event-log";
import { startTestBroker, type TestBroker } from "@millrace/event-log/conformance";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import { connect } from "../connect.ts";
import { defineWorkflow } from "../definition.ts";
import { silentLogger } from "../logger.ts";
import type { Millrace } from "../millrace.ts";
import type { Worker } from "../worker.ts";

const leaseMs = 2_000;
const until = { timeout: 30_000, interval: 20 };

let broker: TestBroker;
let spaces = 0;
const open: { readonly millrace: Millrace; readonly log: EventLog }[] = [];

beforeAll(async () => {
  broker = await startTestBroker();
});
afterEach(async () => {
  await Promise.all(
    open.splice(0).map(async ({ millrace, log }) => {
      await millrace.close();
      await log.close();
    }),
  );
});
afterAll(async () => {
  await broker.stop();
});

function fleet() {
  const namespace = `fleet${++spaces}`;
  const calls: string[] = [];
  const lost: string[] = [];
  const logger = {
    ...silentLogger,
    warn: (_fields: object, message: string) => {
      if (message.includes("is lost")) lost.push(message);
    },
  };
  async function connected(): Promise<{ readonly millrace: Millrace; readonly log: EventLog }> {
    const log = await openEventLog({ servers: broker.url, namespace });
    const connection = { log, millrace: await connect({ log, logger }) };
    open.push(connection);
    return connection;
  }
  const walk = (name: string, stepMs: number) =>
    defineWorkflow({ type: "walk" }, async (ctx) => {
      for (const step of ["a", "b", "c"]) {
        await ctx.step(step, async () => {
          calls.push(`${name} ${ctx.workflowId} ${step}`);
          await new Promise((resolve) => setTimeout(resolve, stepMs));
        });
      }
    });
  return { connected, walk, calls, lost };
}

const total = (workers: readonly Worker[]): number =>
  workers.reduce((sum, worker) => sum + worker.stats().shards, 0);

function stepsOf(calls: readonly string[]): string[] {
  return calls.map((call) => call.split(" ").slice(1).join(" ")).toSorted();
}

function everyStepOf(ids: readonly string[]): string[] {
  return ids.flatMap((id) => ["a", "b", "c"].map((step) => `${id} ${step}`)).toSorted();
}

test("workers on three connections share the runs, and leave one after the other without a step run twice", async () => {
  const { connected, walk, calls } = fleet();
  const workers: Worker[] = [];
  for (const name of ["x", "y", "z"])
    workers.push(await (await connected()).millrace.worker({ workflows: [walk(name, 15)], leaseMs }));
  const { millrace: client } = await connected();
  const ids = Array.from({ length: 150 }, (_, index) => `run-${index}`);
  const results = ids.map(async (id) => (await client.start(walk("", 0), null, { id })).result());
  await expect.poll(() => new Set(calls.map((call) => call[0])).size, until).toBe(3);
  await workers[0]?.drain();
  await workers[1]?.drain();
  await Promise.all(results);
  expect(stepsOf(calls)).toEqual(everyStepOf(ids));
  await expect.poll(() => workers[2]?.stats().shards, until).toBe(64);
  expect((await client.fleet()).sessions).toHaveLength(1);
});

test("a broker that is killed and back within the lease costs nobody its session", async () => {
  const { connected, walk, lost } = fleet();
  const workers = [
    await (await connected()).millrace.worker({ workflows: [walk("x", 20)], leaseMs: 10_000 }),
    await (await connected()).millrace.worker({ workflows: [walk("y", 20)], leaseMs: 10_000 }),
  ];
  await expect.poll(() => total(workers), until).toBe(64);
  const { millrace: client } = await connected();
  const before = (await client.fleet()).sessions;
  const ids = Array.from({ length: 60 }, (_, index) => `run-${index}`);
  const results = ids.map(async (id) => (await client.start(walk("", 0), null, { id })).result());
  await broker.kill();
  await broker.start();
  await Promise.all(results);
  const after = (await client.fleet()).sessions;
  expect(after.map(({ session, shards }) => [session, shards])).toEqual(
    before.map(({ session, shards }) => [session, shards]),
  );
  expect(lost).toEqual([]);
});

test("a broker that is away for longer than the lease: all runs stop, then all go on, each step recorded once", async () => {
  const { connected, walk, lost, calls } = fleet();
  const workers = [
    await (await connected()).millrace.worker({ workflows: [walk("x", 30)], leaseMs }),
    await (await connected()).millrace.worker({ workflows: [walk("y", 30)], leaseMs }),
  ];
  const { millrace: client, log } = await connected();
  const ids = Array.from({ length: 40 }, (_, index) => `run-${index}`);
  const results = ids.map(async (id) => (await client.start(walk("", 0), null, { id })).result());
  await expect.poll(() => calls.length, until).toBeGreaterThan(ids.length);
  await broker.kill();
  await expect.poll(() => lost.length, until).toBe(2);
  await expect
    .poll(() => workers.map((worker) => worker.stats()), until)
    .toMatchObject([
      { runs: 0, shards: 0 },
      { runs: 0, shards: 0 },
    ]);
  await broker.start();
  await Promise.all(results);
  for (const id of ids) {
    const events = (await log.load(id)).flatMap((commit) => commit.events);
    const steps = events.flatMap(({ type, data }) => (type === "StepCompleted" ? [data.name] : []));
    expect(steps).toEqual(["a", "b", "c"]);
  }
  await expect.poll(() => total(workers), until).toBe(64);
  await expect.poll(async () => (await client.fleet()).sessions.length, until).toBe(2);
});

test("a connection that ends without a word is replaced when its lease is over", async () => {
  const { connected, walk, calls } = fleet();
  const doomed = await connected();
  await doomed.millrace.worker({ workflows: [walk("doomed", 60_000)], leaseMs });
  const { millrace: client } = await connected();
  const handle = await client.start(walk("", 0), null, { id: "run" });
  await expect.poll(() => calls, until).toEqual(["doomed run a"]);
  const heir = await (await connected()).millrace.worker({ workflows: [walk("heir", 1)], leaseMs });
  open.splice(open.indexOf(doomed), 1);
  const endedAt = performance.now();
  await doomed.log.close();
  await handle.result();
  expect(performance.now() - endedAt).toBeLessThan(leaseMs + 1_000);
  expect(calls.filter((call) => call.startsWith("heir"))).toEqual(["heir run a", "heir run b", "heir run c"]);
  expect(heir.stats()).toMatchObject({ shards: 64 });
});

test("a worker that is alone starts as fast as ever", async () => {
  const { connected, walk } = fleet();
  const { millrace } = await connected();
  const began = performance.now();
  const worker = await millrace.worker({ workflows: [walk("x", 1)] });
  const tookMs = performance.now() - began;
  expect(worker.stats()).toMatchObject({ shards: 64, takeOvers: 1 });
  process.stdout.write(`fleet: a worker that is alone has started in ${tookMs.toFixed(0)} ms\n`);
  // A lease is 10 s: what is measured here must have nothing to do with it.
  expect(tookMs).toBeLessThan(2_000);
});
