/** A node without a projection beside one with it: both on one log, and what they send must be the same. */
import type { EventLog } from "@millrace/event-log";
import { createMemoryLog } from "@millrace/event-log";
import type { StreamShape, SubscribeFrame, WorkflowEvent } from "@millrace/schemas";
import { afterEach, expect, it } from "vitest";
import { WebSocket } from "ws";
import type { StreamServer } from "./start-stream-server.ts";
import { completed, progress, started, startWorld, stepCompleted, type World } from "./testing/world.ts";

let world: World;
let bare: StreamServer;
/** Reads of old history, and followers, that the log was asked for. */
let pages = 0;
let follows = 0;
afterEach(() => world.close());

/** The ring holds little, so that nearly all is old history. */
async function open(): Promise<void> {
  const inner = createMemoryLog();
  pages = follows = 0;
  const log: EventLog = {
    ...inner,
    page(options) {
      pages++;
      return inner.page(options);
    },
    follow(options) {
      follows++;
      return inner.follow(options);
    },
  };
  world = await startWorld({ log, server: { settings: { commitsMax: 5, pageCommitsMax: 7 } } });
  bare = await world.startServer({ projection: null });
}

const attributes = (customer: string): WorkflowEvent => ({
  type: "AttributesUpserted",
  data: { attributes: { customer } },
});

async function write(): Promise<number> {
  let last = 0;
  for (const [n, id] of ["a", "b", "c"].entries()) {
    await world.append(id, n === 2 ? "permit" : "order", [started({ n }), attributes(String(n))]);
    for (let step = 0; step < 20; step++) {
      await world.append(id, n === 2 ? "permit" : "order", [stepCompleted(`s${step}`), progress(`${step}`)]);
      if (step === 10) await world.append(id, n === 2 ? "permit" : "order", [attributes("x")]);
    }
    last = await world.append(
      id,
      n === 2 ? "permit" : "order",
      n === 1 ? [progress("still open")] : [completed(n)],
    );
  }
  await world.projection.waitFor(last, 5_000);
  return last;
}

/** What a subscription got until it was live or ended. */
async function follow(
  server: StreamServer,
  filter: SubscribeFrame["filter"],
  shape: StreamShape,
  until?: "closed",
) {
  const client = await world.client(server);
  client.subscribe({ i: 1, from: "start", filter, shape, ...(until === undefined ? {} : { until }) });
  await client.until(
    () => client.frames.some(({ t }) => t === "live" || t === "end" || t === "err"),
    "live or end",
  );
  expect(client.alarms).toBe(0);
  expect(client.frames.filter(({ t }) => t === "err")).toEqual([]);
  return { entries: client.entries.get(1), ended: client.frames.some(({ t }) => t === "end") };
}

it("B1: old history is the same from the broker as from the projection, whatever the filter and shape", async () => {
  await open();
  await write();
  const followed = follows;
  const cases: [SubscribeFrame["filter"], StreamShape, "closed"?][] = [
    [{}, "events"],
    [{ type: ["permit"] }, "events"],
    [{ event: ["StepCompleted"] }, "events"],
    [{ workflow: ["a", "c", "nobody"], type: ["order"] }, "events"],
    [{ workflow: ["a"] }, "state"],
    [{ workflow: ["a", "b"] }, "both"],
    [{ workflow: ["a", "b", "c"], attr: { customer: "1" } }, "events"],
    [{ workflow: ["a", "b", "c"], attr: { customer: "x" } }, "state"],
    [{ workflow: ["a", "b"], status: ["completed"] }, "events"],
    [{ workflow: ["c"] }, "events", "closed"],
  ];
  for (const [filter, shape, until] of cases) {
    const expected = await follow(world.server, filter, shape, until);
    const got = await follow(bare, filter, shape, until);
    expect(got, JSON.stringify(filter)).toEqual(expected);
    expect(got.entries?.length, JSON.stringify(filter)).toBeGreaterThan(0);
  }
  // B3: no consumer for anybody.
  expect(follows).toBe(followed);
});

it("live rows go on from the folded history, on a node without a projection too", async () => {
  await open();
  await write();
  const [one, two] = [await world.client(), await world.client(bare)];
  for (const client of [one, two]) {
    client.subscribe({ i: 1, filter: { workflow: ["b"] }, shape: "state" });
    await client.next("live");
  }
  let last = 0;
  for (let n = 0; n < 12; n++) last = await world.append("b", "order", [progress(`later ${n}`)]);
  for (const client of [one, two]) await client.until(() => client.cursors.get(1) === last, "the last");
  expect(two.entries.get(1)).toEqual(one.entries.get(1));
  expect(one.alarms + two.alarms).toBe(0);
});

it("C1: fifty clients that resume from the same cursor cause the reads of one", async () => {
  await open();
  await write();
  await follow(bare, {}, "events");
  const alone = pages;
  const clients = await Promise.all(Array.from({ length: 50 }, () => world.client(bare)));
  for (const client of clients)
    client.subscribe({ i: 1, from: "start", filter: { event: ["StepCompleted"] } });
  await Promise.all(clients.map((client) => client.next("live")));
  expect(pages - alone).toBeLessThan(2 * alone);
  for (const client of clients) expect(client.sequences(1)).toHaveLength(60);
  const metrics = await (await fetch(`${bare.url}/metrics`)).text();
  expect(metrics).toMatch(/catchup_reads_total\{source="projection"\} 0/);
  expect(metrics).toMatch(/catchup_reads_total\{source="broker"\} [1-9]/);
  expect(metrics).toMatch(/catchup_reads_total\{source="shared"\} [1-9]\d\d/);
});

it("refuses what it cannot do, with the way to who can", async () => {
  await open();
  await write();
  const client = await world.client(bare);
  const refused = [
    { from: "snapshot" },
    { shape: "state" as const },
    { shape: "both" as const, filter: { type: ["order"] } },
    { filter: { attr: { customer: "1" } } },
    { filter: { status: ["running" as const] } },
  ];
  for (const [i, each] of refused.entries()) {
    client.subscribe({ i, ...each });
    const { code, msg, retry } = await client.next("err", (frame) => frame.i === i);
    expect({ code, retry }).toEqual({ code: "projection_missing", retry: false });
    expect(msg).toContain("Ask a node with a projection");
  }
  for (const path of ["/v1/workflows", "/v1/workflows/a", "/v1/workflows/a/events", "/v1/schedules"]) {
    const answer = await fetch(`${bare.url}${path}`);
    expect(answer.status, path).toBe(501);
    expect(await answer.json()).toMatchObject({ code: "projection_missing", retryable: false });
  }
  expect((await fetch(`${bare.url}/readyz`)).status).toBe(200);
  // min is the log's own position there.
  client.subscribe({ i: 20, from: "now", min: 10 });
  await client.next("live", (frame) => frame.i === 20);
  client.subscribe({ i: 21, from: "now", min: 10_000 });
  expect(await client.next("err", (frame) => frame.i === 21)).toMatchObject({
    code: "projector_behind",
    retry: true,
  });
});

it("gives plain updates from the run's own history", async () => {
  await open();
  await write();
  const got: unknown[] = [];
  const socket = new WebSocket(`${bare.url.replace("http", "ws")}/api/workflows/c/updates`);
  await new Promise<void>((resolve, reject) => {
    socket.on("message", (data: Buffer) => {
      got.push(JSON.parse(data.toString()));
      resolve();
    });
    socket.on("error", reject);
  });
  socket.terminate();
  expect(got).toMatchObject([{ workflow_id: "c", status: "completed" }]);
});
