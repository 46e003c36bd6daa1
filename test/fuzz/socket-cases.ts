/** What a client of the stream may send: frames in any order, frames that are nearly right, and bytes that are none. */
import fc from "fast-check";
import { nearMiss } from "./http-cases.ts";

const id = fc.oneof({ weight: 8, arbitrary: fc.nat({ max: 4 }) }, fc.integer(), fc.double(), fc.jsonValue());
const texts = fc.oneof(
  fc.array(fc.constantFrom("fuzz-1", "fuzz-2", "order", "running", "StepCompleted", "WorkflowStarted", ""), {
    maxLength: 3,
  }),
  fc.array(fc.string({ maxLength: 10 }), { maxLength: 120 }),
  fc.jsonValue(),
);
const filter = fc.oneof(
  fc.record(
    { workflow: texts, type: texts, status: texts, event: texts, attr: fc.jsonValue() },
    { requiredKeys: [] },
  ),
  fc.jsonValue(),
);
const from = fc.oneof(
  fc.constantFrom(
    "start",
    "now",
    "snapshot",
    "0000abcd.1",
    "9f3a.",
    ".1",
    "9f3a.-1",
    "9f3a.01",
    "9f3a.99999999999999999999",
    "",
  ),
  fc.string({ maxLength: 20 }),
  fc.jsonValue(),
);
const number = fc.oneof(fc.nat({ max: 2_000 }), fc.integer(), fc.double(), fc.jsonValue());

const sub = fc.record(
  {
    i: id,
    filter,
    from,
    min: fc.oneof({ weight: 3, arbitrary: fc.nat({ max: 3 }) }, number),
    window: number,
    batch: fc.oneof(fc.record({ max: number, ms: number }), fc.jsonValue()),
    shape: fc.oneof(fc.constantFrom("events", "state", "both", "rows"), fc.jsonValue()),
    until: fc.oneof(fc.constantFrom("closed", "never"), fc.jsonValue()),
    more: fc.jsonValue(),
  },
  { requiredKeys: ["i"] },
);
/** One that is granted, so that what follows meets subscriptions that are alive. */
const good = fc.record({
  t: fc.constant("sub"),
  i: fc.nat({ max: 3 }),
  from: fc.constantFrom("start", "now", "snapshot"),
  shape: fc.constantFrom("events", "state", "both"),
  filter: fc.constantFrom<unknown>({}, { type: ["order"] }, { workflow: ["fuzz-1"] }),
});
/** Understood, and mostly refused: the connection lives on. */
const rightly = fc.oneof(
  fc.record({ t: fc.constant("ack"), i: fc.nat({ max: 4 }), s: fc.nat({ max: 500 }) }),
  fc.record({ t: fc.constant("unsub"), i: fc.nat({ max: 4 }) }),
  fc.record({ t: fc.constant("ping"), n: fc.integer() }),
  fc.record({
    t: fc.constant("report"),
    i: fc.nat({ max: 4 }),
    breaks: fc.nat({ max: 9 }),
    duplicates: fc.nat({ max: 9 }),
  }),
  fc.record({
    t: fc.constant("sub"),
    i: fc.nat({ max: 9 }),
    filter,
    from: fc.oneof(fc.constant("start"), fc.string({ maxLength: 20 })),
  }),
  fc.record(
    {
      t: fc.constant("sub"),
      i: fc.nat({ max: 9 }),
      from: fc.constantFrom("start", "now", "snapshot"),
      window: fc.integer({ min: 1, max: 20 }),
      batch: fc.record({ max: fc.integer({ min: 1, max: 1_000 }), ms: fc.integer({ min: 1, max: 1_000 }) }),
      until: fc.constant("closed"),
      filter: fc.constantFrom<unknown>(
        {},
        { workflow: ["fuzz-1"] },
        { status: ["running"] },
        { attr: { tier: "a" } },
      ),
    },
    { requiredKeys: ["t", "i", "from"] },
  ),
);
const frame = fc.oneof(
  { weight: 3, arbitrary: good },
  { weight: 4, arbitrary: sub.map((each) => ({ t: "sub", ...each })) },
  fc.record({ t: fc.constant("ack"), i: id, s: number }, { requiredKeys: ["t"] }),
  fc.record({ t: fc.constant("unsub"), i: id }, { requiredKeys: ["t"] }),
  fc.record({ t: fc.constant("ping"), n: number }, { requiredKeys: ["t"] }),
  fc.record(
    { t: fc.constant("auth"), token: fc.oneof(fc.string(), fc.jsonValue()) },
    { requiredKeys: ["t"] },
  ),
  fc.record({ t: fc.constant("report"), i: id, breaks: number, duplicates: number }, { requiredKeys: ["t"] }),
  fc.record({ t: fc.constant("hello"), v: number, client: fc.jsonValue() }, { requiredKeys: ["t"] }),
  fc.record({ t: fc.oneof(fc.string({ maxLength: 8 }), fc.jsonValue()), i: id }, { requiredKeys: [] }),
);
const frameText = frame.map((each) => JSON.stringify(each));

