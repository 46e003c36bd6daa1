/** HTTP requests as clients send them that are wrong, hostile or from another century. */
import fc from "fast-check";

export interface HttpCase {
  readonly method: string;
  /** With its query, as it goes onto the wire. */
  readonly path: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Buffer | null;
}

const templates = [
  "/",
  "/healthz",
  "/readyz",
  "/metrics",
  "/openapi.json",
  "/asyncapi.json",
  "/v1/fleet",
  "/v1/stream",
  "/v1/stream/tickets",
  "/v1/workflows",
  "/v1/workflows/bulk",
  "/v1/workflows/{}",
  ...[
    "events",
    "cancel",
    "terminate",
    "pause",
    "resume",
    "retry",
    "reset",
    "fork",
    "migrate",
    "complete",
    "fail",
  ].map((verb) => `/v1/workflows/{}/${verb}`),
  "/v1/workflows/{}/signals/{}",
  "/v1/workflows/{}/payloads/{}",
  ...["begin", "complete", "fail"].map((verb) => `/v1/workflows/{}/steps/{}/${verb}`),
  "/v1/schedules",
  "/v1/schedules/{}",
  ...["events", "pause", "resume", "trigger", "backfill"].map((verb) => `/v1/schedules/{}/${verb}`),
  "/v1/queues",
  "/v1/queues/{}",
  "/v1/queues/{}/poll",
  "/v1/queues/{}/dead",
  "/v1/queues/{}/dead/redrive",
  ...["complete", "fail", "heartbeat"].map((verb) => `/v1/tasks/{}/${verb}`),
  "/ds/v1/workflows/{}",
  "/ds/v1/all",
  "/api/workflows/{}/updates",
];

const runs = ["fuzz-1", "fuzz-2", "fuzz-3"];
const anyText = fc.oneof(
  { weight: 6, arbitrary: fc.constantFrom(...runs, "work", "work#2", "pay", "a", "0") },
  { weight: 2, arbitrary: fc.string({ maxLength: 20 }) },
  fc.string({ unit: "grapheme", maxLength: 12 }),
  fc.constantFrom(
    "",
    "..",
    ".",
    "x".repeat(129),
    "x".repeat(4_000),
    "no.dots",
    "__proto__",
    "constructor",
    "\0",
    "work#0",
    "work#-1",
  ),
);
const broken = fc.constantFrom(
  "%",
  "%zz",
  "%c3%28",
  "%00",
  "%2f",
  "%ff",
  "{}",
  "*",
  "~",
  "'",
  '"',
  ";",
  "a/b",
);
const segment = fc.oneof({ weight: 8, arbitrary: anyText.map((text) => encodeURIComponent(text)) }, broken);

const filled = fc
  .tuple(fc.constantFrom(...templates), fc.array(segment, { minLength: 2, maxLength: 2 }))
  .map(([template, values]) => {
    let n = 0;
    return template.replaceAll("{}", () => values[n++] ?? "");
  });
const anyPath = fc.oneof(
  { weight: 10, arbitrary: filled },
  filled.map((text) => `${text}/`),
  filled.map((text) => text.replace("/", "//")),
  fc.array(segment, { maxLength: 6 }).map((parts) => `/${parts.join("/")}`),
);

// Waiting is no fault: what asks for a long wait would only make the run longer.
const queryKeys = [
  ...[
    "min",
    "at",
    "after",
    "limit",
    "type",
    "status",
    "from",
    "shape",
    "until",
    "attr.tier",
    "attr.",
    "event",
  ],
  ...["workflow", "mode", "batchMax", "batchMs", "ticket", "worker", "lang", "offset", "live", "cursor"],
] as const;
const value = fc.oneof(
  fc.constantFrom(
    "",
    "0",
    "1",
    "-1",
    "1e9",
    "9999999999999999",
    "NaN",
    "running",
    "start",
    "now",
    "snapshot",
    "poll",
    "state",
  ),
  fc.constantFrom(
    "0000abcd.1",
    "closed",
    "fuzz-1",
    "fuzz-1,fuzz-2",
    "true",
    "null",
    "[]",
    "gold",
    "StepCompleted",
  ),
  fc.string({ maxLength: 30 }),
);
const query = fc
  .array(
    fc.tuple(
      fc.oneof({ weight: 5, arbitrary: fc.constantFrom(...queryKeys) }, fc.string({ maxLength: 8 })),
      value,
    ),
    {
      maxLength: 4,
    },
  )
  .map((pairs) => pairs.map(([key, text]) => `${encodeURIComponent(key)}=${encodeURIComponent(text)}`));

