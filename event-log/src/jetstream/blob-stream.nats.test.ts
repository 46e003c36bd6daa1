import { connect, headers } from "nats";
import { expect, test } from "vitest";
import { describeBlobStore } from "../conformance/describe-blob-store.ts";
import { startTestBroker } from "../conformance/test-broker.ts";
import { createJetStreamHarness } from "./jetstream-harness.ts";
import { openEventLog } from "./open-event-log.ts";

describeBlobStore("JetStream", createJetStreamHarness);

test("B3 lists what a writer left half-stored, gives it to nobody, and deletes it", async () => {
  const broker = await startTestBroker();
  const log = await openEventLog({ servers: broker.url, namespace: "half" });
  const raw = await connect({ servers: broker.url });
  try {
    await log.blobs.put("order-1", new Uint8Array(3));
    const key = "order-1/01ARZ3NDEKTSV4RRFFQ69G5FAV";
    const told = headers();
    told.set("Millrace-Part", "0/2");
    told.set("Millrace-Size", "600000");
    told.set("Millrace-Sha256", "0".repeat(64));
    await raw.request(`mrb.half.${key.replace("/", ".")}`, new Uint8Array(524_288), {
      headers: told,
      timeout: 5_000,
    });
    await expect(log.blobs.get(key)).rejects.toMatchObject({ code: "payload_missing" });
    const found: [string, number, boolean][] = [];
    for await (const info of log.blobs.list()) found.push([info.key, info.size, info.complete]);
    expect(found.at(-1)).toEqual([key, 600_000, false]);
    expect(await log.blobs.delete(key)).toBe(true);
  } finally {
    await raw.close();
    await log.close();
    await broker.stop();
  }
});
