/** What a `sub` may ask for besides filter and cursor: window, batch, shapes, statuses, the end of a run. */
import type { ServerFrame, SubscribeFrame, WorkflowEvent } from "@millrace/schemas";
import { afterEach, describe, expect, it } from "vitest";
import type { StreamClient } from "./testing/stream-client.ts";
import { completed, memoryWorld, progress, started, stepCompleted, type World } from "./testing/world.ts";

let world: World;
afterEach(() => world.close());

const eventFrames = (client: StreamClient) => client.frames.filter((frame) => frame.t === "ev");
const kinds = (client: StreamClient, ...wanted: ServerFrame["t"][]) =>
  client.frames.filter(({ t }) => wanted.includes(t)).map(({ t }) => t);

async function append(count: number, run = "a"): Promise<number> {
  let last = 0;
  for (let n = 0; n < count; n++) last = await world.append(run, "order", [progress(`${n}`)]);
  return last;
}

describe("window", () => {
  it("sends so many entries and no more, says why, and goes on with each acknowledgement", async () => {
    world = await memoryWorld();
    const client = await world.client();
    client.subscribe({ i: 1, window: 3 });
    client.subscribe({ i: 2 });
    await client.next("live");
    await client.next("live");
    await world.append("a", "order", [started()]);
    await append(9);
    // The one without a window has all: so the other was given what it may have.
    await client.until(() => client.sequences(2).length === 10, "all without a window");
    expect(await client.next("behind")).toMatchObject({ i: 1, why: "window", s: 3 });
    expect(client.sequences(1)).toEqual([1, 2, 3]);
    client.send({ t: "ack", i: 1, s: 1 });
    await client.until(() => client.sequences(1).length === 4, "one more for one acknowledged");
    client.send({ t: "ack", i: 1, s: 4 });
    await client.until(() => client.sequences(1).length === 7, "three more for three");
    client.send({ t: "ack", i: 1, s: 7 });
    await client.until(() => client.sequences(1).length === 10, "the rest");
    client.send({ t: "ack", i: 1, s: 10 });
    await client.next("live", ({ i }) => i === 1);
    expect(client.sequences(1)).toEqual(client.sequences(2));
    expect(client.alarms).toBe(0);
  });

  it("goes on at once, whenever the next tick is, and counts what a catch-up sends", async () => {
    world = await memoryWorld({ server: { settings: { tickMs: 600_000 } } });
    await world.append("a", "order", [started()]);
    await append(30);
    const client = await world.client();
    client.subscribe({ i: 1, from: "start", window: 4 });
    for (let acknowledged = 0; acknowledged < 31;) {
      const wanted = Math.min(acknowledged + 4, 31);
      await client.until(() => client.sequences(1).length === wanted, `${wanted} entries`);
      expect((await client.next("ev")).d).toHaveLength(wanted - acknowledged);
      acknowledged = wanted;
      client.send({ t: "ack", i: 1, s: client.cursors.get(1) });
    }
    await client.next("live");
    expect(client.alarms).toBe(0);
  });

  it("never tears a commit, and a commit larger than the window still comes", async () => {
    world = await memoryWorld();
    const client = await world.client();
    client.subscribe({ i: 1, window: 2, shape: "both" });
    await client.next("live");
    const events = [started(), progress("1"), progress("2"), progress("3")];
    const first = await world.append("a", "order", events);
    const second = await world.append("a", "order", [progress("4")]);
    expect((await client.next("ev")).d).toHaveLength(5);
    expect((await client.next("behind")).why).toBe("window");
    expect(client.sequences(1)).toEqual([first, first, first, first, first]);
    client.send({ t: "ack", i: 1, s: first });
    await client.until(() => client.cursors.get(1) === second, "the second commit");
    expect(client.alarms).toBe(0);
  });

  it("late and repeated acknowledgements change nothing; impossible ones are refused, and all goes on", async () => {
    world = await memoryWorld();
    await world.append("a", "order", [started()]);
    await append(5);
    const client = await world.client();
    client.subscribe({ i: 1, from: "start", window: 3 });
    client.subscribe({ i: 2, from: "start" });
    await client.until(() => client.sequences(1).length === 3, "three");
    client.send({ t: "ack", i: 1, s: 999 });
    expect(await client.next("err")).toMatchObject({ i: 1, code: "invalid_request", retry: false });
    client.send({ t: "ack", i: 2, s: 1 });
    expect(await client.next("err")).toMatchObject({ i: 2, code: "invalid_request" });
    client.send({ t: "ack", i: 7, s: 1 });
    expect(await client.next("err")).toMatchObject({ i: 7, code: "subscription_unknown" });
    for (const s of [2, 2, 1, 0]) client.send({ t: "ack", i: 1, s });
    await client.until(() => client.sequences(1).length === 5, "two more");
    client.send({ t: "ack", i: 1, s: 5 });
    await client.next("live", ({ i }) => i === 1);
    expect(client.closed).toBeNull();
    expect(client.alarms).toBe(0);
  });

  it("a heartbeat says up to where it waits", async () => {
    world = await memoryWorld({ server: { settings: { heartbeatMs: 50 } } });
    const client = await world.client();
    client.subscribe({ i: 1, window: 1 });
    const { f } = await client.next("subbed");
    await client.next("live");
    await world.append("a", "order", [started()]);
    await append(2);
    expect(await client.next("hb", ({ w }) => w !== undefined)).toMatchObject({ l: [], w: [[f, 1]] });
    client.send({ t: "ack", i: 1, s: 1 });
    await client.until(() => client.sequences(1).length === 2, "the second");
  });
});

