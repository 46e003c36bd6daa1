/** What befalls the log under subscribers: purged, expired, made anew, gone and back; against a real broker. */
import { openEventLog } from "@millrace/event-log";
import { startTestBroker, type TestBroker } from "@millrace/event-log/conformance";
import { defaultShardCount, logNames, runSubject } from "@millrace/schemas";
import { afterAll, afterEach, beforeAll, expect, it } from "vitest";
import { askBroker } from "./testing/ask-broker.ts";
import type { StreamClient } from "./testing/stream-client.ts";
import {
  progress,
  started,
  startWorld,
  stepCompleted,
  type World,
  type WorldOptions,
} from "./testing/world.ts";

let broker: TestBroker;
let world: World;
let namespace = "";
let worlds = 0;
beforeAll(async () => {
  broker = await startTestBroker();
});
afterAll(() => broker.stop());
afterEach(() => world.close());

async function open(server: NonNullable<WorldOptions["server"]>): Promise<void> {
  namespace = `faults${++worlds}`;
  world = await startWorld({
    log: await openEventLog({ servers: broker.url, namespace }),
    server,
    project: server.projection !== null,
  });
}

const write = async (id: string, count: number): Promise<number[]> => {
  const written: number[] = [];
  for (let n = 0; n < count; n++) written.push(await world.append(id, "order", [progress(`${n}`)]));
  return written;
};
const stream = () => logNames(namespace).stream;
const longMs = 20_000;

const isLive = (client: StreamClient) =>
  client.until(() => client.frames.some(({ t }) => t === "live"), "live", longMs);

it("a broker that goes and comes back: told, the heartbeat stands meanwhile, and nothing is lost", async () => {
  await open({ settings: { heartbeatMs: 50, commitsMax: 20 } });
  const begun = [await world.append("a", "order", [started()]), ...(await write("a", 30))];
  const client = await world.client();
  client.subscribe({ i: 1, from: "start" });
  await isLive(client);
  await broker.kill();
  await client.next("behind", ({ why }) => why === "tail");
  const stood = client.frames.length;
  const beats = () => client.frames.slice(stood).filter((frame) => frame.t === "hb");
  await client.until(() => beats().length >= 5, "heartbeats without a broker", longMs);
  // None of them speaks for the subscription, and the head that they name has not moved.
  expect(beats().every((frame) => frame.t === "hb" && frame.l.length === 0 && frame.s === begun.at(-1))).toBe(
    true,
  );
  // What this process has seen it still serves, and tells where it stands.
  const late = await world.client();
  late.subscribe({ i: 1, from: "start" });
  await late.until(() => late.frames.some(({ t }) => t === "err" || t === "subbed"), "an answer", longMs);
  await broker.start();
  await client.until(() => client.frames.slice(stood).some(({ t }) => t === "live"), "live again", longMs);
  const all = [...begun, ...(await write("a", 10))];
  await client.until(() => client.cursors.get(1) === all.at(-1), "the last", longMs);
  expect(client.sequences(1)).toEqual(all);
  expect(client.alarms).toBe(0);
});

it("H3: a log made anew: everybody is told, over a while, and gets nothing of the new one", async () => {
  await open({ settings: { goneSpreadMs: 1_000 } });
  await world.append("a", "order", [started()]);
  const clients = await Promise.all(Array.from({ length: 20 }, () => world.client()));
  const told: number[] = [];
  for (const client of clients) {
    client.subscribe({ i: 1, from: "start" });
    await isLive(client);
    void client.next("gone").then(
      () => told.push(performance.now()),
      () => undefined,
    );
  }
  await askBroker(broker.port, `$JS.API.STREAM.DELETE.${stream()}`);
  const anew = await openEventLog({ servers: broker.url, namespace });
  try {
    await anew.append({
      commitId: "01JH3NEWXXG000000000000000",
      workflowId: "new",
      type: "order",
      expected: "new",
      events: [started()],
    });
    for (const client of clients)
      await client.until(() => client.frames.some(({ t }) => t === "gone"), "gone", longMs);
    const { epoch } = await anew.info();
    for (const client of clients) {
      expect(client.frames.find(({ t }) => t === "gone")).toMatchObject({ i: 1, why: "epoch", e: epoch });
      expect(client.sequences(1)).toEqual([1]);
    }
    // Not all in one moment: each of them will ask for everything.
    await expect.poll(() => told.length, { timeout: longMs }).toBe(clients.length);
    expect(Math.max(...told) - Math.min(...told)).toBeGreaterThan(500);
  } finally {
    await anew.close();
  }
});

