import { createMemoryLog, createMemoryServer } from "@millrace/event-log";
import { MillraceError, type WorkflowEvent } from "@millrace/schemas";
import { describe, expect, test } from "vitest";
import { aesGcmCodec } from "./aes-gcm-codec.ts";
import type { PayloadCodec } from "./codec.ts";
import { assertOpened, openRecorded, Payloads, type PayloadOptions } from "./payloads.ts";

const oldKey = Buffer.alloc(32, 1);
const newKey = Buffer.alloc(32, 2);
const before = aesGcmCodec({ keys: { old: oldKey }, current: "old" });
const rotated = aesGcmCodec({ keys: { old: oldKey, new: newKey.toString("base64") }, current: "new" });
const dropped = aesGcmCodec({ keys: { new: newKey }, current: "new" });

const signal = (payload: unknown): WorkflowEvent[] => [
  { type: "SignalReceived", data: { name: "s", payload } },
];

function world(): {
  readonly blobs: ReturnType<typeof createMemoryLog>["blobs"];
  readonly with: (options?: PayloadOptions) => Payloads;
} {
  const { blobs } = createMemoryLog();
  return { blobs, with: (options) => new Payloads(blobs, options) };
}

async function sealed(payloads: Payloads, payload: unknown): Promise<WorkflowEvent[]> {
  return JSON.parse(JSON.stringify(await payloads.seal("run", signal(payload)))) as WorkflowEvent[];
}

/** Why the payload may not reach code, or what it is. */
async function outcome(payloads: Payloads, stored: WorkflowEvent[]): Promise<unknown> {
  const [event] = await payloads.open("run", stored);
  if (event?.type !== "SignalReceived") throw new Error("not the signal");
  try {
    assertOpened(event);
    return event.data.payload;
  } catch (error) {
    return error;
  }
}

const inner = (events: readonly WorkflowEvent[]): Record<string, unknown> =>
  (events[0] as unknown as { data: { payload: { $millrace: Record<string, unknown> } } }).data.payload
    .$millrace;

describe("keys", () => {
  test("an old key still opens after the rotation, and new payloads have the new one", async () => {
    const { with: payloads } = world();
    const old = await sealed(payloads({ codec: before }), { card: 42 });
    expect(inner(old)).toMatchObject({ codec: "aes-gcm", key: "old" });
    const now = payloads({ codec: rotated });
    expect(await outcome(now, old)).toEqual({ card: 42 });
    const next = await sealed(now, { card: 42 });
    expect(inner(next)).toMatchObject({ key: "new" });
    expect(await outcome(payloads({ codec: dropped }), next)).toEqual({ card: 42 });
  });

  test("a key that is not here is named, with the run and the payload", async () => {
    const { with: payloads } = world();
    const old = await sealed(payloads({ codec: before }), 1);
    expect(await outcome(payloads({ codec: dropped }), old)).toMatchObject({
      code: "payload_sealed",
      retryable: false,
      message: expect.stringMatching(
        /SignalReceived\.payload of run run .*"old".*this process has new/,
      ) as string,
      details: { codec: "aes-gcm", key: "old" },
    });
  });

  test("without a codec the codec is named", async () => {
    const { with: payloads } = world();
    const old = await sealed(payloads({ codec: before }), 1);
    expect(await outcome(payloads(), old)).toMatchObject({
      code: "payload_sealed",
      message: expect.stringMatching(/codec "aes-gcm", and this process has none/) as string,
    });
  });

  test("the same payload twice is two ciphertexts", async () => {
    const { with: payloads } = world();
    const codec = payloads({ codec: before });
    expect(inner(await sealed(codec, 1))["data"]).not.toBe(inner(await sealed(codec, 1))["data"]);
  });

  test.for([
    ["the data", (form: Record<string, unknown>) => ({ ...form, data: flip(String(form["data"])) })],
    ["the data's length", (form: Record<string, unknown>) => ({ ...form, data: "" })],
    ["the key's id", (form: Record<string, unknown>) => ({ ...form, key: "twin" })],
  ] as const)("a change of %s is payload_corrupt", async ([, change]) => {
    const { with: payloads } = world();
    const codec = aesGcmCodec({ keys: { old: oldKey, twin: oldKey }, current: "old" });
    const stored = await sealed(payloads({ codec }), { amount: 1 });
    const changed = signal({ $millrace: change(inner(stored)) });
    expect(await outcome(payloads({ codec }), changed)).toMatchObject({ code: "payload_corrupt" });
  });

  test("keys that cannot be are refused at once", () => {
    expect(() => aesGcmCodec({ keys: { a: Buffer.alloc(16) }, current: "a" })).toThrowError(
      /16 bytes, it must have an id and 32 bytes/,
    );
    expect(() => aesGcmCodec({ keys: { a: oldKey }, current: "b" })).toThrowError(
      /"b" is none of its keys \(a\)/,
    );
  });
});