describe("batch", () => {
  it("holds live entries until there are enough, and is one frame then", async () => {
    world = await memoryWorld();
    const [client, other] = [await world.client(), await world.client()];
    client.subscribe({ i: 1, batch: { max: 5, ms: 1_000 } });
    other.subscribe({ i: 1 });
    await Promise.all([client.next("live"), other.next("live")]);
    await world.append("a", "order", [started()]);
    await append(3);
    await other.until(() => other.sequences(1).length === 4, "all without a batch");
    expect(eventFrames(client)).toEqual([]);
    await append(1);
    expect((await client.next("ev")).d).toHaveLength(5);
    expect(eventFrames(client)).toHaveLength(1);
    expect(client.alarms + other.alarms).toBe(0);
  });

  it("holds them no longer than its time, with one timer for several topics", async () => {
    world = await memoryWorld({ server: { settings: { tickMs: 600_000 } } });
    const client = await world.client();
    for (const [n, ms] of [400, 30, 150].entries()) {
      client.subscribe({ i: n, batch: { max: 100, ms }, filter: { workflow: ["a"] } });
      await client.next("live");
    }
    await world.append("a", "order", [started()]);
    await client.until(() => [0, 1, 2].every((i) => client.sequences(i).length === 1), "all three");
    // The shortest first.
    const order = eventFrames(client).map(({ f }) => f);
    const fs = client.frames.flatMap((frame) => (frame.t === "subbed" ? [frame.f] : []));
    expect(order).toEqual([fs[1], fs[2], fs[0]]);
  });

  it("sends what it holds before the end, and says nothing over it in heartbeats", async () => {
    world = await memoryWorld({ server: { settings: { heartbeatMs: 20 } } });
    const client = await world.client();
    client.subscribe({ i: 1, batch: { max: 100, ms: 1_000 }, filter: { workflow: ["a"] }, until: "closed" });
    await client.next("live");
    const first = await world.append("a", "order", [started()]);
    // Heartbeats of the time in which it is held do not move the cursor: its frame would be dropped as a repeat.
    await client.next("hb", ({ s }) => s === first);
    await client.next("hb", ({ s }) => s === first);
    expect(client.cursors.get(1)).toBe(0);
    const last = await world.append("a", "order", [completed()]);
    expect((await client.next("end")).s).toBe(last);
    expect(client.sequences(1)).toEqual([first, last]);
    expect(client.alarms).toBe(0);
  });

  it("loses nothing when the tail is lost while it holds something", async () => {
    const starting = memoryWorld();
    world = await starting;
    const client = await world.client();
    client.subscribe({ i: 1, batch: { max: 100, ms: 1_000 } });
    await client.next("live");
    const other = await world.client();
    other.subscribe({ i: 1 });
    await other.next("live");
    const first = await world.append("a", "order", [started()]);
    await other.until(() => other.cursors.get(1) === first, "the commit on the tail");
    starting.broker.disconnect();
    await client.next("behind");
    starting.broker.reconnect();
    await client.until(() => client.sequences(1).length === 1, "what was held");
    expect(client.alarms).toBe(0);
  });
});

