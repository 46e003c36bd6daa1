import { createMemoryLog } from "@millrace/event-log";
import { decodeCommit, encodeCommit, type WorkflowEvent } from "@millrace/schemas";
import fc from "fast-check";
import { expect, test } from "vitest";
import { aesGcmCodec } from "./aes-gcm-codec.ts";
import { assertOpened, Payloads, type PayloadOptions } from "./payloads.ts";

const codec = aesGcmCodec({ keys: { a: Buffer.alloc(32, 1), b: Buffer.alloc(32, 2) }, current: "b" });

/** Any JSON, and JSON that resembles what we store ourselves. */
const json = fc.jsonValue({ maxDepth: 3 });
const resembling = fc
  .oneof(
    json,
    fc.record({ value: json }),
    fc.record({ codec: fc.constant("aes-gcm"), key: fc.constant("b"), data: fc.string() }),
    fc.record({
      blob: fc.constant("run/01ARZ3NDEKTSV4RRFFQ69G5FAV"),
      size: fc.nat(),
      sha256: fc.string(),
    }),
  )
  .map(($millrace) => ({ $millrace }));
const payload = fc.oneof(
  json,
  resembling,
  resembling.map((inner) => ({ $millrace: { value: inner } })),
);

const options: fc.Arbitrary<PayloadOptions> = fc.record(
  { codec: fc.constant(codec), offloadBytes: fc.constantFrom(1, 20, 200, 131_072) },
  { requiredKeys: [] },
);

function eventsOf(payloads: readonly unknown[]): WorkflowEvent[] {
  return [
    { type: "TimerFired", data: { timer: "t" } },
    ...payloads.map((output, index): WorkflowEvent => {
      if (index === 0)
        return { type: "WorkflowStarted", data: { version: "1", driver: "code", input: output } };
      if (index === 1) return { type: "SignalReceived", data: { name: "s", payload: output } };
      return { type: "StepCompleted", data: { name: "s", occurrence: index, attempt: 1, output } };
    }),
  ];
}

const throughJson = (value: unknown): unknown => JSON.parse(JSON.stringify(value)) as unknown;

test("P1 what was sealed and stored opens to the same JSON, whatever it looks like", async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(payload, { maxLength: 4 }), options, async (given, how) => {
      const { blobs } = createMemoryLog();
      const events = eventsOf(given);
      const sealed = await new Payloads(blobs, how).seal("run", events);
      const stored = decodeCommit(encodeCommit("run", sealed), 1);
      const opened = await new Payloads(blobs, how).open("run", stored);
      expect(opened).toEqual(throughJson(events));
      for (const event of opened) assertOpened(event);
    }),
    { numRuns: 400 },
  );
});

test("P1 what the codec sealed shows nothing of it, in the log or in the blob store", async () => {
  await fc.assert(
    fc.asyncProperty(fc.uuid(), fc.constantFrom(1, 131_072), async (secret, offloadBytes) => {
      const { blobs } = createMemoryLog();
      const sealed = await new Payloads(blobs, { codec, offloadBytes }).seal("run", eventsOf([{ secret }]));
      let everything = encodeCommit("run", sealed);
      for await (const { key } of blobs.list())
        everything += Buffer.from(await blobs.get(key)).toString("latin1");
      const inline = /"data":"([^"]*)"/.exec(everything)?.[1] ?? "";
      everything += Buffer.from(inline, "base64").toString("latin1");
      expect(everything).not.toContain(secret);
      expect(everything).not.toContain("secret");
    }),
    { numRuns: 50 },
  );
});

test("P2 with nothing to do, both ways give back the very array", () => {
  fc.assert(
    fc.property(fc.array(json, { maxLength: 4 }), (given) => {
      const payloads = new Payloads(createMemoryLog().blobs);
      const events = eventsOf(given);
      expect(payloads.seal("run", events)).toBe(events);
      expect(payloads.open("run", events)).toBe(events);
    }),
  );
});

test("P3 without the key it stays as stored, may be appended again as it is, and then opens with the key", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(payload, { minLength: 1, maxLength: 4 }),
      fc.constantFrom(1, 131_072),
      fc.constantFrom("run", "fork"),
      async (given, offloadBytes, target) => {
        const { blobs } = createMemoryLog();
        const events = eventsOf(given);
        const how = { codec, offloadBytes };
        const stored = decodeCommit(
          encodeCommit("run", await new Payloads(blobs, how).seal("run", events)),
          1,
        );
        const keyless = new Payloads(blobs, { offloadBytes: 20 });
        const seen = await keyless.open("run", stored);
        expect(throughJson(seen)).toEqual(throughJson(stored));
        const again = decodeCommit(encodeCommit(target, await keyless.seal(target, seen)), 2);
        // P4: but for what the user's own data says
        const owners = [...JSON.stringify(again).matchAll(/"blob":"([^"/]*)\/[0-9A-Z]{26}"/g)];
        const ownData = JSON.stringify(given).includes("blob");
        expect(owners.filter(([, owner]) => !ownData && owner !== target)).toEqual([]);
        expect(await new Payloads(blobs, how).open(target, again)).toEqual(throughJson(events));
      },
    ),
    { numRuns: 200 },
  );
});
