import { afterEach, describe, expect, it } from "vitest";
import { WebSocket } from "ws";
import type { WorkflowUpdate } from "@millrace/schemas";
import { completed, memoryWorld, progress, started, stepCompleted, type World } from "./testing/world.ts";

let world: World;
const sockets: WebSocket[] = [];
afterEach(async () => {
  for (const socket of sockets.splice(0)) socket.terminate();
  await world.close();
});

interface Watcher {
  readonly updates: WorkflowUpdate[];
  readonly socket: WebSocket;
  readonly count: (n: number) => Promise<void>;
  readonly closed: Promise<{ readonly code: number; readonly reason: string }>;
}

async function watch(id: string, query = ""): Promise<Watcher> {
  const socket = new WebSocket(
    `${world.server.url.replace("http", "ws")}/api/workflows/${id}/updates${query}`,
  );
  sockets.push(socket);
  const updates: WorkflowUpdate[] = [];
  let look = (): void => undefined;
  socket.on("message", (data: Buffer, isBinary) => {
    expect(isBinary).toBe(false);
    updates.push(JSON.parse(data.toString()) as WorkflowUpdate);
    look();
  });
  const closed = new Promise<{ code: number; reason: string }>((resolve) =>
    socket.on("close", (code, reason) => resolve({ code, reason: reason.toString() })),
  );
  await new Promise<void>((resolve, reject) => {
    socket.once("open", resolve);
    socket.once("error", reject);
  });
  const count = (n: number) =>
    new Promise<void>((resolve, reject) => {
      const timer = setTimeout(
        () => reject(new Error(`${n} updates wanted, ${updates.length} came in 5 s`)),
        5_000,
      );
      look = () => {
        if (updates.length < n) return;
        clearTimeout(timer);
        resolve();
      };
      look();
    });
  return { updates, socket, count, closed };
}

const refusal = (id: string, query = "") =>
  new Promise<{ status: number; body: string }>((resolve, reject) => {
    const socket = new WebSocket(
      `${world.server.url.replace("http", "ws")}/api/workflows/${id}/updates${query}`,
    );
    socket.on("open", () => reject(new Error("it opened")));
    socket.on("error", () => undefined);
    socket.on("unexpected-response", (_request, response) => {
      let body = "";
      response.on("data", (chunk: Buffer) => (body += chunk.toString()));
      response.on("end", () => resolve({ status: response.statusCode ?? 0, body }));
    });
  });

describe("plain updates at /api/workflows/{id}/updates", () => {
  it("sends the current update first, then one per commit, in the seed's exact shape", async () => {
    world = await memoryWorld();
    await world.append("a", "order", [started(null, ["pack", "ship"])]);
    const at = await world.append("a", "order", [stepCompleted("pack")]);
    await world.projection.waitFor(at, 2_000);
    const { updates, count } = await watch("a");
    await count(1);
    expect(updates[0]).toEqual({
      workflow_id: "a",
      status: "running",
      current_step: 1,
      total_steps: 2,
      message: "Step pack completed",
      timestamp: expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/) as string,
      sequence: at,
    });
    await world.append("other", "order", [started()]);
    const both = await world.append("a", "order", [stepCompleted("ship"), completed()]);
    await count(2);
    expect(updates[1]).toMatchObject({
      status: "completed",
      current_step: 2,
      total_steps: 2,
      sequence: both,
    });
    expect(updates).toHaveLength(2);
  });

  it("serves any number of subscribers, each with all updates in order", async () => {
    world = await memoryWorld();
    const first = await world.append("a", "order", [started()]);
    await world.projection.waitFor(first, 2_000);
    const watchers = await Promise.all(Array.from({ length: 120 }, () => watch("a")));
    const sequences = [first];
    for (let n = 0; n < 20; n++) sequences.push(await world.append("a", "order", [progress(`${n}`)]));
    await Promise.all(watchers.map(({ count }) => count(21)));
    for (const { updates } of watchers) expect(updates.map(({ sequence }) => sequence)).toEqual(sequences);
  });

  it("with from: all after that sequence, none lost, none twice, across a cut", async () => {
    world = await memoryWorld({ server: { settings: { commitsMax: 5 } } });
    await world.append("a", "order", [started()]);
    for (let n = 0; n < 30; n++) await world.append("a", "order", [progress(`${n}`)]);
    const one = await watch("a", "?from=0");
    await one.count(31);
    expect(one.updates.map(({ sequence }) => sequence)).toEqual(Array.from({ length: 31 }, (_, n) => n + 1));
    expect(one.updates.map(({ message }) => message)).toEqual([
      "Workflow started",
      ...Array.from({ length: 30 }, (_, n) => `${n}`),
    ]);
    one.socket.terminate();
    for (let n = 30; n < 40; n++) await world.append("a", "order", [progress(`${n}`)]);
    const two = await watch("a", "?from=31");
    await two.count(10);
    expect(two.updates.map(({ sequence }) => sequence)).toEqual(Array.from({ length: 10 }, (_, n) => n + 32));
  });

  it("waits for a run that does not exist yet, and sends its first update", async () => {
    world = await memoryWorld();
    const { updates, count } = await watch("soon");
    const sequence = await world.append("soon", "order", [started()]);
    await count(1);
    expect(updates).toMatchObject([{ workflow_id: "soon", status: "running", sequence }]);
  });

  it("answers pings, and pings", async () => {
    world = await memoryWorld({ server: { settings: { heartbeatMs: 50 } } });
    const { socket } = await watch("a");
    const ponged = new Promise<string>((resolve) =>
      socket.once("pong", (data: Buffer) => resolve(data.toString())),
    );
    const pinged = new Promise<void>((resolve) => socket.once("ping", () => resolve()));
    socket.ping("hello");
    expect(await ponged).toBe("hello");
    await pinged;
  });

  it("refuses an id that is none and a from that is no sequence with 400, a from of the future with a close", async () => {
    world = await memoryWorld();
    const badId = await refusal("no%20spaces");
    expect(badId.status).toBe(400);
    expect(JSON.parse(badId.body)).toMatchObject({ code: "invalid_id", limit: 128 });
    expect((await refusal("%E0%A4%A")).status).toBe(400);
    expect(JSON.parse((await refusal("a", "?from=yesterday")).body)).toMatchObject({
      code: "invalid_request",
    });
    expect(await (await watch("a", "?from=7")).closed).toMatchObject({
      code: 4500,
      reason: expect.stringContaining("from=7 is future") as string,
    });
  });

  it("is told to come again when the server drains", async () => {
    world = await memoryWorld();
    const { closed } = await watch("a");
    await world.server.drain();
    expect(await closed).toMatchObject({ code: 4000 });
  });
});
