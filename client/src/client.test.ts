import { closeCodes, initialRunState, toRow, type ServerFrame, type WorkflowRow } from "@millrace/schemas";
import { afterEach, expect, test } from "vitest";
import { WebSocket } from "ws";
import {
  createClient,
  isMillraceError,
  type Client,
  type ClientOptions,
  type StreamStatus,
} from "./index.ts";
import { workflowRow } from "./testing/scripted-rows.ts";
import { ev, ScriptedServer, within, type ScriptedConnection } from "./testing/scripted-server.ts";

const open: { client: Client; server: ScriptedServer }[] = [];

async function start(
  options: Partial<ClientOptions> = {},
): Promise<{ client: Client; server: ScriptedServer }> {
  const server = await ScriptedServer.start();
  const client = createClient({ url: server.url, WebSocket, backoff: { minMs: 5, maxMs: 20 }, ...options });
  const both = { client, server };
  open.push(both);
  return both;
}

afterEach(async () => {
  for (const { client, server } of open.splice(0)) {
    client.close();
    await server.stop();
  }
});

async function take<Item>(count: number, items: AsyncIterator<Item, undefined>): Promise<Item[]> {
  const taken: Item[] = [];
  while (taken.length < count) {
    const result = await within(`item ${taken.length + 1} of ${count}`, items.next());
    if (result.done === true) throw new Error(`The stream ended after ${taken.length} of ${count} items.`);
    taken.push(result.value);
  }
  return taken;
}

async function greeted(server: ScriptedServer): Promise<ScriptedConnection> {
  const connection = await server.connection();
  await connection.greet();
  return connection;
}

const failureOf = (items: AsyncIterator<unknown>): Promise<unknown> =>
  within(
    "the stream's error",
    items.next().then(
      (result) => Promise.reject(new Error(`Expected an error, got ${JSON.stringify(result)}.`)),
      (error: unknown) => error,
    ),
  );

/** Resolves when `ready` holds; looked at whenever the event loop comes round. */
async function until(what: string, ready: () => boolean): Promise<void> {
  const deadline = Date.now() + 5_000;
  while (!ready()) {
    if (Date.now() > deadline) throw new Error(`Waited 5 s in vain for ${what}.`);
    await new Promise((resolve) => setImmediate(resolve));
  }
}

const row = (id: string, sequence: number): WorkflowRow => workflowRow(id, { sequence });

test("says hello first, subscribes, and yields the events with their cursors", async () => {
  const { client, server } = await start({ token: async () => "secret", client: "test/1.0" });
  const attr = { customer: 7, region: ["eu", "us"] };
  const watch = client.watch({ workflow: ["order-42"], event: ["StepStarted"], attr }, { from: "start" });
  const connection = await server.connection();
  expect(await connection.greet()).toEqual({ t: "hello", v: 1, token: "secret", client: "test/1.0" });
  const sub = await connection.accept();
  expect(sub).toEqual({
    t: "sub",
    i: sub.i,
    filter: { workflow: ["order-42"], event: ["StepStarted"], attr },
    from: "start",
    shape: "events",
  });
  connection.send(ev(sub.i, 0, 20, [7, 12, 12]), { t: "live", i: sub.i, s: 20 });
  const items = await take(3, watch);
  // The first event of the commit 12 still points before it: storing its cursor loses nothing.
  expect(items.map((item) => [item.sequence, item.cursor])).toEqual([
    [7, "9f3a.7"],
    [12, "9f3a.7"],
    [12, "9f3a.20"],
  ]);
  const [first] = items;
  expect(first).toMatchObject({
    kind: "event",
    type: "StepStarted",
    workflowId: "order-42",
    data: { name: "charge" },
  });
  expect(client.stats).toEqual({ gaps: 0, duplicates: 0, reconnects: 0, received: 3 });
});

test("connects with the first subscription and closes after the last", async () => {
  const { client, server } = await start({ idleMs: 0 });
  expect(server.accepted).toBe(0);
  const watch = client.watch({});
  const connection = await greeted(server);
  const sub = await connection.accept({ mode: "live", s: 5 });
  await until("the first cursor", () => watch.cursor === "9f3a.5");
  watch.close();
  expect(await connection.expect("unsub")).toEqual({ t: "unsub", i: sub.i });
  expect((await within("the close", connection.closed)).code).toBe(1000);
});