describe("shapes", () => {
  it("both: a commit's events, then its row, in one frame; of a schedule only the events", async () => {
    world = await memoryWorld();
    await world.append("a", "order", [started()]);
    const client = await world.client();
    client.subscribe({ i: 1, shape: "both", from: "start" });
    client.subscribe({ i: 2, shape: "both", from: "start", filter: { event: ["StepCompleted"] } });
    await client.next("live");
    await client.next("live");
    const last = await world.append("a", "order", [progress("half"), stepCompleted("pay")]);
    await client.until(() => client.cursors.get(1) === last && client.cursors.get(2) === last, "the last");
    const shown = (i: number) => (client.entries.get(i) ?? []).map(([s, type]) => `${s} ${type}`);
    expect(shown(1)).toEqual([
      "1 WorkflowStarted",
      "1 state",
      "2 ProgressReported",
      "2 StepCompleted",
      "2 state",
    ]);
    expect(shown(2)).toEqual(["2 StepCompleted", "2 state"]);
    const [first, changed] = (client.entries.get(1) ?? []).flatMap((entry) =>
      entry[1] === "state" ? [entry[4]] : [],
    );
    expect(first).toMatchObject({ id: "a", type: "order", message: "Workflow started" });
    expect(Object.keys(changed ?? {}).sort()).toEqual(
      expect.arrayContaining(["currentStep", "id", "message", "sequence", "steps", "totalSteps"]),
    );
    expect(changed).not.toHaveProperty("input");
    // The other one's filter skips commits: all of the row.
    expect((client.entries.get(2) ?? []).at(-1)?.[4]).toMatchObject({ type: "order", input: null });
  });

  it.each(["events", "state", "both"] as const)("%s: ends with the run, live and replayed", async (shape) => {
    world = await memoryWorld({ server: { settings: { commitsMax: 2 } } });
    const filter = { workflow: ["a"] };
    const live = await world.client();
    live.subscribe({ i: 1, filter, shape, until: "closed" });
    await live.next("live");
    await world.append("a", "order", [started()]);
    await append(4);
    const close = await world.append("a", "order", [completed()]);
    expect((await live.next("end")).s).toBe(close);
    await world.projection.waitFor(close, 5_000);
    const late = await world.client();
    late.subscribe({ i: 1, filter, shape, from: "start", until: "closed" });
    expect((await late.next("end")).s).toBe(close);
    expect(late.sequences(1)).toEqual(live.sequences(1));
    expect(live.sequences(1)).toHaveLength(shape === "both" ? 12 : 6);
    expect(live.alarms + late.alarms).toBe(0);
  });

  it("min: a snapshot has what was written before it was asked for", async () => {
    world = await memoryWorld();
    await world.projector.stop();
    const last = await world.append("a", "order", [started(), progress("written")]);
    const client = await world.client();
    client.subscribe({ i: 1, from: "snapshot", shape: "state", min: last });
    await world.projector.start();
    expect((await client.next("snap")).rows).toMatchObject([{ id: "a", message: "written" }]);
    expect((await client.next("snapend")).s).toBeGreaterThanOrEqual(last);
  });
});

