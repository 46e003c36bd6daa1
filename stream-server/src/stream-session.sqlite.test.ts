import { createMemoryLog, type EventLog } from "@millrace/event-log";
import { afterEach, describe, expect, it } from "vitest";
import {
  closeCodes,
  evolveCommit,
  formatCursor,
  initialRunState,
  toRow,
  type AttributeChanges,
  type Attributes,
  type StateEntry,
  type SubscribeFrame,
  type WorkflowEvent,
} from "@millrace/schemas";
import { StreamClient } from "./testing/stream-client.ts";
import { completed, memoryWorld, progress, started, stepCompleted, type World } from "./testing/world.ts";

let world: World;
afterEach(() => world.close());

async function write(runs: readonly string[], commits: number): Promise<number[]> {
  const sequences: number[] = [];
  for (const run of runs) sequences.push(await world.append(run, "order", [started({ run })]));
  for (let n = 0; n < commits; n++) {
    for (const run of runs) sequences.push(await world.append(run, "order", [progress(`${run} ${n}`)]));
  }
  return sequences;
}

describe("millrace.v1: following", () => {
  it("welcomes, goes live, and sends each event once, all events of a commit in one frame", async () => {
    world = await memoryWorld();
    const client = await world.client();
    client.subscribe({ i: 1 });
    expect(await client.next("subbed")).toMatchObject({ i: 1, mode: "live", s: 0, resumed: false });
    await client.next("live");
    const first = await world.append("a", "order", [started(), progress("one"), progress("two")]);
    const frame = await client.next("ev");
    expect(frame).toMatchObject({ p: 0, s: first });
    expect(frame.d.map((entry) => entry.slice(0, 3))).toEqual([
      [first, "WorkflowStarted", "a"],
      [first, "ProgressReported", "a"],
      [first, "ProgressReported", "a"],
    ]);
    expect(frame.d[1]?.[4]).toEqual({ message: "one" });
    expect(client.alarms).toBe(0);
  });

  it("replays from start, then goes on live, through the projection and through the ring", async () => {
    world = await memoryWorld({ server: { settings: { commitsMax: 20 } } });
    await write(["a", "b"], 50);
    const all = await world.client();
    all.subscribe({ i: 1, from: "start" });
    expect(await all.next("subbed")).toMatchObject({ mode: "catchup", s: 0 });
    const one = await world.client();
    one.subscribe({ i: 1, from: "start", filter: { workflow: ["b"] } });
    await Promise.all([all.next("live"), one.next("live")]);
    const last = await world.append("b", "order", [progress("end")]);
    await Promise.all(
      [all, one].map((client) => client.until(() => client.cursors.get(1) === last, "the last")),
    );
    expect(all.sequences(1)).toEqual(Array.from({ length: 103 }, (_, n) => n + 1));
    expect(one.sequences(1)).toHaveLength(52);
    expect(all.alarms + one.alarms).toBe(0);
  });

  it("filters by workflow, type and event; a filter that matches nothing is live and its cursor moves", async () => {
    world = await memoryWorld({ server: { settings: { heartbeatMs: 50 } } });
    await world.append("a", "order", [started()]);
    const client = await world.client();
    client.subscribe({ i: 1, filter: { workflow: ["a"] }, from: "start" });
    client.subscribe({ i: 2, filter: { type: ["parcel"] }, from: "start" });
    client.subscribe({ i: 3, filter: { event: ["StepCompleted"] }, from: "start" });
    client.subscribe({ i: 4, filter: { workflow: ["nobody"] }, from: "start" });
    for (let n = 0; n < 4; n++) await client.next("live");
    await world.append("b", "parcel", [started()]);
    await world.append("a", "order", [stepCompleted("x"), progress("y")]);
    const head = await world.append("b", "parcel", [stepCompleted("z")]);
    await client.until(
      () => [1, 2, 3, 4].every((i) => client.cursors.get(i) === head),
      "all cursors at the head",
    );
    expect(client.sequences(1)).toEqual([1, 3, 3]);
    expect(client.sequences(2)).toEqual([2, 4]);
    expect(client.sequences(3)).toEqual([3, 4]);
    expect(client.sequences(4)).toEqual([]);
    expect(client.frames.some((frame) => frame.t === "bm")).toBe(true);
    expect(client.alarms).toBe(0);
  });

  it("filters by attributes as they are around each commit: the same live, from the ring, from the projection, on another server", async () => {
    world = await memoryWorld({ server: { settings: { commitsMax: 5 } } });
    const filters: NonNullable<SubscribeFrame["filter"]>[] = [
      { attr: { customer: 7 } },
      { attr: { customer: ["8", "7"], region: "eu" } },
      { workflow: ["a"], attr: { customer: "7" } },
      { type: ["order"], attr: { customer: "7" }, event: ["ProgressReported"] },
    ];
    const subscribe = (client: StreamClient, from: string, shape: "events" | "state" = "events") => {
      for (const [n, filter] of filters.entries()) client.subscribe({ i: n + 1, filter, from, shape });
    };
    const [live, states] = [await world.client(), await world.client()];
    subscribe(live, "start");
    subscribe(states, "start", "state");
    for (const client of [live, states]) for (const _ of filters) await client.next("live");
    const change = (attributes: AttributeChanges): WorkflowEvent => ({
      type: "AttributesUpserted",
      data: { attributes },
    });
    const begin = (attributes: Attributes): WorkflowEvent => ({
      type: "WorkflowStarted",
      data: { version: "1", driver: "external", attributes },
    });
    await world.append("a", "order", [begin({ customer: "7", region: "us" })]); // 1
    await world.append("b", "order", [begin({ customer: "8", region: "eu" })]); // 2
    await world.append("a", "order", [progress("in")]); // 3
    await world.append("a", "order", [change({ customer: "8" }), progress("leaving")]); // 4
    await world.append("a", "order", [progress("out")]); // 5
    await world.append("b", "order", [change({ customer: null })]); // 6
    await world.append("b", "order", [progress("out")]); // 7
    for (let n = 0; n < 8; n++) await world.append("c", "order", [n === 0 ? started() : progress("noise")]); // 8 to 15
    await world.append("a", "order", [change({ customer: 7, region: "eu" })]); // 16
    const head = await world.append("a", "order", [progress("in again")]); // 17
    const wanted = [
      [1, 3, 4, 4, 16, 17],
      [2, 6, 16, 17],
      [1, 3, 4, 4, 16, 17],
      [3, 4, 17],
    ];
    const wantedRows = wanted.map((sequences) => [...new Set(sequences)]);

    const check = async (client: StreamClient, expected: number[][]) => {
      await client.until(
        () => expected.every((each, n) => client.sequences(n + 1).length >= each.length),
        "all that matches",
      );
      expect(expected.map((_, n) => client.sequences(n + 1))).toEqual(expected);
      expect(client.alarms).toBe(0);
    };
    await check(live, wanted);
    await check(states, wantedRows);
    await world.projection.waitFor(head, 2_000);
    // On the same server through the projection and its short ring, and on one that starts without a ring.
    for (const server of [world.server, await world.startServer()]) {
      const [events, rows] = [await world.client(server), await world.client(server)];
      subscribe(events, "start");
      subscribe(rows, "start", "state");
      await check(events, wanted);
      await check(rows, wantedRows);
      for (const [n] of filters.entries()) expect(rows.entries.get(n + 1)).toEqual(states.entries.get(n + 1));
      const snapped = await world.client(server);
      snapped.subscribe({ i: 1, filter: { attr: { customer: "7" } }, from: "snapshot" });
      const { rows: found } = await snapped.next("snap");
      expect(found.map(({ id }) => id)).toEqual(["a"]);
    }
    const again = await world.append("b", "order", [change({ customer: 7 })]);
    await live.until(() => live.sequences(1).includes(again), "a run that comes in");
  });

  it("waits, with a filter on attributes, for a projector that is away, and misses nothing", async () => {
    world = await memoryWorld({ server: { settings: { commitsMax: 3 } } });
    const start: WorkflowEvent = {
      type: "WorkflowStarted",
      data: { version: "1", driver: "external", attributes: { customer: 7 } },
    };
    await world.append("a", "order", [start]);
    await world.projection.waitFor(1, 2_000);
    await world.projector.stop();
    const server = await world.startServer({ settings: { commitsMax: 3 } });
    const client = await world.client(server);
    client.subscribe({ i: 1, filter: { attr: { customer: "7" } } });
    await client.next("live");
    // The run's own commits leave the ring before anybody asked for its attributes.
    for (let n = 0; n < 6; n++) await world.append("b", "order", [n === 0 ? started() : progress("noise")]);
    const second = await world.append("a", "order", [progress("two")]);
    await client.next("behind");
    await world.projector.start();
    await client.until(() => client.sequences(1).includes(second), "the commit");
    expect(client.sequences(1)).toEqual([second]);
    expect(client.alarms).toBe(0);
  });

  it("gives a second subscription with the same filter on one socket an f of its own, and shares it between sockets", async () => {
    world = await memoryWorld();
    const [one, two] = [await world.client(), await world.client()];
    one.subscribe({ i: 1, filter: { workflow: ["a", "b"] } });
    const f1 = (await one.next("subbed")).f;
    one.subscribe({ i: 2, filter: { workflow: ["b", "a", "a"] } });
    const f2 = (await one.next("subbed")).f;
    two.subscribe({ i: 1, filter: { workflow: ["b", "a"] } });
    expect((await two.next("subbed")).f).toBe(f1);
    expect(f2).not.toBe(f1);
    await world.append("a", "order", [started()]);
    await one.until(() => one.sequences(1).length === 1 && one.sequences(2).length === 1, "both");
    expect(one.alarms).toBe(0);
  });

  it("resumes from a cursor on another server: nothing lost, nothing twice", async () => {
    world = await memoryWorld({ server: { settings: { commitsMax: 10 } } });
    await write(["a"], 5);
    const client = await world.client();
    client.subscribe({ i: 1, from: "start" });
    await client.until(() => client.cursors.get(1) === 6, "six");
    const { e } = client.frames[0] as { e: string };
    client.cut();
    await write(["b"], 40);
    const other = await world.startServer();
    const again = await world.client(other);
    again.subscribe({ i: 9, from: formatCursor(e, 6) });
    expect(await again.next("subbed")).toMatchObject({ mode: "catchup", s: 6, resumed: true });
    await again.next("live");
    expect(again.sequences(9)).toEqual(Array.from({ length: 41 }, (_, n) => n + 7));
    expect(again.alarms).toBe(0);
  });

  it("ends with the run: live, in catch-up, and when it was closed before", async () => {
    world = await memoryWorld();
    await world.append("a", "order", [started()]);
    const early = await world.client();
    early.subscribe({ i: 1, filter: { workflow: ["a"] }, from: "start", until: "closed" });
    early.subscribe({ i: 2, filter: { workflow: ["a"], event: ["StepCompleted"] }, until: "closed" });
    await early.next("live");
    await early.next("live");
    await world.append("b", "order", [started()]);
    const end = await world.append("a", "order", [completed()]);
    await early.next("end", ({ i }) => i === 1);
    expect((await early.next("end", ({ i }) => i === 2)).s).toBe(end);
    expect(early.sequences(1)).toEqual([1, end]);
    expect(early.cursors.get(2)).toBe(end);
    const late = await world.client();
    late.subscribe({ i: 1, filter: { workflow: ["a"] }, from: "start", until: "closed" });
    late.subscribe({ i: 2, filter: { workflow: ["a"] }, until: "closed" });
    late.subscribe({ i: 3, filter: { workflow: ["a"] }, until: "closed", from: "snapshot" });
    const ends = [await late.next("end"), await late.next("end"), await late.next("end")];
    expect(new Set(ends.map(({ i }) => i))).toEqual(new Set([1, 2, 3]));
    // Its id is free again.
    late.subscribe({ i: 1 });
    await late.next("live");
    expect(early.alarms + late.alarms).toBe(0);
  });

  it("sends a snapshot that is exact at its sequence, then goes on from there", async () => {
    world = await memoryWorld();
    await write(["a", "b", "c"], 3);
    const client = await world.client();
    client.subscribe({ i: 1, from: "snapshot", shape: "state", min: 12, filter: { workflow: ["a", "b"] } });
    expect(await client.next("subbed")).toMatchObject({ mode: "snapshot" });
    const snap = await client.next("snap");
    const { s, e } = await client.next("snapend");
    expect(s).toBe(12);
    expect(e).toBe((await world.log.info()).epoch);
    expect(
      Object.fromEntries(snap.rows.map(({ id, message, sequence }) => [id, [message, sequence]])),
    ).toEqual({
      a: ["a 2", 10],
      b: ["b 2", 11],
    });
    await client.next("live");
    const next = await world.append("b", "order", [progress("more")]);
    const frame = await client.next("ev");
    expect(frame).toMatchObject({
      s: next,
      d: [[next, "state", "b", expect.any(String), { message: "more", sequence: next }]],
    });
    expect(client.alarms).toBe(0);
  });
});