test("carries many subscriptions over one socket, also of the same filter", async () => {
  const { client, server } = await start();
  const ahead = client.watch({ type: ["order"] }, { from: "9f3a.50" });
  const connection = await greeted(server);
  const first = await connection.accept({ f: 7, mode: "live" });
  const behind = client.watch({ type: ["order"] }, { from: "9f3a.10" });
  const second = await connection.accept({ f: 8 });
  connection.send(ev(7, 50, 52, [52]), ev(8, 10, 40, [20, 30]), ev(8, 40, 52, [45, 52]));
  connection.send({ t: "live", i: second.i, s: 52 }, ev(7, 52, 60, [60]), ev(8, 52, 60, [60]));
  expect((await take(2, ahead)).map((item) => item.sequence)).toEqual([52, 60]);
  expect((await take(5, behind)).map((item) => item.sequence)).toEqual([20, 30, 45, 52, 60]);
  expect(first.i).not.toBe(second.i);
  expect(server.accepted).toBe(1);
  expect(client.stats).toMatchObject({ gaps: 0, duplicates: 0 });
});

test("connection I2: two subscriptions under one filter id could not be told apart, so the connection is given up", async () => {
  const { client, server } = await start();
  client.watch({}, { from: "9f3a.1" });
  client.watch({}, { from: "9f3a.2" });
  const connection = await greeted(server);
  await connection.accept({ f: 7 });
  await connection.accept({ f: 7 });
  expect((await within("the close", connection.closed)).code).toBe(closeCodes.badFrame);
});

test("I1: resumes from its cursor after a cut in mid-sequence, nothing lost and nothing twice", async () => {
  const { client, server } = await start();
  const watch = client.watch({}, { from: "9f3a.10" });
  let connection = await greeted(server);
  let sub = await connection.accept();
  expect(sub.from).toBe("9f3a.10");
  connection.send(ev(sub.i, 10, 15, [12, 15]));
  expect((await take(2, watch)).map((item) => item.sequence)).toEqual([12, 15]);
  connection.cut();

  connection = await greeted(server);
  sub = await connection.accept();
  expect(sub.from).toBe("9f3a.15");
  connection.send({ t: "bm", f: sub.i, p: 15, s: 30 });
  const next = take(1, watch);
  await until("the bookmark", () => watch.cursor === "9f3a.30");
  connection.close(closeCodes.rebalance);

  connection = await greeted(server);
  sub = await connection.accept();
  expect(sub.from).toBe("9f3a.30");
  connection.send(ev(sub.i, 30, 31, [31]));
  expect((await next).map((item) => item.sequence)).toEqual([31]);
  expect(client.stats).toEqual({ gaps: 0, duplicates: 0, reconnects: 2, received: 3 });
});

test("a frame cut in its middle ends nothing but the connection", async () => {
  const { client, server } = await start();
  const watch = client.watch({}, { from: "9f3a.1" });
  let connection = await greeted(server);
  let sub = await connection.accept();
  connection.send(JSON.stringify(ev(sub.i, 1, 9, [5, 9])).slice(0, 40));
  expect((await within("the close", connection.closed)).code).toBe(closeCodes.badFrame);
  connection = await greeted(server);
  sub = await connection.accept();
  connection.send(ev(sub.i, 1, 9, [5, 9]));
  expect((await take(2, watch)).map((item) => item.sequence)).toEqual([5, 9]);
});

test("I2: drops repeated frames and the known part of an overlapping one, and counts", async () => {
  const { client, server } = await start();
  const watch = client.watch({}, { from: "9f3a.0" });
  const connection = await greeted(server);
  const sub = await connection.accept();
  const frame = ev(sub.i, 0, 10, [4, 10]);
  connection.send(frame, frame, ev(sub.i, 8, 12, [10, 11]), { t: "live", i: sub.i, s: 12 });
  connection.send({ t: "hb", s: 12, l: [[sub.i, 11]] });
  expect((await take(3, watch)).map((item) => item.sequence)).toEqual([4, 10, 11]);
  expect(await connection.expect("report")).toEqual({ t: "report", i: sub.i, breaks: 0, duplicates: 1 });
  expect(client.stats).toMatchObject({ duplicates: 1, gaps: 0, received: 3 });
});