describe("statuses", () => {
  const failed: WorkflowEvent = { type: "WorkflowFailed", data: { error: { message: "no" } } };
  const paused: WorkflowEvent = { type: "WorkflowPaused", data: {} };
  const resumed: WorkflowEvent = { type: "WorkflowResumed", data: {} };
  const filters: NonNullable<SubscribeFrame["filter"]>[] = [
    { status: ["paused"] },
    { status: ["failed", "completed"], type: ["order"] },
    { status: ["paused"], workflow: ["a"], event: ["WorkflowPaused"] },
    { status: ["running"], attr: { customer: "7" } },
  ];
  const subscribe = (client: StreamClient, from: string) => {
    for (const [n, filter] of filters.entries()) {
      client.subscribe({ i: n, filter, from });
      client.subscribe({ i: 10 + n, filter, from, shape: "state" });
    }
  };
  const seen = (client: StreamClient) =>
    filters.map((_, n) => [client.sequences(n), client.sequences(10 + n)]);

  it("by the status before or after a commit: the same live, from the ring, and replayed on another server", async () => {
    world = await memoryWorld({ server: { settings: { commitsMax: 4 } } });
    const live = await world.client();
    subscribe(live, "start");
    for (let n = 0; n < 8; n++) await live.next("live");
    const customer: WorkflowEvent = { type: "AttributesUpserted", data: { attributes: { customer: 7 } } };
    await world.append("a", "order", [started()]); // 1 running
    await world.append("b", "order", [started()]); // 2 running
    await world.append("a", "order", [paused]); // 3 paused
    await world.append("a", "order", [progress("held")]); // 4 paused
    await world.append("b", "order", [customer]); // 5 running
    await world.append("a", "order", [resumed]); // 6 running
    await world.append("b", "order", [paused]); // 7 paused
    await world.append("b", "order", [progress("held")]); // 8 paused
    await world.append("b", "order", [failed]); // 9 failed
    await world.append("c", "parcel", [started(), completed()]); // 10 completed, of another type
    const head = await world.append("a", "order", [completed()]); // 11 completed
    const wanted = [[3, 4, 6, 7, 8, 9], [9, 11], [3], [5, 7]].map((list) => [list, list]);
    await live.until(() => JSON.stringify(seen(live)) === JSON.stringify(wanted), "what matches, live");
    await world.projection.waitFor(head, 5_000);
    const ring = await world.startServer({ settings: { commitsMax: 100 } });
    const [replayed, resumedAll] = [await world.client(), await world.client(ring)];
    for (const client of [replayed, resumedAll]) {
      subscribe(client, "start");
      for (let n = 0; n < 8; n++) await client.next("live");
      expect(seen(client)).toEqual(wanted);
      expect(client.alarms).toBe(0);
    }
    expect(live.alarms).toBe(0);
  });

  it("a snapshot has the runs with the status, and then sees them leave and others come", async () => {
    world = await memoryWorld();
    await world.append("a", "order", [started(), paused]);
    await world.append("b", "order", [started()]);
    const client = await world.client();
    client.subscribe({ i: 1, from: "snapshot", shape: "state", min: 2, filter: { status: ["paused"] } });
    expect((await client.next("snap")).rows.map(({ id }) => id)).toEqual(["a"]);
    await client.next("live");
    const left = await world.append("a", "order", [resumed]);
    const came = await world.append("b", "order", [paused]);
    await world.append("a", "order", [progress("running")]);
    const last = await world.append("b", "order", [progress("held")]);
    await client.until(() => client.cursors.get(1) === last, "the last");
    expect(client.sequences(1)).toEqual([left, came, last]);
  });
});

describe("quiet filters", () => {
  it("a live cursor is moved on after so many sequences, without a heartbeat", async () => {
    world = await memoryWorld({ server: { settings: { bookmarkSequences: 20, heartbeatMs: 600_000 } } });
    const client = await world.client();
    client.subscribe({ i: 1, filter: { workflow: ["nobody"] } });
    await client.next("live");
    await world.append("a", "order", [started()]);
    const last = await append(50);
    await client.until(() => (client.cursors.get(1) ?? 0) > last - 20, "the cursor near the head");
    // Bounded in number, too.
    expect(kinds(client, "bm").length).toBeLessThanOrEqual(Math.ceil(last / 20));
    expect(client.alarms).toBe(0);
  });

  it("a replay that finds nothing tells now and then, not with each page, and brings the cursor to the head", async () => {
    const settings = { bookmarkSequences: 40, pageCommitsMax: 5, commitsMax: 5 };
    world = await memoryWorld({ server: { settings } });
    await world.append("a", "order", [started()]);
    const last = await append(150);
    await world.projection.waitFor(last, 5_000);
    const client = await world.client();
    client.subscribe({ i: 1, filter: { event: ["WorkflowFailed"] }, from: "start" });
    await client.next("live");
    expect(client.cursors.get(1)).toBe(last);
    const bookmarks = kinds(client, "bm").length;
    expect(bookmarks).toBeGreaterThanOrEqual(3);
    expect(bookmarks).toBeLessThanOrEqual(5);
    expect(client.alarms).toBe(0);
  });
});