describe("millrace.v1: states", () => {
  it("each row is the run folded exactly up to its commit: live, from an old cursor, with and without the ring", async () => {
    world = await memoryWorld({ server: { settings: { commitsMax: 8 } } });
    const watch = async (from: string, server = world.server) => {
      const client = await world.client(server);
      client.subscribe({ i: 1, from, shape: "state" });
      client.subscribe({ i: 2, from, shape: "state", filter: { event: ["StepCompleted"] } });
      await client.next("live");
      await client.next("live");
      return client;
    };
    const live = await watch("now");
    for (let n = 0; n < 12; n++) {
      for (const run of ["a", "b", "c"]) {
        const step = n % 2 === 0 ? progress(`at ${n}`) : stepCompleted(`step-${n}`, { n });
        await world.append(run, "order", n === 0 ? [started({ run }), progress("begun")] : [step]);
      }
    }
    const head = await world.append("b", "order", [completed("done")]);
    await world.projection.waitFor(head, 2_000);
    const fromStart = await watch("start");
    const fromRing = await watch("start", await world.startServer({ settings: { commitsMax: 1_000 } }));
    const last = await world.append("a", "order", [stepCompleted("last")]);
    for (const client of [live, fromStart, fromRing]) {
      await client.until(() => client.cursors.get(1) === last && client.cursors.get(2) === last, "the last");
      expect(client.alarms).toBe(0);
      for (const i of [1, 2]) {
        const rows = (client.entries.get(i) ?? []) as StateEntry[];
        expect(rows.map(([sequence]) => sequence)).toEqual(
          i === 1 ? Array.from({ length: last }, (_, n) => n + 1) : rows.map(([sequence]) => sequence),
        );
        expect(rows.length).toBe(i === 1 ? last : 19);
        const merged = new Map<string, object>();
        for (const [sequence, kind, id, , fields] of rows) {
          expect(kind).toBe("state");
          // All of it first, then what changed; always all of it where the filter skips commits.
          expect("type" in fields).toBe(i === 2 || !merged.has(id));
          const row = { ...merged.get(id), ...fields };
          merged.set(id, row);
          const folded = initialRunState(id, "order");
          for (const commit of await world.log.load(id))
            if (commit.sequence <= sequence) evolveCommit(folded, commit);
          expect(row).toEqual(JSON.parse(JSON.stringify(toRow(folded))));
          const projected = world.projection.stateAt(id, sequence);
          expect(projected === null ? null : toRow(projected)).toEqual(toRow(folded));
        }
      }
    }
  });

  it("waits for a projector that is away, and misses nothing", async () => {
    world = await memoryWorld({ server: { settings: { commitsMax: 4 } } });
    await write(["a"], 3);
    await world.projection.waitFor(4, 2_000);
    await world.projector.stop();
    const client = await world.client();
    client.subscribe({ i: 1, from: "start", shape: "state" });
    client.subscribe({ i: 2, from: "start" });
    await write(["b"], 20);
    await client.until(() => client.cursors.get(2) === 4, "what the projection has");
    await world.projector.start();
    await client.until(() => client.cursors.get(1) === 25 && client.cursors.get(2) === 25, "the rest");
    expect(client.sequences(1)).toEqual(Array.from({ length: 25 }, (_, n) => n + 1));
    expect(client.sequences(2)).toEqual(client.sequences(1));
    expect(client.alarms).toBe(0);
  });
});

