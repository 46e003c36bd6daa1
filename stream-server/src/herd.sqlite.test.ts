/** Many clients at once: those who come back, those who are slow, several nodes, and what all of them may cost. */
import { join, dirname } from "node:path";
import { openProjection, startProjector } from "@millrace/projector";
import { afterEach, expect, it } from "vitest";
import { startStreamServer } from "./start-stream-server.ts";
import { StreamClient } from "./testing/stream-client.ts";
import { memoryWorld, progress, started, stepCompleted, type World } from "./testing/world.ts";

let world: World;
afterEach(() => world.close());

const longMs = 20_000;
const metric = async (url: string, name: string): Promise<number> => {
  const text = await (await fetch(`${url}/metrics`)).text();
  const line = text.split("\n").find((each) => each.startsWith(`${name} `));
  return Number(line?.slice(name.length + 1));
};
const readsOf = async (url: string): Promise<number> =>
  (await metric(url, 'millrace_catchup_reads_total{source="projection"}')) +
  (await metric(url, 'millrace_catchup_reads_total{source="broker"}'));

async function writeRun(count: number): Promise<number> {
  let last = await world.append("a", "order", [started()]);
  for (let n = 1; n < count; n++) last = await world.append("a", "order", [progress(`${n}`)]);
  await world.projection.waitFor(last, longMs);
  return last;
}
const isLive = (client: StreamClient) =>
  client.until(() => client.frames.some(({ t }) => t === "live"), "live", longMs);

it("a herd that the ring covers causes no read at all, and everybody goes on where it stood", async () => {
  world = await memoryWorld();
  const first = await writeRun(20);
  const herd = await Promise.all(Array.from({ length: 300 }, () => world.client()));
  for (const client of herd) client.subscribe({ i: 1 });
  for (const client of herd) await isLive(client);
  const cursors = herd.map((client) => client.cursors.get(1));
  for (const client of herd) client.cut();
  let last = first;
  for (let n = 0; n < 50; n++) last = await world.append("a", "order", [progress(`missed ${n}`)]);
  const before = await readsOf(world.server.url);
  const { epoch } = await world.log.info();
  const back = await Promise.all(herd.map(() => world.client()));
  for (const [n, client] of back.entries()) client.subscribe({ i: 1, from: `${epoch}.${cursors[n]}` });
  for (const client of back) {
    await isLive(client);
    expect(client.sequences(1)).toEqual(Array.from({ length: 50 }, (_, n) => first + 1 + n));
    expect(client.alarms).toBe(0);
  }
  expect(await readsOf(world.server.url)).toBe(before);
  expect(last).toBe(first + 50);
});

it("C3: a herd beyond the ring is let in so many a second, in order; more than may wait are told when to come back", async () => {
  const settings = { commitsMax: 5, deepPerSecond: 40, deepBurst: 10, deepWaitingMax: 30 };
  world = await memoryWorld({ server: { settings } });
  const last = await writeRun(30);
  const herd = await Promise.all(Array.from({ length: 60 }, () => world.client()));
  // Different filters: nobody is served by somebody else's read.
  for (const [n, client] of herd.entries())
    client.subscribe({ i: 1, from: "start", filter: { workflow: ["a", `other-${n}`] } });
  for (const client of herd)
    await client.until(() => client.frames.some(({ t }) => t === "live" || t === "err"), "an answer", longMs);
  const refused = herd.flatMap(({ frames }) => frames.flatMap((frame) => (frame.t === "err" ? [frame] : [])));
  expect(refused.length).toBeGreaterThan(5);
  expect(refused.length).toBeLessThanOrEqual(20);
  expect(
    refused.every(
      ({ code, retry, after }) => code === "overloaded" && retry && after >= 1_000 && after <= 5_000,
    ),
  ).toBe(true);
  expect(new Set(refused.map(({ after }) => after)).size).toBeGreaterThan(1);
  for (const client of herd) {
    if (client.frames.some(({ t }) => t === "err")) continue;
    expect(client.cursors.get(1)).toBe(last);
  }
});