test("I3: without the last match a heartbeat proves nothing, and the cursor stays", async () => {
  const { client, server } = await start();
  const watch = client.watch({}, { from: "9f3a.10" });
  const connection = await greeted(server);
  const sub = await connection.accept({ mode: "live" });
  connection.send({ t: "hb", s: 40, l: [] }, ev(sub.i, 10, 20, [20]));
  expect((await take(1, watch)).map((item) => item.sequence)).toEqual([20]);
});

test("I3: counts, reports and heals a gap by resubscribing from the cursor", async () => {
  const { client, server } = await start();
  const gaps: unknown[] = [];
  const watch = client.watch({}, { from: "9f3a.10", onGap: (gap) => gaps.push(gap) });
  const connection = await greeted(server);
  const sub = await connection.accept();
  connection.send(ev(sub.i, 10, 12, [12]), ev(sub.i, 15, 20, [20]));
  expect(await connection.expect("report")).toEqual({ t: "report", i: sub.i, breaks: 1, duplicates: 0 });
  expect(await connection.expect("unsub")).toEqual({ t: "unsub", i: sub.i });
  // Frames under way belong to the subscription that was given up.
  connection.send(ev(sub.i, 20, 25, [25]));
  // The server may well name the same filter as before.
  const again = await connection.accept({ f: sub.i });
  expect(again.from).toBe("9f3a.12");
  connection.send(ev(sub.i, 12, 25, [15, 20, 25]));
  expect((await take(4, watch)).map((item) => item.sequence)).toEqual([12, 15, 20, 25]);
  expect(gaps).toEqual([{ cursor: "9f3a.12", previous: 15 }]);
  expect(client.stats).toMatchObject({ gaps: 1, reconnects: 0 });
});

test("I3: a heartbeat whose last match is past the cursor is a gap, one that is not moves the cursor", async () => {
  const { client, server } = await start();
  const watch = client.watch({}, { from: "9f3a.10" });
  const connection = await greeted(server);
  const sub = await connection.accept({ mode: "live" });
  connection.send({ t: "hb", s: 40, l: [[sub.i, 10]] });
  await until("the heartbeat", () => watch.cursor === "9f3a.40");
  connection.send({ t: "hb", s: 60, l: [[sub.i, 55]] });
  expect(await connection.expect("report")).toMatchObject({ breaks: 1 });
  await connection.expect("unsub");
  const again = await connection.accept();
  expect(again.from).toBe("9f3a.40");
  connection.send(ev(again.i, 40, 60, [55]));
  expect((await take(1, watch)).map((item) => item.sequence)).toEqual([55]);
  expect(client.stats.gaps).toBe(1);
});

test("I3: when the server waits for an ack of what never came, that is a gap", async () => {
  const { client, server } = await start();
  const watch = client.watch({}, { from: "9f3a.10" });
  const connection = await greeted(server);
  const sub = await connection.accept({ mode: "live" });
  connection.send({ t: "behind", i: sub.i, s: 12, head: 20, why: "window" });
  connection.send({ t: "hb", s: 20, l: [], w: [[sub.i, 10]] }, { t: "hb", s: 20, l: [], w: [[sub.i, 12]] });
  expect(await connection.expect("report")).toMatchObject({ breaks: 1 });
  await connection.expect("unsub");
  const again = await connection.accept();
  expect(again.from).toBe("9f3a.10");
  connection.send(ev(again.i, 10, 12, [12]));
  expect((await take(1, watch)).map((item) => item.sequence)).toEqual([12]);
  expect(client.stats.gaps).toBe(1);
});

test("the row of a state item is whole although the entry says only what changed", async () => {
  const { client, server } = await start();
  const watch = client.watch({}, { from: "snapshot", shape: "both" });
  const connection = await greeted(server);
  const sub = await connection.accept({ mode: "snapshot" });
  const whole = { ...toRow(initialRunState("a", "order")), sequence: 9, message: "nine" };
  const changed = (sequence: number, fields: object) =>
    [sequence, "state", "a", "2026-01-31T10:00:00.000Z", { id: "a", sequence, ...fields }] as never;
  connection.send(
    { t: "snap", i: sub.i, rows: [whole], more: false },
    { t: "snapend", i: sub.i, e: "9f3a", s: 10 },
    {
      t: "ev",
      f: sub.i,
      p: 10,
      s: 12,
      d: [changed(11, { currentStep: 1 }), changed(12, { message: "twelve" })],
    },
  );
  const rows = await take(3, watch);
  expect(rows.flatMap((item) => (item.kind === "state" ? [item.row] : []))).toEqual([
    { ...whole, sequence: 11, currentStep: 1 },
    { ...whole, sequence: 12, currentStep: 1, message: "twelve" },
  ]);
});