describe("millrace.v1: slow clients", () => {
  it("demotes a client that does not read, keeps its buffer bounded, and catches it up", async () => {
    world = await memoryWorld({ server: { settings: { commitsMax: 50 } } });
    const [slow, fast] = [await world.client(), await world.client()];
    for (const client of [slow, fast]) {
      client.subscribe({ i: 1 });
      await client.next("live");
    }
    slow.pause();
    const big = "x".repeat(100_000);
    let last = await world.append("a", "order", [started()]);
    for (let n = 0; n < 90; n++) last = await world.append("a", "order", [stepCompleted(`s${n}`, big)]);
    await fast.until(() => fast.cursors.get(1) === last, "the last");
    const metrics = await (await fetch(`${world.server.url}/metrics`)).text();
    const max = Number(/millrace_buffered_bytes_max (\d+)/.exec(metrics)?.[1]);
    expect(max).toBeLessThan(262_144 + 2 * 150_000);
    expect(metrics).toMatch(/millrace_demotions_total\{reason="slow"\} [1-9]/);
    slow.resume();
    await slow.until(() => slow.cursors.get(1) === last, "the last", 10_000);
    expect(slow.sequences(1)).toEqual(fast.sequences(1));
    expect(slow.frames.some((frame) => frame.t === "behind" && frame.why === "slow")).toBe(true);
    expect(slow.alarms + fast.alarms).toBe(0);
  });

  it("closes a socket of which no byte leaves with 4002, and refuses subscriptions over the budget with 4004", async () => {
    world = await memoryWorld({ server: { settings: { stuckMs: 400, bufferedBytesMax: 100_000 } } });
    const slow = await world.client();
    slow.subscribe({ i: 1 });
    await slow.next("live");
    slow.pause();
    const big = "x".repeat(500_000);
    await world.append("a", "order", [started()]);
    for (let n = 0; n < 20; n++) await world.append("a", "order", [stepCompleted(`s${n}`, big)]);
    const late = await world.client();
    late.subscribe({ i: 1 });
    await late.until(() => late.closed !== null, "the close");
    expect(late.closed?.code).toBe(closeCodes.overloaded);
    expect(late.frames.find((frame) => frame.t === "bye")).toMatchObject({ code: closeCodes.overloaded });
    const closes = async () => await (await fetch(`${world.server.url}/metrics`)).text();
    const deadline = Date.now() + 5_000;
    while (!(await closes()).includes('millrace_closes_total{code="4002"} 1')) {
      if (Date.now() > deadline) throw new Error("no close with 4002 within 5 s");
    }
  });
});

