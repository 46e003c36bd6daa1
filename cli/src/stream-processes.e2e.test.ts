/** `dev --stream-processes 2`: two stream servers on one port, one of them killed in the middle of what it delivers. */
import { createClient, type Client } from "@millrace/client";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { WebSocket } from "ws";
import { eventually, Server, temporaryFolder, type ReadyValue } from "./testing/cli-process.ts";

describe("millrace dev --stream-processes 2", () => {
  let folder: Awaited<ReturnType<typeof temporaryFolder>>;
  let server: Server;
  let ready: ReadyValue;
  const clients: Client[] = [];

  beforeAll(async () => {
    folder = await temporaryFolder();
    server = new Server(["dev", "--stream-processes", "2", "--data", folder.path, "--port", "0"]);
    ready = await server.ready();
  });
  afterAll(async () => {
    for (const client of clients) client.close();
    await server.kill();
    await folder.remove();
  });

  it("loses nothing and repeats nothing when one of two processes on the port is killed", async () => {
    expect(Object.keys(ready.parts)).toEqual(["broker", "projector", "stream-server", "stream-server-2"]);
    const readers = Array.from({ length: 16 }, () => follow());
    for (let n = 0; n < 20; n++) await start(`before-${n}`);
    await eventually("all have what came before", 20_000, () =>
      readers.every(({ ids }) => ids.length === 20),
    );
    // The kernel spreads connections by a hash of their addresses: of 16 none on one side is 1 in 32,768.
    process.kill(ready.parts["stream-server"] ?? 0, "SIGKILL");
    for (let n = 0; n < 20; n++) await start(`after-${n}`);
    await eventually("all have everything", 30_000, () => readers.every(({ ids }) => ids.length >= 40));
    const back = await server.line(({ restarted }) => restarted === "stream-server", 30_000);
    expect(back["pid"]).not.toBe(ready.parts["stream-server"]);
    const expected = ["before", "after"].flatMap((when) =>
      Array.from({ length: 20 }, (_, n) => `${when}-${n}`),
    );
    for (const { ids } of readers) expect(ids).toEqual(expected);
    const moved = readers.filter(({ client }) => client.stats.reconnects > 0).length;
    expect(moved).toBeGreaterThan(0);
    expect(moved).toBeLessThan(readers.length);
    expect(readers.every(({ client }) => client.stats.gaps === 0 && client.stats.duplicates === 0)).toBe(
      true,
    );
  });

  it("serves the same stream from the broker alone with --no-projection", async () => {
    await start("seen-from-the-edge");
    const edge = new Server(
      ["serve", "--parts", "stream-server", "--no-projection", "--stream-processes", "2", "--port", "0"],
      { MILLRACE_NATS_URL: ready.natsUrl },
    );
    try {
      const { url, parts } = await edge.ready();
      expect(Object.keys(parts)).toEqual(["stream-server", "stream-server-2"]);
      const { ids } = follow(url);
      await eventually("all is there", 20_000, () => ids.includes("seen-from-the-edge"));
      const list = await fetch(`${url}/v1/workflows`);
      expect([list.status, ((await list.json()) as { code: string }).code]).toEqual([
        501,
        "projection_missing",
      ]);
    } finally {
      await edge.kill();
    }
  });

  function follow(url = ready.url): { readonly client: Client; readonly ids: string[] } {
    const client = createClient({ url, WebSocket, backoff: { minMs: 50, maxMs: 500 } });
    clients.push(client);
    const ids: string[] = [];
    const onError = (error: unknown) => void ids.push(String(error));
    client.subscribe(
      { event: ["WorkflowStarted"] },
      { from: "start", onEvent: ({ workflowId }) => void ids.push(workflowId), onError },
    );
    return { client, ids };
  }

  /** The same id again is the same run, so that a request cut off by the kill may be sent again. */
  async function start(id: string): Promise<void> {
    const body = JSON.stringify({ type: "order", id, driver: "external", allowUnregistered: true });
    await eventually(`${id} is started`, 20_000, async () => {
      try {
        const headers = { "content-type": "application/json" };
        const answer = await fetch(`${ready.url}/v1/workflows`, { method: "POST", headers, body });
        return answer.ok;
      } catch {
        // The process that had the connection is gone: the other one takes the next.
        return false;
      }
    });
  }
});
