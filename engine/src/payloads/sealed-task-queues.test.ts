import { createMemoryLog, createMemoryServer, type MemoryServer } from "@millrace/event-log";
import { afterEach, expect, test } from "vitest";
import { connect } from "../connect.ts";
import { defineWorkflow, NonRetryableError, type Millrace } from "../index.ts";
import { aesGcmCodec } from "./aes-gcm-codec.ts";
import type { PayloadOptions } from "./payloads.ts";

const open: Millrace[] = [];
afterEach(async () => {
  await Promise.all(open.splice(0).map((each) => each.close()));
});

async function connected(server: MemoryServer, payloads: PayloadOptions): Promise<Millrace> {
  const millrace = await connect({ log: createMemoryLog({ server }), payloads });
  open.push(millrace);
  return millrace;
}

const codec = aesGcmCodec({ current: "k1", keys: { k1: Buffer.alloc(32, 7) } });
const order = defineWorkflow({ type: "order" }, (ctx, input: { secret: string }) =>
  ctx.task("charge", input, { queue: "cards", retry: { maxAttempts: 1 } }),
);

test("a task's input is sealed in its queue and among the dead letters; only who has the key works on it", async () => {
  const server = createMemoryServer();
  const owner = await connected(server, { codec });
  await owner.worker({ workflows: [order] });
  const stranger = await connected(server, {});
  const seenByStranger: unknown[] = [];
  await stranger.worker({ tasks: { charge: ({ input }) => seenByStranger.push(input) }, queues: ["cards"] });
  const handle = await owner.start(order, { secret: "4111" }, { id: "o" });
  await expect.poll(async () => (await owner.tasks.queues())[0]?.inFlight).toBe(1);
  const raw = createMemoryLog({ server });
  const seen: unknown[] = [];
  await owner.worker({
    tasks: {
      charge: ({ input }) => {
        seen.push(input);
        throw new NonRetryableError("no");
      },
    },
    queues: ["cards"],
  });
  await expect(handle.result()).rejects.toMatchObject({ code: "workflow_failed" });
  expect(seen).toEqual([{ secret: "4111" }]);
  expect(seenByStranger).toEqual([]);
  await expect
    .poll(() => owner.tasks.deadLetters("cards"))
    .toMatchObject([{ task: { input: { secret: "4111" } } }]);
  const stored = JSON.stringify(await raw.tasks.deadLetters("cards", { limit: 10 }));
  expect(stored).toContain("aes-gcm");
  expect(stored).not.toContain("4111");
  await raw.close();
});

test("a large input travels as a reference", async () => {
  const server = createMemoryServer();
  const owner = await connected(server, { offloadBytes: 1_000 });
  const text = "x".repeat(50_000);
  await owner.worker({
    workflows: [order],
    tasks: { charge: ({ input }) => (input as { secret: string }).secret.length },
    queues: ["cards"],
  });
  const handle = await owner.start(order, { secret: text }, { id: "large" });
  expect(await handle.result()).toBe(50_000);
});
