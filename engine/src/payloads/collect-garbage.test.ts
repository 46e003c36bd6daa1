import { createMemoryLog, createMemoryServer, type EventLog } from "@millrace/event-log";
import type { WorkflowEvent } from "@millrace/schemas";
import { describe, expect, test } from "vitest";
import { newUlid } from "../new-ulid.ts";
import { aesGcmCodec } from "./aes-gcm-codec.ts";
import { collectGarbage } from "./collect-garbage.ts";
import { Payloads } from "./payloads.ts";
import { SealedLog } from "./sealed-log.ts";

const hourMs = 3_600_000;
const large = "x".repeat(200_000);
const codec = aesGcmCodec({ keys: { a: Buffer.alloc(32, 1) }, current: "a" });

interface World {
  readonly log: SealedLog;
  readonly server: ReturnType<typeof createMemoryServer>;
  readonly advance: (ms: number) => void;
  readonly now: () => number;
}

function world(options: ConstructorParameters<typeof Payloads>[1] = {}): World {
  let now = 1_700_000_000_000;
  const server = createMemoryServer({ clock: () => now });
  const stored = createMemoryLog({ server });
  return {
    log: new SealedLog(stored, new Payloads(stored.blobs, options)),
    server,
    advance: (ms) => void (now += ms),
    now: () => now,
  };
}

function start(log: EventLog, workflowId: string, input: unknown): Promise<{ sequence: number }> {
  const event: WorkflowEvent = { type: "WorkflowStarted", data: { version: "1", driver: "external", input } };
  return log.append({ commitId: newUlid(), workflowId, type: "order", expected: "new", events: [event] });
}

async function keysOf(log: EventLog): Promise<string[]> {
  const keys: string[] = [];
  for await (const { key } of log.blobs.list()) keys.push(key);
  return keys;
}

describe("garbage collection", () => {
  test("deletes what no history refers to once it is old, and leaves what one refers to readable", async () => {
    for (const options of [{}, { codec }]) {
      const { log, advance, now } = world(options);
      await start(log, "kept", large);
      // The loser of two starts has stored its input for nothing.
      await expect(start(log, "kept", large)).rejects.toMatchObject({ code: "conflict" });
      const [winner, loser] = await keysOf(log);
      expect(await collectGarbage(log, { now: now() })).toEqual({
        ...{ blobs: 2, young: 2, referenced: 0, orphans: 0, orphanBytes: 0, deleted: 0 },
      });
      advance(hourMs + 1);
      const seen: string[] = [];
      const dry = await collectGarbage(log, {
        now: now(),
        dryRun: true,
        onOrphan: ({ key }) => void seen.push(key),
      });
      expect(dry).toMatchObject({ blobs: 2, young: 0, referenced: 1, orphans: 1, deleted: 0 });
      expect(dry.orphanBytes).toBeGreaterThan(large.length);
      expect(seen).toEqual([loser]);
      expect(await keysOf(log)).toHaveLength(2);
      expect(await collectGarbage(log, { now: now() })).toMatchObject({ orphans: 1, deleted: 1 });
      expect(await keysOf(log)).toEqual([winner]);
      const [commit] = await log.load("kept");
      expect(commit?.events[0]?.data).toMatchObject({ input: large });
      expect(await collectGarbage(log, { now: now() })).toMatchObject({
        blobs: 1,
        referenced: 1,
        orphans: 0,
      });
    }
  });

  test("blobs go with their run, and only with theirs", async () => {
    const { log, server, advance, now } = world();
    await start(log, "stays", large);
    await start(log, "gone", large);
    server.cutTail(log.namespace, 1);
    advance(hourMs + 1);
    expect(await collectGarbage(log, { now: now() })).toMatchObject({ referenced: 1, deleted: 1 });
    expect((await keysOf(log)).map((key) => key.split("/")[0])).toEqual(["stays"]);
  });

  test("keeps the blobs of a history that this version cannot read", async () => {
    const { log, server, advance, now } = world();
    const { sequence } = await start(log, "future", large);
    const { key } = await log.blobs.put("future", Buffer.from("1"));
    const data = { thing: { $millrace: { blob: key, size: 1, sha256: "" } } };
    await server.publish(
      log.namespace,
      {
        ...{ workflowId: "future", type: "order", commitId: newUlid() },
        ...{ writer: null, condition: null, dueAt: null, parent: null },
        body: Buffer.from(JSON.stringify({ v: 9, events: [{ type: "FromTheFuture", data }] })),
      },
      { sequence, anyType: false },
    );
    advance(hourMs + 1);
    expect(await collectGarbage(log, { now: now() })).toMatchObject({ blobs: 2, referenced: 2, orphans: 0 });
  });

  test("goes through more blobs than it holds at once, and ends when it is told to", async () => {
    const { log, advance, now } = world();
    await start(log, "many", large);
    for (let count = 0; count < 2_100; count++)
      await log.blobs.put(`run-${count % 7}`, Buffer.from(String(count)));
    advance(hourMs + 1);
    const ending = new AbortController();
    const stopped = collectGarbage(log, {
      now: now(),
      signal: ending.signal,
      onOrphan: () => ending.abort(new Error("enough")),
    });
    await expect(stopped).rejects.toThrowError("enough");
    const left = (await keysOf(log)).length;
    expect(left).toBeGreaterThan(1);
    expect(left).toBeLessThan(2_101);
    expect(await collectGarbage(log, { now: now() })).toMatchObject({ deleted: left - 1, referenced: 1 });
  });
});