it("cursors: one from before the first commit kept is expired, one from beyond the end is of the future", async () => {
  await open({ projection: null, settings: { commitsMax: 5 } });
  await world.append("a", "order", [started()]);
  await write("a", 30);
  await askBroker(broker.port, `$JS.API.STREAM.PURGE.${stream()}`, { seq: 11 });
  const { epoch } = await world.log.info();
  const client = await world.client();
  for (const [i, [sequence, why]] of (
    [
      [5, "expired"],
      [9, "expired"],
      [32, "future"],
    ] as const
  ).entries()) {
    client.subscribe({ i, from: `${epoch}.${sequence}` });
    expect(await client.next("gone", (frame) => frame.i === i)).toMatchObject({
      why,
      e: epoch,
      first: 11,
      head: 31,
    });
  }
  client.subscribe({ i: 9, from: `${epoch}.10` });
  await client.next("live", (frame) => frame.i === 9);
  expect(client.sequences(9)).toEqual(Array.from({ length: 21 }, (_, n) => 11 + n));
});

it("B2: the log's beginning moves on under a slow reader: it is told, and skips nothing in silence", async () => {
  await open({ projection: null, settings: { commitsMax: 5, pageCommitsMax: 10, lowBytes: 1_000 } });
  await world.append("a", "order", [started()]);
  // More than the kernel takes for a socket that nobody reads.
  const big = "x".repeat(100_000);
  for (let n = 0; n < 150; n++) await world.append("a", "order", [stepCompleted(`s${n}`, big)]);
  const client = await world.client();
  client.pause();
  client.subscribe({ i: 1, from: "start" });
  const other = await world.client();
  other.subscribe({ i: 1, from: "start" });
  await isLive(other);
  // Whatever the paused one has got by now, at the latest with the next page it stands before the first one kept.
  await askBroker(broker.port, `$JS.API.STREAM.PURGE.${stream()}`, { seq: 149 });
  client.resume();
  await client.until(
    () => client.frames.some(({ t }) => t === "gone" || t === "live"),
    "gone or live",
    longMs,
  );
  const sequences = client.sequences(1);
  expect(sequences).toEqual(Array.from({ length: sequences.length }, (_, n) => n + 1));
  expect(client.frames.find(({ t }) => t === "gone")).toMatchObject({ i: 1, why: "expired", first: 149 });
});

it("a run's history purged: who reads on from before it is told, who stands behind it and others are not", async () => {
  await open({ projection: null, settings: { commitsMax: 5 } });
  const before = await world.client();
  // The other run first, so that the log itself begins where it did.
  for (const id of ["b", "a"]) {
    await world.append(id, "order", [started()]);
    await write(id, 15);
  }
  before.subscribe({ i: 1, filter: { workflow: ["a"] } });
  await isLive(before);
  const subject = runSubject(namespace, defaultShardCount, "order", "a");
  await askBroker(broker.port, `$JS.API.STREAM.PURGE.${stream()}`, { filter: subject, keep: 4 });
  const { epoch, lastSequence } = await world.log.info();
  const client = await world.client();
  client.subscribe({ i: 1, from: `${epoch}.19`, filter: { workflow: ["a"] } });
  expect(await client.next("gone", ({ i }) => i === 1)).toMatchObject({ why: "purged" });
  client.subscribe({ i: 2, from: `${epoch}.19`, filter: { workflow: ["a"] }, shape: "state" });
  expect(await client.next("gone", ({ i }) => i === 2)).toMatchObject({ why: "purged" });
  client.subscribe({ i: 3, from: `${epoch}.30`, filter: { workflow: ["a"] } });
  await client.next("live", ({ i }) => i === 3);
  expect(client.sequences(3)).toEqual([31, 32]);
  client.subscribe({ i: 4, from: "start", filter: { workflow: ["b"] } });
  await client.next("live", ({ i }) => i === 4);
  expect(client.sequences(4)).toHaveLength(16);
  const next = await world.append("a", "order", [progress("goes on")]);
  await before.until(() => before.cursors.get(1) === next, "what comes after", longMs);
  expect(before.sequences(1)).toEqual([next]);
  expect(next).toBe(lastSequence + 1);
});

it("B3: hundred readers of old history leave no consumer in the broker and share their reads", async () => {
  await open({ projection: null, settings: { commitsMax: 5, pageCommitsMax: 50 } });
  await world.append("a", "order", [started()]);
  await write("a", 300);
  const consumers = async () =>
    ((await askBroker(broker.port, `$JS.API.STREAM.INFO.${stream()}`))["state"] as { consumer_count: number })
      .consumer_count;
  const before = await consumers();
  const clients = await Promise.all(Array.from({ length: 100 }, () => world.client()));
  for (const client of clients) client.subscribe({ i: 1, from: "start" });
  for (const client of clients) await isLive(client);
  expect(await consumers()).toBe(before);
  for (const client of clients) {
    expect(client.sequences(1)).toEqual(Array.from({ length: 301 }, (_, n) => n + 1));
    expect(client.alarms).toBe(0);
  }
  const metrics = await (await fetch(`${world.server.url}/metrics`)).text();
  const reads = Number(/catchup_reads_total\{source="broker"\} (\d+)/.exec(metrics)?.[1]);
  expect(reads).toBeGreaterThan(0);
  expect(reads).toBeLessThan(50);
});