test.each(["live", "end"] as const)("I3: %s beyond the cursor is a gap", async (t) => {
  const { client, server } = await start();
  const watch = client.watch({}, { from: "9f3a.10", until: "closed" });
  const connection = await greeted(server);
  const sub = await connection.accept();
  connection.send({ t, i: sub.i, s: 12 });
  expect(await connection.expect("report")).toMatchObject({ breaks: 1 });
  await connection.expect("unsub");
  const again = await connection.accept();
  expect(again.from).toBe("9f3a.10");
  connection.send(ev(again.i, 10, 12, [12]), { t: "end", i: again.i, s: 12 });
  expect((await take(1, watch)).map((item) => item.sequence)).toEqual([12]);
  expect(await watch.next()).toEqual({ done: true, value: undefined });
});

test("a gap that resubscribing does not heal leads to another connection", async () => {
  const { client, server } = await start();
  const watch = client.watch({}, { from: "9f3a.10" });
  let connection = await greeted(server);
  for (let attempt = 0; attempt < 3; attempt += 1) {
    const sub = await connection.accept();
    connection.send(ev(sub.i, 11, 12, [12]));
    await connection.expect("report");
    await connection.expect("unsub");
  }
  expect((await within("the close", connection.closed)).code).toBe(closeCodes.internal);
  connection = await greeted(server);
  const sub = await connection.accept();
  expect(sub.from).toBe("9f3a.10");
  connection.send(ev(sub.i, 10, 12, [11, 12]));
  expect((await take(2, watch)).map((item) => item.sequence)).toEqual([11, 12]);
});

test("missed heartbeats end the connection with 4005, after the status went stale", async () => {
  const { client, server } = await start();
  const statuses: StreamStatus[] = [];
  client.watch({}, { from: "9f3a.10", onStatus: (status) => statuses.push(status) });
  const connection = await server.connection();
  await connection.greet({ hb: 40 });
  await connection.accept({ mode: "live" });
  expect((await within("the close", connection.closed)).code).toBe(closeCodes.heartbeatLost);
  const again = await greeted(server);
  await again.accept({ mode: "live" });
  await until("live", () => statuses.at(-1) === "live");
  expect(statuses).toEqual(["live", "stale", "offline", "connecting", "live"]);
});

test("says catching-up, live, and stale when the server lost the log", async () => {
  const { client, server } = await start();
  const statuses: StreamStatus[] = [];
  client.watch({}, { from: "9f3a.10", onStatus: (status) => statuses.push(status) });
  const connection = await greeted(server);
  const { i } = await connection.accept();
  connection.send({ t: "bm", f: i, p: 10, s: 20 });
  connection.send({ t: "live", i, s: 20 }, { t: "behind", i, s: 20, head: 20, why: "tail" });
  connection.send({ t: "live", i, s: 20 }, { t: "behind", i, s: 20, head: 90, why: "slow" });
  await until("five statuses", () => statuses.length === 5);
  expect(statuses).toEqual(["catching-up", "live", "stale", "live", "catching-up"]);
});

test("waits within the bounds of bye, which win over the backoff", async () => {
  const { client, server } = await start({ random: () => 0 });
  const watch = client.watch({}, { from: "9f3a.10" });
  const connection = await greeted(server);
  await connection.accept();
  const said = Date.now();
  connection.send({ t: "bye", code: closeCodes.draining, min: 150, max: 400 });
  const again = await greeted(server);
  // The backoff with random 0 would have come back at once.
  expect(Date.now() - said).toBeGreaterThanOrEqual(149);
  const sub = await again.accept();
  expect(sub.from).toBe("9f3a.10");
  again.send(ev(sub.i, 10, 11, [11]));
  await take(1, watch);
});