it("new connections beyond the rate are refused, and taken again later", async () => {
  world = await memoryWorld({ server: { settings: { connectionsPerSecond: 5, connectionsBurst: 3 } } });
  const tried = await Promise.allSettled(
    Array.from({ length: 12 }, () => StreamClient.open(world.server.url)),
  );
  const opened = tried.filter((each) => each.status === "fulfilled");
  for (const { value } of opened) value.cut();
  expect(opened.length).toBeGreaterThanOrEqual(3);
  expect(opened.length).toBeLessThan(12);
  await expect
    .poll(
      () =>
        StreamClient.open(world.server.url).then(
          (client) => client.cut(),
          (error: unknown) => String(error),
        ),
      {
        timeout: longMs,
      },
    )
    .toBeUndefined();
});

it("a server that drains spreads its clients over time", async () => {
  world = await memoryWorld();
  const herd = await Promise.all(Array.from({ length: 100 }, () => world.client()));
  await world.server.drain();
  for (const client of herd) {
    await client.until(() => client.closed !== null, "the close", longMs);
    expect(client.closed?.code).toBe(4000);
    expect(client.frames.at(-1)).toEqual({ t: "bye", code: 4000, min: 500, max: 15_000 });
  }
});

it("a slow client costs the limit and one frame, however much it has not read, and is exact in the end", async () => {
  world = await memoryWorld({ server: { settings: { commitsMax: 20 } } });
  const slow = await Promise.all(Array.from({ length: 5 }, () => world.client()));
  for (const client of slow) {
    client.subscribe({ i: 1 });
    await isLive(client);
    client.pause();
  }
  let last = await world.append("a", "order", [started()]);
  let most = 0;
  const big = "x".repeat(100_000);
  for (let n = 0; n < 200; n++) {
    last = await world.append("a", "order", [stepCompleted(`s${n}`, big)]);
    if (n % 10 === 0) most = Math.max(most, await metric(world.server.url, "millrace_buffered_bytes_max"));
  }
  most = Math.max(most, await metric(world.server.url, "millrace_buffered_bytes_max"));
  // Reached the limit: 262,144. A frame is 65,536 and what one commit goes beyond it, 100,000.
  expect(most).toBeGreaterThan(100_000);
  expect(most).toBeLessThan(262_144 + 65_536 + 110_000);
  for (const client of slow) {
    client.resume();
    await client.until(() => client.cursors.get(1) === last, "the last", longMs);
    expect(client.sequences(1)).toEqual(Array.from({ length: last }, (_, n) => n + 1));
    expect(client.alarms).toBe(0);
  }
});

it("memory of all together has a budget, the ring included: over it, nobody new is taken until there is room", async () => {
  const settings = { bytesMax: 1_000_000, memoryBytesMax: 1_300_000, highBytes: 1e9 };
  world = await memoryWorld({ server: { settings } });
  const slow = await world.client();
  slow.subscribe({ i: 1 });
  await isLive(slow);
  slow.pause();
  let last = await world.append("a", "order", [started()]);
  const big = "x".repeat(200_000);
  for (let n = 0; n < 60; n++) last = await world.append("a", "order", [stepCompleted(`s${n}`, big)]);
  await world.projection.waitFor(last, longMs);
  await expect
    .poll(() => metric(world.server.url, 'millrace_demotions_total{reason="slow"}'), { timeout: longMs })
    .toBeGreaterThan(0);
  const refused = await world.client();
  refused.subscribe({ i: 1 });
  expect(await refused.next("bye")).toMatchObject({ code: 4004 });
  slow.resume();
  await slow.until(() => slow.cursors.get(1) === last, "the last", longMs);
  expect(slow.sequences(1)).toEqual(Array.from({ length: last }, (_, n) => n + 1));
  await expect
    .poll(
      async () => {
        const client = await world.client();
        client.subscribe({ i: 1 });
        await client.until(
          () => client.frames.some(({ t }) => t === "live" || t === "bye"),
          "an answer",
          longMs,
        );
        return client.frames.some(({ t }) => t === "live");
      },
      { timeout: longMs },
    )
    .toBe(true);
});