const printable = fc.stringMatching(/^[ -~]{0,60}$/);
const headers = fc.dictionary(
  fc.constantFrom(
    ...[
      "idempotency-key",
      "content-type",
      "accept",
      "traceparent",
      "last-event-id",
      "authorization",
      "origin",
    ],
    ...["if-none-match", "range", "x-odd", "content-encoding", "cookie", "access-control-request-method"],
  ),
  fc.oneof(
    printable,
    fc.constantFrom(
      "application/json",
      "text/event-stream",
      "Bearer x",
      "bytes=0-",
      "gzip",
      "null",
      "0000abcd.3",
      "x".repeat(3_000),
    ),
  ),
  { maxKeys: 3 },
);

const fields = {
  type: fc.oneof(fc.constantFrom("order", "fuzz", "", "a b", "x".repeat(65)), fc.jsonValue()),
  id: fc.oneof(anyText, fc.jsonValue()),
  driver: fc.oneof(fc.constantFrom("external", "code"), fc.jsonValue()),
  steps: fc.oneof(fc.array(anyText, { maxLength: 4 }), fc.jsonValue()),
  input: fc.jsonValue(),
  output: fc.jsonValue(),
  token: fc.oneof(anyText, fc.jsonValue()),
  reason: fc.oneof(anyText, fc.jsonValue()),
  by: fc.oneof(anyText, fc.jsonValue()),
  error: fc.oneof(fc.record({ message: anyText }), fc.jsonValue()),
  attributes: fc.oneof(fc.dictionary(anyText, fc.oneof(anyText, fc.double(), fc.boolean())), fc.jsonValue()),
  timeoutMs: fc.oneof(fc.double(), fc.jsonValue()),
  maxAttempts: fc.oneof(fc.integer(), fc.jsonValue()),
  signal: fc.oneof(fc.record({ name: anyText }), fc.jsonValue()),
  filter: fc.oneof(fc.record({ type: fc.array(anyText, { maxLength: 3 }) }), fc.jsonValue()),
  command: fc.oneof(fc.constantFrom("cancel", "pause", "resume"), fc.jsonValue()),
  dryRun: fc.oneof(fc.boolean(), fc.jsonValue()),
  cron: fc.oneof(fc.constantFrom("0 0 1 1 *", "* * * * * *", "61 * * * *", ""), fc.jsonValue()),
  everyMs: fc.oneof(fc.integer(), fc.jsonValue()),
  from: fc.oneof(anyText, fc.constantFrom("2020-01-01T00:00:00Z", "tomorrow"), fc.jsonValue()),
  to: fc.oneof(anyText, fc.constantFrom("2020-01-02T00:00:00Z"), fc.jsonValue()),
  step: fc.oneof(anyText, fc.jsonValue()),
  version: fc.oneof(anyText, fc.jsonValue()),
  concurrency: fc.oneof(fc.integer(), fc.jsonValue()),
  allowUnregistered: fc.oneof(fc.boolean(), fc.jsonValue()),
};
const plausible = fc.record(fields, { requiredKeys: [] });
/** What routes take, with values that are mostly wrong: a body of all fields would be refused at the first. */
const likely = fc.oneof(
  fc.record(
    {
      type: fc.constantFrom("order", "fuzz"),
      id: anyText,
      driver: fc.constant("external"),
      input: fc.jsonValue(),
    },
    { requiredKeys: ["type", "driver"] },
  ),
  fc.record({ type: fields.type, attributes: fields.attributes, driver: fc.constant("external") }),
  fc.record({ token: anyText, output: fc.jsonValue() }, { requiredKeys: ["token"] }),
  fc.record({ token: anyText, error: fc.record({ message: anyText }) }),
  fc.record({ output: fc.jsonValue() }),
  fc.record({ error: fc.record({ message: anyText }) }),
  fc.record({ reason: fc.string({ maxLength: 30 }) }),
  fc.record({ maxAttempts: fc.integer({ min: -1, max: 1_001 }) }),
  fc.record({ payload: fc.jsonValue(), input: fc.jsonValue() }, { requiredKeys: [] }),
  fc.record({ concurrency: fc.integer({ min: -1, max: 2_000 }) }),
  fc.record({ id: anyText, cron: fields.cron, type: fc.constant("order") }),
  fc.constant({}),
);
const text = fc.oneof(
  { weight: 12, arbitrary: likely.map((each) => JSON.stringify(each)) },
  { weight: 6, arbitrary: plausible.map((each) => JSON.stringify(each)) },
  fc.json(),
);