test("keeps trying when the first connection fails", async () => {
  const taken = await ScriptedServer.start();
  const { port } = taken;
  await taken.stop();
  const warnings: string[] = [];
  const logger = {
    debug: () => undefined,
    warn: (_fields: object, message: string) => warnings.push(message),
  };
  const client = createClient({
    url: `ws://127.0.0.1:${port}`,
    WebSocket,
    logger,
    backoff: { minMs: 5, maxMs: 20 },
  });
  const watch = client.watch({}, { from: "9f3a.10" });
  await until("two failures", () => warnings.length >= 2);
  const server = await ScriptedServer.start(undefined, port);
  open.push({ client, server });
  const connection = await greeted(server);
  const sub = await connection.accept();
  connection.send(ev(sub.i, 10, 11, [11]));
  expect((await take(1, watch)).map((item) => item.sequence)).toEqual([11]);
});

test.each([
  { name: "retry: false", options: { retry: false } },
  { name: "attemptsMax", options: { backoff: { minMs: 1, maxMs: 2, attemptsMax: 3 } } },
])("$name makes failed connections final", async ({ options }) => {
  const server = await ScriptedServer.start();
  const { url } = server;
  await server.stop();
  const client = createClient({ url, WebSocket, ...options });
  const error = await failureOf(client.watch({}));
  expect(isMillraceError(error, "unavailable")).toBe(true);
  expect(String(error)).toContain("ECONNREFUSED");
  client.close();
});

test.each([
  ["epoch", "cursor_epoch"],
  ["expired", "cursor_expired"],
  ["purged", "cursor_expired"],
  ["future", "cursor_future"],
] as const)("I4: gone with %s is the error %s", async (why, code) => {
  const { client, server } = await start();
  const watch = client.watch({}, { from: "0123abcd.10" });
  const connection = await greeted(server);
  const sub = await connection.expect("sub");
  connection.send({ t: "gone", i: sub.i, why, e: "9f3a", first: 50, head: 100 });
  const error = await failureOf(watch);
  expect(isMillraceError(error, code)).toBe(true);
  expect(error).toMatchObject({
    message: expect.stringMatching(
      /^Resume from cursor 0123abcd\.10 refused: .* sequences 50 to 100\. .* begin again with from: /,
    ),
    details: { cursor: "0123abcd.10", why, epoch: "9f3a", first: 50, head: 100 },
  });
  expect(await watch.next()).toEqual({ done: true, value: undefined });
});

test("I4: onGone restarts with a notice, from the snapshot or the start", async () => {
  const { client, server } = await start();
  const watch = client.watch({}, { from: "9f3a.10", onGone: "restart-from-snapshot" });
  const connection = await greeted(server);
  const sub = await connection.expect("sub");
  connection.send({ t: "gone", i: sub.i, why: "expired", e: "9f3a", first: 50, head: 100 });
  const again = await connection.accept({ mode: "snapshot" });
  expect(again.from).toBe("snapshot");
  connection.send({ t: "snap", i: again.i, rows: [row("a", 60)], more: false });
  connection.send({ t: "snapend", i: again.i, e: "9f3a", s: 100 }, ev(again.i, 100, 101, [101]));
  const items = await take(3, watch);
  expect(items[0]).toEqual({
    kind: "restart",
    why: "expired",
    from: "snapshot",
    lost: "9f3a.10",
    first: 50,
    head: 100,
    cursor: null,
  });
  expect(items.slice(1)).toMatchObject([
    { kind: "snapshot", first: true, last: true, cursor: "9f3a.100" },
    { kind: "event", sequence: 101 },
  ]);
});

test.each([
  [closeCodes.badFrame, "invalid_request"],
  [closeCodes.unauthenticated, "forbidden"],
  [closeCodes.noHello, "hello_missing"],
  [closeCodes.forbidden, "forbidden"],
  [closeCodes.version, "protocol_version"],
  [closeCodes.connectionLimit, "limit_exceeded"],
  [closeCodes.frameTooBig, "frame_too_large"],
  [4999, "internal"],
] as const)("close code %i is final: %s", async (closeCode, code) => {
  const { client, server } = await start();
  const watch = client.watch({});
  const connection = await server.connection();
  connection.close(closeCode, "no");
  const error = await failureOf(watch);
  expect(isMillraceError(error, code)).toBe(true);
  expect(error).toMatchObject({ details: { closeCode } });
  expect(server.accepted).toBe(1);
});