it("a budget that the ring alone would take is refused at the start", async () => {
  world = await memoryWorld();
  const { log, projection, millrace } = world;
  await expect(
    startStreamServer({ log, projection, millrace, port: 0, settings: { memoryBytesMax: 1_000 } }),
  ).rejects.toMatchObject({ code: "invalid_request" });
});

it("any cursor on any node: one whose projector is behind serves it when it can, and min guards against the past", async () => {
  world = await memoryWorld();
  const begun = await writeRun(10);
  // A second node with a projection of its own, held back here, and a ring that begins here.
  const path = join(dirname(world.path), "second.sqlite");
  const projection = openProjection({ path, log: world.log });
  const run = () => startProjector({ log: world.log, path, onAdvance: () => projection.advance() });
  const held = await run();
  await projection.waitFor(begun, longMs);
  await held.stop();
  const middle = await writeMore(10);
  const node = await world.startServer({ projection, node: "second", settings: { projectorWaitMs: 100 } });
  const last = await writeMore(10);

  const one = await world.client();
  one.subscribe({ i: 1, from: "snapshot", shape: "state" });
  const { s } = await one.next("snapend");
  expect(s).toBe(last);
  const { epoch } = await world.log.info();

  const two = await world.client(node);
  two.subscribe({ i: 1, from: "snapshot", shape: "state", min: s });
  expect(await two.next("err")).toMatchObject({ i: 1, code: "projector_behind", retry: true });
  // Without min it would go back in time, and says so by its sequence.
  two.subscribe({ i: 2, from: "snapshot", shape: "state" });
  expect(await two.next("snapend")).toMatchObject({ i: 2, s: begun });
  // The first node's cursors: at its head, in the ring, and where neither ring nor projection of this node reach yet.
  two.subscribe({ i: 3, from: `${epoch}.${s}` });
  await two.next("live", ({ i }) => i === 3);
  two.subscribe({ i: 4, from: `${epoch}.${middle}` });
  await two.next("live", ({ i }) => i === 4);
  expect(two.sequences(4)).toEqual(Array.from({ length: 10 }, (_, n) => middle + 1 + n));
  two.subscribe({ i: 5, from: `${epoch}.${begun + 3}` });
  two.subscribe({ i: 6, from: `${epoch}.2`, filter: { workflow: ["a"] }, shape: "state" });
  await two.next("subbed", ({ i }) => i === 6);
  expect(two.frames.some((frame) => frame.t === "live" && frame.i > 4)).toBe(false);
  const again = await run();
  try {
    await two.next("live", ({ i }) => i === 5 || i === 6);
    await two.until(() => two.cursors.get(5) === last && two.cursors.get(6) === last, "both", longMs);
    expect(two.sequences(5)).toEqual(Array.from({ length: last - begun - 3 }, (_, n) => begun + 4 + n));
    expect(two.sequences(6)).toEqual(Array.from({ length: last - 2 }, (_, n) => 3 + n));
    two.subscribe({ i: 7, from: "snapshot", shape: "state", min: s });
    expect(await two.next("snapend")).toMatchObject({ i: 7, s: last });
    expect(two.alarms + one.alarms).toBe(0);
  } finally {
    await again.stop();
    await node.close();
    projection.close();
  }
});

async function writeMore(count: number): Promise<number> {
  let last = 0;
  for (let n = 0; n < count; n++) last = await world.append("a", "order", [progress(`more ${n}`)]);
  await world.projection.waitFor(last, longMs);
  return last;
}
