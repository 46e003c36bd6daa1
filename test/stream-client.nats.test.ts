/**
 * The client of `@millrace/client` against the real stream server, projector and broker: exact sequences across
 * cut sockets and a stream server that ends and comes back.
 */
import { mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createClient, isMillraceError, type EventItem } from "@millrace/client";
import { connect, type Millrace } from "@millrace/engine";
import { openEventLog, type EventLog } from "@millrace/event-log";
import { startBroker, type Broker } from "@millrace/event-log/broker";
import { openProjection, startProjector, type OpenedProjection, type Projector } from "@millrace/projector";
import type { WorkflowEvent } from "@millrace/schemas";
import { startStreamServer, type StreamServer } from "@millrace/stream-server";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { WebSocket } from "ws";

let folder = "";
let broker: Broker;
let log: EventLog;
let projection: OpenedProjection;
let projector: Projector;
let millrace: Millrace;
let server: StreamServer;
let port = 0;
let commits = 0;

/** A port that is free now, so that the server can come back under the same address. */
async function freePort(): Promise<number> {
  const probe = createServer();
  await new Promise<void>((resolve) => probe.listen(0, "127.0.0.1", resolve));
  const address = probe.address();
  await new Promise((resolve) => probe.close(resolve));
  if (address === null || typeof address === "string") throw new Error("The probe has no port.");
  return address.port;
}

const startServer = (): Promise<StreamServer> =>
  startStreamServer({ log, projection, millrace, port, settings: { heartbeatMs: 200, tickMs: 20 } });

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "millrace-client-"));
  broker = await startBroker({ dataDir: join(folder, "broker") });
  log = await openEventLog({ servers: broker.url, namespace: "client" });
  const path = join(folder, "projection.sqlite");
  projection = openProjection({ path, log });
  projector = await startProjector({ log, path, onAdvance: () => projection.advance() });
  millrace = await connect({ log });
  port = await freePort();
  server = await startServer();
});

afterAll(async () => {
  await server.close();
  await millrace.close();
  await projector.stop();
  projection.close();
  await log.close();
  await broker.stop();
  await rm(folder, { recursive: true, force: true });
});

async function append(workflowId: string, ...events: WorkflowEvent[]): Promise<number> {
  commits += 1;
  const { sequence } = await log.append({
    commitId: `01${String(commits).padStart(24, "0")}`,
    workflowId,
    type: "order",
    expected: events[0]?.type === "WorkflowStarted" ? "new" : "any",
    events,
  });
  return sequence;
}

const started: WorkflowEvent = {
  type: "WorkflowStarted",
  data: { version: "1", input: null, driver: "external" },
};
const progress = (current: number): WorkflowEvent => ({ type: "ProgressReported", data: { current } });
const completed: WorkflowEvent = { type: "WorkflowCompleted", data: { output: "done" } };

/** A client whose sockets the test can cut. */
function cuttable(): { client: ReturnType<typeof createClient>; cut: () => void } {
  const sockets = new Set<WebSocket>();
  class Cuttable extends WebSocket {
    constructor(url: string, protocols: string) {
      super(url, protocols);
      sockets.add(this);
      this.once("close", () => sockets.delete(this));
    }
  }
  const client = createClient({
    url: `http://127.0.0.1:${port}`,
    WebSocket: Cuttable,
    client: "test",
    backoff: { minMs: 10, maxMs: 100 },
  });
  return {
    client,
    cut: () => {
      for (const socket of sockets) socket.terminate();
    },
  };
}

const sequencesOf = async (workflowId: string): Promise<number[]> =>
  (await log.load(workflowId)).flatMap((commit) => commit.events.map(() => commit.sequence));