test("the server's err before a final close gives the error its code and words", async () => {
  const { client, server } = await start();
  const watch = client.watch({});
  const connection = await server.connection();
  connection.send({
    t: "err",
    code: "protocol_version",
    msg: "This server speaks 2.",
    retry: false,
    after: 0,
  });
  connection.close(closeCodes.version);
  expect(String(await failureOf(watch))).toContain("This server speaks 2.");
});

test("an err of one subscription ends that one, or makes it try again later", async () => {
  const { client, server } = await start();
  const bad = client.watch({ workflow: ["a"] });
  const connection = await greeted(server);
  const refused = await connection.expect("sub");
  const late = client.watch({ workflow: ["b"] }, { from: "9f3a.1" });
  const delayed = await connection.expect("sub");
  connection.send({
    t: "err",
    i: refused.i,
    code: "filter_invalid",
    msg: "No such field.",
    retry: false,
    after: 0,
  });
  connection.send({ t: "err", i: delayed.i, code: "overloaded", msg: "Later.", retry: true, after: 120 });
  expect(isMillraceError(await failureOf(bad), "filter_invalid")).toBe(true);
  const again = await connection.accept();
  expect(again.from).toBe("9f3a.1");
  connection.send(ev(again.i, 1, 2, [2]));
  expect((await take(1, late)).map((item) => item.sequence)).toEqual([2]);
});

test.each([
  ["no JSON", "{"],
  ["no object", "[1]"],
  ["entries out of order", JSON.stringify(ev(1, 0, 10, [5, 4]))],
  ["an entry outside of (p, s]", JSON.stringify(ev(1, 0, 10, [11]))],
  ["p after s", JSON.stringify({ t: "bm", f: 1, p: 9, s: 3 })],
  ["a sequence that is no integer", JSON.stringify({ t: "bm", f: 1, p: 0, s: 1.5 })],
  ["a binary message", new Uint8Array([1, 2, 3])],
])("garbage (%s) ends the connection with 4500 and all is resumed", async (_name, garbage) => {
  const { client, server } = await start();
  const watch = client.watch({}, { from: "9f3a.0" });
  const connection = await greeted(server);
  const sub = await connection.accept();
  if (typeof garbage === "string") connection.send(garbage);
  else connection.sendBinary(garbage);
  expect((await within("the close", connection.closed)).code).toBe(closeCodes.badFrame);
  const again = await greeted(server);
  const resumed = await again.accept();
  expect(resumed.from).toBe("9f3a.0");
  again.send({ t: "tomorrow", x: 1 } as unknown as ServerFrame, ev(resumed.i, 0, 3, [3]));
  expect((await take(1, watch)).map((item) => item.sequence)).toEqual([3]);
  expect(sub.from).toBe("9f3a.0");
});

test("a snapshot comes in pages; a cut within it begins it anew", async () => {
  const { client, server } = await start();
  const watch = client.watch({ type: ["order"] }, { from: "snapshot", shape: "state" });
  let connection = await greeted(server);
  let { i } = await connection.accept({ mode: "snapshot" });
  connection.send(
    { t: "snap", i, rows: [row("a", 3)], more: true },
    { t: "snap", i, rows: [row("b", 4)], more: true },
  );
  const [half] = await take(1, watch);
  expect(half).toMatchObject({ kind: "snapshot", first: true, last: false, cursor: null });
  connection.cut();

  connection = await greeted(server);
  const sub = await connection.accept({ mode: "snapshot" });
  expect(sub.from).toBe("snapshot");
  i = sub.i;
  connection.send({ t: "snap", i, rows: [row("a", 3)], more: true });
  connection.send({ t: "snap", i, rows: [row("b", 9)], more: false }, { t: "snapend", i, e: "9f3a", s: 10 });
  const state = [11, "state", "a", "2026-01-01T00:00:00.000Z", row("a", 11)] as const;
  connection.send({ t: "ev", f: i, p: 10, s: 11, d: [state] });
  const items = await take(3, watch);
  expect(items).toMatchObject([
    { kind: "snapshot", rows: [{ id: "a" }], first: true, last: false, cursor: null },
    { kind: "snapshot", rows: [{ id: "b" }], first: false, last: true, cursor: "9f3a.10" },
    { kind: "state", sequence: 11, row: { id: "a", sequence: 11 }, cursor: "9f3a.11" },
  ]);
  expect(watch.cursor).toBe("9f3a.10");
});