export type Message = { readonly text: string } | { readonly bytes: Uint8Array };

const message: fc.Arbitrary<Message> = fc.oneof(
  { weight: 120, arbitrary: fc.oneof(good, rightly).map((each) => ({ text: JSON.stringify(each) })) },
  { weight: 40, arbitrary: frameText.map((text) => ({ text })) },
  { weight: 12, arbitrary: nearMiss(frameText).map((text) => ({ text })) },
  { weight: 6, arbitrary: fc.json().map((text) => ({ text })) },
  { weight: 4, arbitrary: fc.string({ unit: "grapheme", maxLength: 100 }).map((text) => ({ text })) },
  { weight: 3, arbitrary: fc.uint8Array({ maxLength: 100 }).map((bytes) => ({ bytes })) },
  fc.constantFrom(65_500, 65_536, 65_537, 200_000).map((length) => ({ text: "x".repeat(length) })),
  fc
    .constantFrom(100, 20_000)
    .map((depth) => ({ text: `{"t":"sub","i":1,"filter":${"[".repeat(depth)}${"]".repeat(depth)}}` })),
);

export interface SocketCase {
  readonly hello: boolean;
  readonly messages: readonly Message[];
}

export const socketCase: fc.Arbitrary<SocketCase> = fc.record({
  hello: fc.oneof({ weight: 9, arbitrary: fc.constant(true) }, fc.constant(false)),
  messages: fc.array(message, { minLength: 1, maxLength: 6 }),
});

const upgrade = (path: string, more: readonly string[]): string =>
  [
    `GET ${path} HTTP/1.1`,
    "Host: 127.0.0.1",
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ...more,
    "",
    "",
  ].join("\r\n");
const handshakes = [
  upgrade("/v1/stream", ["Sec-WebSocket-Protocol: millrace.v1"]),
  upgrade("/v1/stream", [
    "Sec-WebSocket-Protocol: millrace.v1",
    "Sec-WebSocket-Extensions: permessage-deflate",
  ]),
  upgrade("/v1/stream", ["Sec-WebSocket-Protocol: other"]),
  upgrade("/api/workflows/fuzz-1/updates?from=0", []),
  upgrade("/api/workflows/%zz/updates", []),
];
const requests = [
  "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
  "POST /v1/workflows HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n{",
  "POST /v1/workflows HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
  "POST /v1/workflows HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
  "POST /v1/workflows HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
  "GET / HTTP/9.9\r\n\r\n",
  "GET /\r\n\r\n",
  `GET /${"a".repeat(9_000)} HTTP/1.1\r\nHost: a\r\n\r\n`,
];

/** Bytes for a bare TCP connection: whole or damaged handshakes, then WebSocket frames or noise. */
export const rawCase: fc.Arbitrary<readonly Uint8Array[]> = fc
  .tuple(
    fc.oneof(
      { weight: 5, arbitrary: fc.constantFrom(...handshakes) },
      { weight: 3, arbitrary: fc.constantFrom(...requests) },
      { weight: 2, arbitrary: nearMiss(fc.constantFrom(...handshakes, ...requests)) },
      fc.constant(""),
    ),
    fc.array(
      fc.oneof(
        fc.uint8Array({ maxLength: 60 }),
        fc
          .tuple(fc.nat({ max: 255 }), fc.uint8Array({ maxLength: 120 }), fc.boolean())
          .map(([first, payload, masked]) => webSocketFrame(first, payload, masked)),
      ),
      { maxLength: 4 },
    ),
  )
  .map(([first, rest]) => [Buffer.from(first), ...rest]);

/** With any first byte: reserved bits, opcodes that there are not, fragments that never end. */
function webSocketFrame(first: number, payload: Uint8Array, masked: boolean): Uint8Array {
  const mask = masked ? [1, 2, 3, 4] : [];
  const body = payload.map((byte, n) => byte ^ (mask[n % 4] ?? 0));
  return Uint8Array.from([first, (masked ? 128 : 0) | payload.length, ...mask, ...body]);
}