describe("the stream client against a real stream server", () => {
  it(
    "misses and repeats nothing across cut sockets and a restarted server",
    { timeout: 60_000 },
    async () => {
      const { client, cut } = cuttable();
      const all = client.watch({ type: ["order"] }, { from: "start" });
      const one = client.watch(
        { workflow: ["cut-b"] },
        { from: "start", until: "closed", bufferedItemsMax: 16 },
      );
      const states = client.watch(
        { workflow: ["cut-b"] },
        { from: "start", shape: "state", until: "closed" },
      );
      const runs = ["cut-a", "cut-b", "cut-c"];
      const rounds = 120;
      const write = async (): Promise<void> => {
        for (const run of runs) await append(run, started);
        for (let round = 1; round <= rounds; round += 1) {
          for (const run of runs) await append(run, progress(round), progress(round));
          if (round % 20 === 10) cut();
          if (round === 60) {
            await server.close();
            server = await startServer();
          }
        }
        for (const run of runs) await append(run, completed);
      };
      const readAll = async (): Promise<EventItem[]> => {
        const events: EventItem[] = [];
        let open = runs.length;
        for await (const event of all) {
          events.push(event);
          if (event.type === "WorkflowCompleted") open -= 1;
          if (open === 0) break;
        }
        return events;
      };
      const collect = async <Item>(items: AsyncIterable<Item>): Promise<Item[]> => {
        const collected: Item[] = [];
        for await (const item of items) collected.push(item);
        return collected;
      };
      const [events, ofOne, rows] = await Promise.all([readAll(), collect(one), collect(states), write()]);
      const { stats } = client;
      client.close();

      for (const run of runs) {
        const seen = events.filter((event) => event.workflowId === run).map((event) => event.sequence);
        expect(seen, run).toEqual(await sequencesOf(run));
      }
      const order = events.map((event) => event.sequence);
      expect(order).toEqual(order.toSorted((a, b) => a - b));
      expect(ofOne.map((event) => event.sequence)).toEqual(await sequencesOf("cut-b"));
      expect(rows.map(({ sequence }) => sequence)).toEqual([...new Set(await sequencesOf("cut-b"))]);
      expect(rows.at(-1)?.row).toMatchObject({ id: "cut-b", status: "completed", output: "done" });
      expect(stats).toMatchObject({ gaps: 0, duplicates: 0 });
      expect(stats.reconnects).toBeGreaterThanOrEqual(5);
    },
  );

  it("takes a snapshot and goes on from where it is exact", async () => {
    const { client } = cuttable();
    await append("snap-a", started);
    const before = await append("snap-a", progress(1));
    const watch = client.watch({ workflow: ["snap-a"] }, { from: "snapshot", shape: "state" });
    const first = await watch.next();
    expect(first.value).toMatchObject({ kind: "snapshot", first: true, last: true });
    expect(first.value?.kind === "snapshot" && first.value.rows).toMatchObject([
      { id: "snap-a", sequence: before },
    ]);
    const after = await append("snap-a", progress(2));
    expect((await watch.next()).value).toMatchObject({
      kind: "state",
      sequence: after,
      row: { currentStep: 2 },
    });
    client.close();
  });

  it.each([
    ["cursor_epoch", () => "0123abcd.1"],
    ["cursor_future", (epoch: string) => `${epoch}.999999999`],
  ])("says %s for a cursor that cannot be resumed", async (code, cursorOf) => {
    const { client } = cuttable();
    await append(`gone-${code.slice(7)}`, started);
    const present = await client.watch({}, { from: "start" }).next();
    const epoch = present.value?.cursor.split(".")[0] ?? "";
    const error = await client
      .watch({}, { from: cursorOf(epoch) })
      .next()
      .catch((reason: unknown) => reason);
    expect(isMillraceError(error, code as "cursor_epoch")).toBe(true);
    client.close();
  });

  it("resumes elsewhere when the server drains", { timeout: 60_000 }, async () => {
    const { client } = cuttable();
    await append("drain-a", started);
    const watch = client.watch({ workflow: ["drain-a"] }, { from: "start" });
    await watch.next();
    const next = watch.next();
    await server.drain();
    server = await startServer();
    const sequence = await append("drain-a", progress(1));
    expect((await next).value).toMatchObject({ sequence });
    expect(client.stats).toMatchObject({ gaps: 0, duplicates: 0, reconnects: 1 });
    client.close();
  });
});