test("until closed: the iteration ends by itself, after the last event", async () => {
  const { client, server } = await start();
  const watch = client.watch({ workflow: ["order-42"] }, { from: "start", until: "closed" });
  const connection = await greeted(server);
  const sub = await connection.accept();
  expect(sub.until).toBe("closed");
  connection.send(ev(sub.i, 0, 4, [2, 4]), { t: "bm", f: sub.i, p: 4, s: 6 });
  connection.send({ t: "end", i: sub.i, s: 6 });
  const sequences: number[] = [];
  for await (const event of watch) sequences.push(event.sequence);
  expect(sequences).toEqual([2, 4]);
  expect(watch.cursor).toBe("9f3a.6");
});

test("subscription I2: a slow consumer pauses the subscription and resumes it; memory is bounded, nothing is lost", async () => {
  const { client, server } = await start();
  const watch = client.watch({}, { from: "9f3a.0", bufferedItemsMax: 8 });
  const connection = await greeted(server);
  const sub = await connection.accept();
  for (let s = 1; s <= 20; s += 1) connection.send(ev(sub.i, s - 1, s, [s]));
  expect(await connection.expect("unsub")).toEqual({ t: "unsub", i: sub.i });
  // Eight are kept; the twelve that were under way are dropped, to be sent again.
  expect(client.stats.received).toBe(8);
  expect(watch.status).toBe("catching-up");
  expect((await take(5, watch)).map((item) => item.sequence)).toEqual([1, 2, 3, 4, 5]);
  const more = take(15, watch);
  const again = await connection.accept();
  expect(again.from).toBe("9f3a.8");
  connection.send(ev(again.i, 8, 20, [9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20]));
  const rest = await more;
  expect(rest.map((item) => item.sequence)).toEqual([6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20]);
  expect(client.stats).toMatchObject({ gaps: 0, duplicates: 0 });
});

test("subscription I2: more waiting snapshot rows than the limit end the subscription", async () => {
  const { client, server } = await start();
  const watch = client.watch({}, { from: "snapshot", snapshotRowsMax: 2 });
  const connection = await greeted(server);
  const { i } = await connection.accept({ mode: "snapshot" });
  for (let page = 0; page < 4; page += 1) {
    connection.send({ t: "snap", i, rows: [row(`w${page}`, 1)], more: true });
  }
  await connection.expect("unsub");
  await take(3, watch);
  expect(await failureOf(watch)).toMatchObject({ code: "limit_exceeded", details: { limit: 2, actual: 3 } });
});

test("callbacks get one item at a time, and the cursor only after the handler resolved", async () => {
  const { client, server } = await start();
  const log: string[] = [];
  let release: () => void = () => undefined;
  const gate = new Promise<void>((resolve) => {
    release = resolve;
  });
  const subscription = client.subscribe(
    {},
    {
      from: "9f3a.0",
      onEvent: async (event) => {
        log.push(`begin ${event.sequence}`);
        if (event.sequence === 1) await gate;
        log.push(`end ${event.sequence}`);
      },
      onCursor: (cursor) => log.push(cursor),
      onEnd: () => log.push("ended"),
      onError: (error) => log.push(String(error)),
    },
  );
  const connection = await greeted(server);
  const sub = await connection.accept();
  connection.send(ev(sub.i, 0, 1, [1]), ev(sub.i, 1, 3, [2]), { t: "bm", f: sub.i, p: 3, s: 9 });
  await until("the first handler", () => log.length === 1);
  expect(subscription.cursor).toBe("9f3a.0");
  release();
  await until("the bookmark", () => subscription.cursor === "9f3a.9");
  subscription.close();
  await until("the end", () => log.at(-1) === "ended");
  expect(log).toEqual(["begin 1", "end 1", "9f3a.1", "begin 2", "end 2", "9f3a.3", "9f3a.9", "ended"]);
});