describe("millrace.v1: bad input", () => {
  const refusal = async (client: StreamClient) => {
    await client.until(() => client.closed !== null, "the close");
    return client.closed;
  };

  it("no hello in time, something else before it, and a second one", async () => {
    world = await memoryWorld({ server: { settings: { helloTimeoutMs: 100 } } });
    expect(await refusal(await StreamClient.open(world.server.url, null))).toMatchObject({
      code: 4502,
      reason: /100 ms/,
    });
    const hasty = await StreamClient.open(world.server.url, null);
    hasty.subscribe({ i: 1 });
    expect(await refusal(hasty)).toMatchObject({ code: 4502 });
    const twice = await world.client();
    twice.send({ t: "hello", v: 1 });
    expect(await refusal(twice)).toMatchObject({ code: 4500 });
  });

  it("a version that is not spoken", async () => {
    world = await memoryWorld();
    const client = await StreamClient.open(world.server.url, null);
    client.send({ t: "hello", v: 2 });
    expect(await client.next("err")).toMatchObject({ code: "protocol_version", retry: false });
    expect(await refusal(client)).toMatchObject({ code: 4506 });
  });

  it.each([
    ["not JSON", "{"],
    ["not an object", "[1]"],
    ["an unknown kind", { t: "what" }],
    ["a sub without an id", { t: "sub" }],
    ["an id that is no number", { t: "sub", i: "1" }],
    ["an id whose quotation the reason must cut", { t: "sub", i: "\u{1F69A}".repeat(60) }],
  ])("closes with 4500: %s", async (_name, frame) => {
    world = await memoryWorld();
    const client = await world.client();
    client.send(frame);
    expect(await refusal(client)).toMatchObject({ code: 4500 });
  });

  it("a frame over the limit: 4513", async () => {
    world = await memoryWorld();
    const client = await world.client();
    client.send({ t: "ping", n: 1, pad: "x".repeat(70_000) });
    expect(await refusal(client)).toMatchObject({ code: 4513, reason: expect.stringContaining("65536") });
  });

  it("answers what it cannot grant, and the socket lives", async () => {
    world = await memoryWorld({ server: { settings: { subscriptionsPerSocket: 2 } } });
    const client = await world.client();
    const refused = async (frame: object) => {
      client.send(frame);
      const { code, i, retry, msg } = await client.next("err");
      expect(msg.length).toBeGreaterThan(30);
      expect(retry).toBe(false);
      return [i, code];
    };
    expect(await refused({ t: "unsub", i: 7 })).toEqual([7, "subscription_unknown"]);
    expect(await refused({ t: "sub", i: 1, from: "yesterday" })).toEqual([1, "cursor_malformed"]);
    expect(await refused({ t: "sub", i: 1, filter: { event: ["Nonsense"] } })).toEqual([1, "filter_invalid"]);
    expect(await refused({ t: "sub", i: 1, filter: { colour: ["red"] } })).toEqual([1, "filter_invalid"]);
    expect(await refused({ t: "sub", i: 1, until: "closed" })).toEqual([1, "filter_invalid"]);
    client.subscribe({ i: 1 });
    await client.next("live");
    expect(await refused({ t: "sub", i: 1 })).toEqual([1, "subscription_exists"]);
    client.subscribe({ i: 2 });
    await client.next("live");
    expect(await refused({ t: "sub", i: 3 })).toEqual([3, "subscription_limit"]);
    client.send({ t: "unsub", i: 2 });
    client.subscribe({ i: 3 });
    await client.next("live");
    client.send({ t: "ping", n: 4 });
    expect(await client.next("pong")).toEqual({ t: "pong", n: 4 });
  });

  it("a cursor of another epoch, or from the future: gone", async () => {
    world = await memoryWorld();
    await write(["a"], 3);
    const { epoch } = await world.log.info();
    const client = await world.client();
    client.subscribe({ i: 1, from: "0000beef.2" });
    expect(await client.next("gone")).toMatchObject({ i: 1, why: "epoch", e: epoch, head: 4 });
    client.subscribe({ i: 1, from: formatCursor(epoch, 5) });
    expect(await client.next("gone")).toMatchObject({ i: 1, why: "future", first: 1, head: 4 });
    client.subscribe({ i: 1, from: formatCursor(epoch, 4) });
    await client.next("live");
  });

  it("an expired cursor: gone, and start is the first commit kept", async () => {
    const log = createMemoryLog();
    // What a purge of the first five leaves.
    const purged: EventLog = { ...log, info: async () => ({ ...(await log.info()), firstSequence: 6 }) };
    world = await memoryWorld({ log: purged });
    await write(["a"], 9);
    await world.projection.waitFor(10, 2_000);
    const { epoch } = await log.info();
    const client = await world.client();
    client.subscribe({ i: 1, from: formatCursor(epoch, 4) });
    expect(await client.next("gone")).toMatchObject({ i: 1, why: "expired", e: epoch, first: 6, head: 10 });
    client.subscribe({ i: 1, from: formatCursor(epoch, 5) });
    client.subscribe({ i: 2, from: "start" });
    await client.next("live");
    await client.next("live");
    expect(client.sequences(1)).toEqual([6, 7, 8, 9, 10]);
    expect(client.sequences(2)).toEqual([6, 7, 8, 9, 10]);
    expect(client.alarms).toBe(0);
  });

  it("min that the projector does not reach: projector_behind, to be tried again", async () => {
    world = await memoryWorld({ server: { settings: { projectorWaitMs: 50 } } });
    const client = await world.client();
    client.subscribe({ i: 1, from: "snapshot", min: 99 });
    expect(await client.next("err")).toMatchObject({
      i: 1,
      code: "projector_behind",
      retry: true,
      after: 1_000,
    });
  });

  it("a connection more than the limit is refused, until one has left", async () => {
    world = await memoryWorld({ server: { settings: { connectionsMax: 1 } } });
    const client = await world.client();
    await expect(StreamClient.open(world.server.url)).rejects.toThrow("503");
    client.cut();
    const deadline = Date.now() + 5_000;
    for (;;) {
      const again = await StreamClient.open(world.server.url).catch(() => null);
      if (again !== null) {
        again.cut();
        break;
      }
      if (Date.now() > deadline)
        throw new Error("the place of a client that left is not given to another within 5 s");
    }
  });

  it("counts what clients report", async () => {
    world = await memoryWorld();
    const client = await world.client();
    client.send({ t: "report", i: 1, breaks: 2, duplicates: 3 });
    client.send({ t: "ping" });
    await client.next("pong");
    const metrics = await (await fetch(`${world.server.url}/metrics`)).text();
    expect(metrics).toContain("millrace_chain_breaks_total 2");
    expect(metrics).toContain("millrace_duplicates_total 3");
  });
});

