/** Sealed and offloaded payloads over real processes: a worker killed without warning, its key rotated, garbage, and the commands. */
import { existsSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openEventLog } from "@millrace/event-log";
import type { EventRow, Page, WorkflowRow } from "@millrace/schemas";
import {
  eventually,
  examplesFolder,
  jsonError,
  jsonLines,
  millrace,
  Server,
  temporaryFolder,
  type ReadyValue,
} from "./testing/cli-process.ts";

const secret = "4111 1111 1111 1111";
const oldKey = `old=${Buffer.alloc(32, 1).toString("base64")}`;
const newKey = `new=${Buffer.alloc(32, 2).toString("base64")}`;

describe("payloads over processes", () => {
  let folder: Awaited<ReturnType<typeof temporaryFolder>>;
  let server: Server;
  let ready: ReadyValue;
  let workflows: string;
  let marker: string;
  const workers: Server[] = [];
  const client = (args: readonly string[], keys?: string) =>
    millrace(
      [...args, "--url", ready.url, "--json"],
      keys === undefined ? {} : { MILLRACE_PAYLOAD_KEYS: keys },
    );
  const worker = (name: string, keys: string): Server => {
    const data = join(folder.path, name);
    const args = ["serve", "--parts", "engine", "--workflows", workflows, "--data", data];
    const started = new Server(args, { MILLRACE_NATS_URL: ready.natsUrl, MILLRACE_PAYLOAD_KEYS: keys });
    workers.push(started);
    return started;
  };

  beforeAll(async () => {
    folder = await temporaryFolder();
    marker = join(folder.path, "reached");
    workflows = join(folder.path, "workflows.mjs");
    const engine = pathToFileURL(join(examplesFolder, "../engine/dist/index.js")).href;
    await writeFile(
      workflows,
      `import { existsSync, writeFileSync } from "node:fs";
      import { defineWorkflow } from ${JSON.stringify(engine)};
      export const cards = defineWorkflow({ type: "cards" }, async (ctx) => {
        const small = await ctx.step("small", () => ({ card: ${JSON.stringify(secret)} }));
        const large = await ctx.step("large", () => small.card.repeat(20_000));
        return ctx.step("end", () => {
          if (existsSync(${JSON.stringify(marker)})) return large.length;
          writeFileSync(${JSON.stringify(marker)}, "");
          return new Promise(() => undefined);
        });
      });`,
    );
    server = new Server([
      "serve",
      "--parts",
      "projector,stream-server",
      "--data",
      join(folder.path, "data"),
      "--port",
      "0",
    ]);
    ready = await server.ready();
  });
  afterAll(async () => {
    for (const each of workers) each.child.kill("SIGKILL");
    await server.kill();
    await folder.remove();
  });

  it("a worker is killed, another one with the rotated key goes on; nothing is readable in between", async () => {
    const first = worker("first", oldKey);
    await first.ready();
    jsonLines(await client(["start", "cards", "--id", "c"]));
    await eventually("the last step runs", 20_000, () => existsSync(marker));
    first.child.kill("SIGKILL");
    await first.ended;
    await worker("second", `${newKey},${oldKey}`).ready();
    await eventually(
      "the run completes",
      60_000,
      async () => jsonLines<WorkflowRow>(await client(["show", "c"]))[0]?.status === "completed",
    );
    const history = jsonLines<EventRow>(await client(["history", "c"]));
    const forms = history.flatMap(({ data }) => (data as { output?: unknown }).output ?? []);
    expect(forms).toMatchObject([
      { $millrace: { codec: "aes-gcm", key: "old", data: expect.any(String) as string } },
      { $millrace: { codec: "aes-gcm", key: "old", blob: expect.stringMatching(/^c\//) as string } },
      { $millrace: { codec: "aes-gcm", key: "new" } },
      { $millrace: { codec: "aes-gcm", key: "new" } },
    ]);
    const row = await fetch(`${ready.url}/v1/workflows/c`);
    for (const text of [JSON.stringify(history), await row.text()]) expect(text).not.toContain(secret);
  }, 120_000);

  it("payload get opens what the history shows, by blob or by sequence, with the key and only with it", async () => {
    const page = (await (await fetch(`${ready.url}/v1/workflows/c/events`)).json()) as Page<EventRow>;
    const [small, large] = page.items.filter(({ type }) => type === "StepCompleted");
    const blob = /"blob":"([^"]+)"/.exec(JSON.stringify(large))?.[1] ?? "";
    const keys = `${newKey},${oldKey}`;
    expect(jsonLines(await client(["payload", "get", "c", String(small?.sequence)], keys))).toEqual([
      { card: secret },
    ]);
    expect(jsonLines(await client(["payload", "get", "c", blob], keys))).toEqual([secret.repeat(20_000)]);
    for (const wrong of [undefined, newKey]) {
      const refused = await client(["payload", "get", "c", blob], wrong);
      expect([refused.code, jsonError(refused).code]).toEqual([1, "payload_sealed"]);
    }
    expect(jsonError(await client(["payload", "get", "c", "999"], keys)).code).toBe("payload_missing");
  });

  it("gc finds the blob of a commit that never landed, leaves it in a dry run, then deletes it and nothing else", async () => {
    const log = await openEventLog({ servers: ready.natsUrl });
    const { key } = await log.blobs.put("c", Buffer.from("orphan"));
    const gc = (...args: string[]) =>
      millrace(["gc", "--json", "--data", join(folder.path, "data"), ...args]);
    try {
      expect(jsonLines(await gc())).toMatchObject([{ blobs: 2, young: 2, orphans: 0, deleted: 0 }]);
      expect(jsonLines(await gc("--older-than", "0", "--dry-run"))).toMatchObject([
        { key, size: 6, complete: true },
        { blobs: 2, referenced: 1, orphans: 1, orphanBytes: 6, deleted: 0 },
      ]);
      expect((await log.blobs.get(key)).byteLength).toBe(6);
      expect(jsonLines(await gc("--older-than", "0"))).toMatchObject([
        { key },
        { deleted: 1, referenced: 1 },
      ]);
      await expect(log.blobs.get(key)).rejects.toMatchObject({ code: "payload_missing" });
      expect(jsonLines(await gc("--older-than", "0"))).toMatchObject([
        { blobs: 1, referenced: 1, orphans: 0 },
      ]);
      expect(jsonError(await gc("--older-than", "soon")).code).toBe("invalid_request");
    } finally {
      await log.close();
    }
  });
});