/** JSON with one character gone, doubled or foreign. */
export const nearMiss = (json: fc.Arbitrary<string>): fc.Arbitrary<string> =>
  fc
    .tuple(
      json,
      fc.nat(),
      fc.constantFrom("drop", "double", "swap"),
      fc.constantFrom("{", "}", "[", "]", '"', ",", ":", "0", "-", "e", "\\", "n", "\0", "\u{fffd}"),
    )
    .map(([whole, at, how, other]) => {
      const n = whole.length === 0 ? 0 : at % whole.length;
      const middle = how === "drop" ? "" : how === "double" ? `${whole[n] ?? ""}${whole[n] ?? ""}` : other;
      return whole.slice(0, n) + middle + whole.slice(n + 1);
    });

const body = fc.oneof(
  { weight: 12, arbitrary: text.map((each) => Buffer.from(each)) },
  { weight: 6, arbitrary: nearMiss(text).map((each) => Buffer.from(each)) },
  { weight: 3, arbitrary: fc.uint8Array({ maxLength: 200 }).map((bytes) => Buffer.from(bytes)) },
  {
    weight: 2,
    arbitrary: fc.constantFrom("", "null", "[]", '"x"', "{}", "\u{feff}{}").map((each) => Buffer.from(each)),
  },
  fc
    .constantFrom(300, 5_000, 50_000)
    .map((depth) => Buffer.from(`{"input":${"[".repeat(depth)}${"]".repeat(depth)}}`)),
);
/** One in a thousand: it is slow. */
const oversized = fc.constant(Buffer.alloc(1_100_000, "x"));

const verbs =
  /(?:bulk|cancel|terminate|pause|resume|retry|reset|fork|migrate|complete|fail|begin|trigger|backfill|poll|redrive|heartbeat|tickets|signals[/].*)$/;
const methodFor = (path: string): string => {
  const [bare = ""] = path.split("?");
  return verbs.test(bare) || bare === "/v1/workflows" || bare === "/v1/schedules" ? "POST" : "GET";
};

export const httpCase: fc.Arbitrary<HttpCase> = fc
  .record({
    method: fc.oneof(
      { weight: 12, arbitrary: fc.constant("ANY") },
      { weight: 2, arbitrary: fc.constantFrom("GET", "POST") },
      fc.constantFrom("PUT", "DELETE", "HEAD", "PATCH", "OPTIONS", "PROPFIND"),
    ),
    path: fc.tuple(anyPath, query).map(([at, pairs]) => {
      const long = at.endsWith("/poll") || pairs.some((pair) => pair === "mode=poll");
      const all = long ? [...pairs, "waitMs=0"] : pairs;
      return all.length === 0 ? at : `${at}?${all.join("&")}`;
    }),
    headers,
    body: fc.oneof(
      { weight: 400, arbitrary: fc.oneof(fc.constant(null), body) },
      { weight: 1, arbitrary: oversized },
    ),
  })
  // Mostly the method that the path is for, so that more than the router is met.
  .map((each) => ({ ...each, method: each.method === "ANY" ? methodFor(each.path) : each.method }))
  .map((each) => (["GET", "HEAD"].includes(each.method) ? { ...each, body: null } : each));