describe("millrace.v1: the broker and the server go away", () => {
  it("keeps sockets when the broker is away, says so, does not move the heartbeat, and goes on", async () => {
    const starting = memoryWorld({ server: { settings: { heartbeatMs: 50 } } });
    world = await starting;
    const client = await world.client();
    client.subscribe({ i: 1 });
    await client.next("live");
    await world.append("a", "order", [started()]);
    await client.next("ev");
    starting.broker.disconnect();
    expect(await client.next("behind")).toMatchObject({ i: 1, s: 1, why: "tail" });
    expect(await client.next("hb")).toMatchObject({ s: 1, l: [] });
    // What this process has seen of the log it still serves.
    const other = await world.client();
    other.subscribe({ i: 1, from: formatCursor((client.frames[0] as { e: string }).e, 0) });
    await other.until(() => other.cursors.get(1) === 1, "the first commit");
    expect((await fetch(`${world.server.url}/readyz`)).status).toBe(503);
    starting.broker.reconnect();
    await client.next("live");
    await world.append("a", "order", [progress("on")]);
    await Promise.all(
      [client, other].map((each) => each.until(() => each.cursors.get(1) === 2, "the second")),
    );
    expect(client.sequences(1)).toEqual([1, 2]);
    expect(other.sequences(1)).toEqual([1, 2]);
    expect(client.alarms + other.alarms).toBe(0);
    expect((await fetch(`${world.server.url}/readyz`)).status).toBe(200);
  });

  it("ends all subscriptions with gone when the log was made anew, and tells its owner", async () => {
    let changed: Error | null = null;
    const starting = memoryWorld({
      server: { settings: { goneSpreadMs: 100 }, onLogChanged: (error) => (changed = error) },
    });
    world = await starting;
    await write(["a"], 3);
    const client = await world.client();
    client.subscribe({ i: 1 });
    client.subscribe({ i: 2, from: "start" });
    await client.next("live");
    starting.broker.disconnect();
    starting.broker.recreate("default");
    starting.broker.reconnect();
    const gone = [await client.next("gone"), await client.next("gone")];
    expect(new Set(gone.map(({ i }) => i))).toEqual(new Set([1, 2]));
    expect(gone[0]).toMatchObject({ why: "epoch", e: (await world.log.info()).epoch, head: 0 });
    expect(changed).toMatchObject({ code: "log_recreated" });
    client.subscribe({ i: 1 });
    expect(await client.next("err")).toMatchObject({ code: "log_recreated", retry: true });
  });

  it("drains: bye, then close with 4000, and no new connections", async () => {
    world = await memoryWorld();
    const client = await world.client();
    await world.server.drain();
    await client.until(() => client.closed !== null, "the close");
    expect(client.frames.at(-1)).toEqual({ t: "bye", code: 4000, min: 500, max: 15_000 });
    expect(client.closed?.code).toBe(4000);
    await expect(StreamClient.open(world.server.url)).rejects.toThrow(/ECONNREFUSED|hang up|reset/i);
  });
});