describe("offload", () => {
  const large = "x".repeat(200_000);

  test("beyond the threshold there is a reference in the log, and the bytes in the blob store", async () => {
    const { blobs, with: payloads } = world();
    const stored = await sealed(payloads(), large);
    const form = inner(stored);
    expect(form).toEqual({
      blob: expect.stringMatching(/^run\//) as string,
      size: 200_002,
      sha256: expect.any(String) as string,
    });
    expect(Buffer.from(await blobs.get(String(form["blob"]))).toString()).toBe(JSON.stringify(large));
    expect(await outcome(payloads(), stored)).toBe(large);
  });

  test("the threshold is exact for plain text, and counts bytes", async () => {
    const { with: payloads } = world();
    const some = payloads({ offloadBytes: 1_000 });
    expect(some.seal("run", signal("x".repeat(998)))).toBeInstanceOf(Promise);
    expect(await sealed(some, "x".repeat(998))).toEqual(signal("x".repeat(998)));
    expect(inner(await sealed(some, "x".repeat(999)))).toHaveProperty("blob");
    expect(inner(await sealed(some, "€".repeat(340)))).toHaveProperty("blob");
  });

  test("a payload beyond the limit is refused with its name, limit and size; nothing is stored", async () => {
    const { blobs, with: payloads } = world();
    await expect(payloads({ bytesMax: 150_000 }).seal("run", signal(large))).rejects.toMatchObject({
      code: "payload_too_large",
      message: expect.stringMatching(/^SignalReceived\.payload of run run has 200002 bytes/) as string,
      details: { limit: 150_000, actual: 200_002 },
    });
    for await (const blob of blobs.list()) expect.fail(`stored ${blob.key}`);
  });

  test("a blob that is gone is payload_missing, one that was changed payload_corrupt", async () => {
    const server = createMemoryServer();
    const { blobs, namespace } = createMemoryLog({ server });
    const payloads = new Payloads(blobs);
    const stored = await sealed(payloads, large);
    const key = String(inner(stored)["blob"]);
    server.stream(namespace).blobs.set(key, { bytes: Buffer.from('"y"'), storedAt: 0 });
    expect(await outcome(payloads, stored)).toMatchObject({ code: "payload_corrupt" });
    await blobs.delete(key);
    expect(await outcome(payloads, stored)).toMatchObject({
      code: "payload_missing",
      message: expect.stringContaining(key) as string,
    });
  });

  test("a store that is away is for another try, not for the run to fail on", async () => {
    const server = createMemoryServer();
    const payloads = new Payloads(createMemoryLog({ server }).blobs);
    const stored = await sealed(payloads, large);
    server.disconnect();
    await expect(payloads.open("run", stored)).rejects.toMatchObject({ code: "unavailable" });
    await expect(payloads.seal("run", signal(large))).rejects.toMatchObject({ code: "unavailable" });
  });

  test("options that cannot be are refused", () => {
    const { with: payloads } = world();
    expect(() => payloads({ offloadBytes: 0 })).toThrowError(/offloadBytes is 0/);
    expect(() => payloads({ bytesMax: 2 ** 40 })).toThrowError(/bytesMax is 1099511627776/);
  });
});

describe("codecs of others", () => {
  const rot: PayloadCodec = {
    name: "rot",
    encode: async (json) => ({ data: json.map((byte) => byte ^ 0xff) }),
    decode: async ({ data }) => data.map((byte) => byte ^ 0xff),
  };

  test("may be asynchronous and have no keys", async () => {
    const { with: payloads } = world();
    const stored = await sealed(payloads({ codec: rot }), { a: 1 });
    expect(Object.keys(inner(stored))).toEqual(["codec", "data"]);
    expect(await outcome(payloads({ codec: rot }), stored)).toEqual({ a: 1 });
    expect(await outcome(payloads({ codec: before }), stored)).toMatchObject({
      code: "payload_sealed",
      message: expect.stringContaining('codec "rot", and this process has aes-gcm') as string,
    });
  });

  test("a retryable error of theirs is for another try, any other makes the payload unreadable", async () => {
    const { with: payloads } = world();
    const stored = await sealed(payloads({ codec: rot }), 1);
    const failing = (error: Error): Payloads => payloads({ codec: { ...rot, decode: rejecting(error) } });
    const away = new MillraceError("unavailable", "the key service is away");
    await expect(failing(away).open("run", stored)).rejects.toBe(away);
    expect(await outcome(failing(new Error("no such tenant")), stored)).toMatchObject({
      code: "payload_corrupt",
      message: expect.stringContaining("no such tenant") as string,
    });
  });
});

function rejecting(error: Error): PayloadCodec["decode"] {
  return async () => {
    throw error;
  };
}

function flip(base64: string): string {
  const bytes = Buffer.from(base64, "base64");
  bytes[bytes.length - 1] = (bytes.at(-1) ?? 0) ^ 1;
  return bytes.toString("base64");
}

test("a recorded history is replayed with what it holds, and refused when its payloads are elsewhere", async () => {
  const { with: payloads } = world();
  const lookalike = { $millrace: { value: 1 } };
  expect(openRecorded("run", await sealed(payloads(), lookalike))).toEqual(signal(lookalike));
  for (const options of [{ codec: before }, { offloadBytes: 1 }]) {
    const stored = await sealed(payloads(options), "secret");
    expect(() => openRecorded("run", stored)).toThrowError(
      /SignalReceived\.payload stands in it as it is stored/,
    );
  }
});