test("a handler that throws ends the subscription with its error, the cursor before that item", async () => {
  const { client, server } = await start();
  const errors: unknown[] = [];
  const boom = new Error("boom");
  const subscription = client.subscribe(
    {},
    {
      from: "9f3a.0",
      onEvent: (event) => {
        if (event.sequence === 2) throw boom;
      },
      onError: (error) => errors.push(error),
    },
  );
  const connection = await greeted(server);
  const sub = await connection.accept();
  connection.send(ev(sub.i, 0, 3, [1, 2, 3]));
  await connection.expect("unsub");
  await until("the error", () => errors.length === 1);
  expect(errors).toEqual([boom]);
  expect(subscription.cursor).toBe("9f3a.1");
});

test("a signal ends the iteration with its reason, unchanged", async () => {
  const { client, server } = await start();
  const controller = new AbortController();
  const watch = client.watch({}, { signal: controller.signal });
  const connection = await greeted(server);
  await connection.accept({ mode: "live", s: 3 });
  const next = failureOf(watch);
  const reason = new Error("enough");
  controller.abort(reason);
  expect(await next).toBe(reason);
  await connection.expect("unsub");
  expect(await failureOf(client.watch({}, { signal: controller.signal }))).toBe(reason);
});

test("a signal given to the client closes it", async () => {
  const controller = new AbortController();
  const { client, server } = await start({ signal: controller.signal });
  const watch = client.watch({});
  const connection = await greeted(server);
  const next = watch.next();
  controller.abort();
  expect(await within("the end", next)).toEqual({ done: true, value: undefined });
  expect((await within("the close", connection.closed)).code).toBe(1000);
});

test("a token function that fails is asked again with the next connection", async () => {
  let asked = 0;
  const token = (): string => {
    asked += 1;
    if (asked === 1) throw new Error("no token yet");
    return `token ${asked}`;
  };
  const { client, server } = await start({ token });
  client.watch({});
  await within("the close", (await server.connection()).closed);
  const connection = await server.connection();
  expect(await connection.greet()).toMatchObject({ token: "token 2" });
});

test("a final error does not spoil the client: a later watch connects anew", async () => {
  const { client, server } = await start();
  const refused = client.watch({});
  (await server.connection()).close(closeCodes.unauthenticated);
  await failureOf(refused);
  const watch = client.watch({}, { from: "9f3a.1" });
  const connection = await greeted(server);
  const sub = await connection.accept();
  connection.send(ev(sub.i, 1, 2, [2]));
  expect((await take(1, watch)).map((item) => item.sequence)).toEqual([2]);
});

test("closing the client ends every subscription without an error", async () => {
  const { client, server } = await start();
  const watch = client.watch({});
  const connection = await greeted(server);
  await connection.accept();
  const next = watch.next();
  client.close();
  expect(await within("the end", next)).toEqual({ done: true, value: undefined });
  expect((await within("the close", connection.closed)).code).toBe(1000);
  expect(await client.watch({}).next()).toEqual({ done: true, value: undefined });
});

test("a server that does not speak the subprotocol is a final, typed error", async () => {
  // The `ws` package and browsers fail such a handshake by themselves; this one is more lenient.
  class Lenient extends WebSocket {
    constructor(url: string, _protocols: string) {
      super(url);
    }
  }
  const { client } = await start({ WebSocket: Lenient });
  expect(isMillraceError(await failureOf(client.watch({})), "subprotocol_missing")).toBe(true);
});

test("a malformed cursor throws at once", async () => {
  const { client } = await start();
  expect(() => client.watch({}, { from: "yesterday" })).toThrowError(/Cursor "yesterday" is malformed/);
});

test("without a WebSocket in the runtime the error says what to pass", () => {
  const present = Object.getOwnPropertyDescriptor(globalThis, "WebSocket");
  Object.defineProperty(globalThis, "WebSocket", { value: undefined, configurable: true });
  try {
    expect(() => createClient({ url: "ws://127.0.0.1:1", transports: ["websocket"] })).toThrowError(
      /no WebSocket.*ws/s,
    );
  } finally {
    if (present === undefined) Reflect.deleteProperty(globalThis, "WebSocket");
    else Object.defineProperty(globalThis, "WebSocket", present);
  }
});

test.each(["nonsense", "ftp://host/"])("the address %s is refused", (url) => {
  expect(() => createClient({ url, WebSocket })).toThrowError(/createClient/);
});
