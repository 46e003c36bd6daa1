/** What is not understood, not granted, or too much: each has its code, and nothing else is disturbed by it. */
import { get } from "node:http";
import { setTimeout as delay } from "node:timers/promises";
import type { Frame } from "../frame.ts";
import type { Kit, Rule } from "../kit.ts";

const closes: readonly {
  readonly what: string;
  readonly send: readonly (string | Buffer | object)[];
  readonly code: number;
  readonly hello: boolean;
}[] = [
  { what: "no JSON", send: ["{"], code: 4500, hello: true },
  { what: "a JSON array", send: ["[]"], code: 4500, hello: true },
  { what: "null", send: ["null"], code: 4500, hello: true },
  { what: "a binary message", send: [Buffer.from('{"t":"ping"}')], code: 4500, hello: true },
  { what: "an unknown kind", send: [{ t: "what" }], code: 4500, hello: true },
  { what: "no kind", send: [{}], code: 4500, hello: true },
  { what: "a sub without an id", send: [{ t: "sub" }], code: 4500, hello: true },
  { what: "an id below zero", send: [{ t: "sub", i: -1 }], code: 4500, hello: true },
  { what: "a shape that there is not", send: [{ t: "sub", i: 1, shape: "rows" }], code: 4500, hello: true },
  { what: "a second hello", send: [{ t: "hello", v: 1 }], code: 4500, hello: true },
  { what: "a frame before hello", send: [{ t: "ping" }], code: 4502, hello: false },
  { what: "a sub before hello", send: [{ t: "sub", i: 1 }], code: 4502, hello: false },
  { what: "another version", send: [{ t: "hello", v: 2 }], code: 4506, hello: false },
  {
    what: "a frame over the limit",
    send: [{ t: "ping", filler: "x".repeat(70_000) }],
    code: 4513,
    hello: true,
  },
];

const badFrames: Rule = {
  name: "bad-frames-close-with-a-code",
  about: "a frame that cannot be understood closes the connection with its code",
  async run(kit) {
    await Promise.all(
      closes.map(async ({ what, send, code, hello }) => {
        const client = await kit.open(hello ? undefined : null);
        for (const frame of send) client.send(frame);
        const closed = await client.untilClosed(`the close after ${what}`);
        kit.assert(
          closed.code === code,
          `${what}: closed with ${closed.code} ${closed.reason}, expected ${code}`,
        );
        if (code === 4506)
          kit.assert(
            client.frames.some((frame) => frame.t === "err" && frame.code === "protocol_version"),
            "another version: no err protocol_version before the close",
          );
      }),
    );
  },
};

const refusals: readonly { readonly what: string; readonly sub: object; readonly code: string }[] = [
  { what: "an unknown filter field", sub: { filter: { colour: ["red"] } }, code: "filter_invalid" },
  { what: "a filter that is a list", sub: { filter: [] }, code: "filter_invalid" },
  { what: "an empty list in a filter", sub: { filter: { workflow: [] } }, code: "filter_invalid" },
  { what: "an unknown event type", sub: { filter: { event: ["Nothing"] } }, code: "filter_invalid" },
  {
    what: "too many values",
    sub: { filter: { type: Array.from({ length: 101 }, (_, n) => `t${n}`) } },
    code: "filter_invalid",
  },
  { what: "until closed for everything", sub: { until: "closed" }, code: "filter_invalid" },
  { what: "a malformed cursor", sub: { from: "yesterday" }, code: "cursor_malformed" },
  { what: "a cursor without an epoch", sub: { from: "17" }, code: "cursor_malformed" },
  { what: "a cursor below zero", sub: { from: "9f3a01bc.-1" }, code: "cursor_malformed" },
];

const refused: Rule = {
  name: "refusals-disturb-nothing",
  about: "what cannot be granted is answered by err with its code, and the other subscriptions go on",
  async run(kit) {
    const client = await kit.open();
    const judge = kit.subscribe(client, { from: "now" });
    await client.until("live", () => judge.live);
    for (const [n, { what, sub, code }] of refusals.entries()) {
      const i = 1_000 + n;
      client.send({ t: "sub", i, ...sub });
      const answer = await client.frame(`the answer to ${what}`, (frame) => frame.i === i);
      kit.assert(
        answer.t === "err" && answer.code === code,
        `${what}: ${JSON.stringify(answer)}, expected err ${code}`,
      );
      kit.assert(answer.retry === false, `${what}: it says that the same may work later`);
    }
    client.send({ t: "unsub", i: 77_777 });
    const unknown = await client.frame("the answer to unsub of nothing", (frame) => frame.i === 77_777);
    kit.assert(unknown.code === "subscription_unknown", `unsub of nothing: ${JSON.stringify(unknown)}`);
    const last = await kit.driver.run(kit.id(0), kit.type, 1);
    await kit.reaches(client, judge, last);
    kit.exact(judge.entries, await kit.driver.truth([kit.id(0)], last), "beside refusals");
  },
};

const lenient: Rule = {
  name: "unknown-fields-are-ignored",
  about: "fields that the server does not know are ignored, ping is answered by pong with its number",
  async run(kit) {
    const client = await kit.open({ t: "hello", v: 1, client: "conformance/1.0", later: { a: 1 } });
    client.send({ t: "ping", n: 42, later: true });
    await client.frame("pong", (frame) => frame.t === "pong" && frame.n === 42);
    const judge = client.subscribe(
      { filter: kit.mine, from: "now", ...({ later: 1 } as object) },
      kit.judge(),
    );
    await client.until("live", () => judge.live);
    client.send({ t: "report", i: 1, breaks: 0, duplicates: 0 });
    client.send({ t: "ping" });
    await client.frame("pong without a number", (frame) => frame.t === "pong" && frame.n === undefined);
  },
};

const sameId: Rule = {
  name: "duplicate-subscriptions",
  about: "an id names one subscription until it is over; the same filter twice is two subscriptions",
  async run(kit) {
    const client = await kit.open();
    const judges = [kit.subscribe(client, { from: "now" }), kit.subscribe(client, { from: "start" })];
    await client.until("both live", () => judges.every((judge) => judge.live));
    client.send({ t: "sub", i: 1, filter: kit.mine, from: "start" });
    const answer = await client.frame(
      "the answer to a taken id",
      (frame) => frame.t === "err" && frame.i === 1,
    );
    kit.assert(answer.code === "subscription_exists", `a taken id: ${JSON.stringify(answer)}`);
    const [first, second] = judges;
    kit.assert(
      first !== undefined && second !== undefined && first.f !== second.f,
      "two subscriptions share an f",
    );
    const last = await kit.driver.run(kit.id(0), kit.type, 2);
    await client.until("both have it", () => judges.every((judge) => judge.lastSequence >= last));
    const truth = await kit.driver.truth([kit.id(0)], last);
    for (const judge of judges) kit.exact(judge.entries, truth, "one of two with the same filter");
    // After unsub the id is free.
    if (first === undefined) return;
    client.unsubscribe(first);
    const again = client.subscribe({ filter: kit.mine, from: "start" }, kit.judge(), 1);
    await client.until("live under an id that was free again", () => again.live);
    kit.exact(again.entries, truth, "under an id that was free again");
  },
};

const limit: Rule = {
  name: "subscription-limit",
  about: "one subscription more than welcome.limits.subs is refused by its code, and unsub makes room",
  async run(kit) {
    const client = await kit.open();
    const { subs = 0 } = client.welcome?.limits ?? {};
    kit.assert(subs > 0 && subs <= 10_000, `welcome.limits.subs is ${subs}`);
    for (let i = 1; i <= subs + 1; i++) client.send({ t: "sub", i, filter: kit.mine });
    const answers = (): Frame[] => client.frames.filter(({ t }) => t === "subbed" || t === "err");
    await client.until("all answers", () => answers().length >= subs + 1);
    const errors = answers().filter(({ t }) => t === "err");
    kit.assert(
      errors.length === 1 && errors[0]?.i === subs + 1 && errors[0].code === "subscription_limit",
      `${subs + 1} subscriptions: ${JSON.stringify(errors.slice(0, 3))}`,
    );
    client.send({ t: "unsub", i: 1 });
    client.send({ t: "sub", i: subs + 2, filter: kit.mine });
    await client.frame("one more after unsub", (frame) => frame.t === "subbed" && frame.i === subs + 2);
  },
};

const silent: Rule = {
  name: "hello-in-time",
  about: "a connection that says nothing is closed with 4502 within its ten seconds",
  async run(kit) {
    const client = await kit.open(null);
    await client.until(
      "the close of a silent connection",
      () => client.closed !== null,
      15_000 + kit.deadlineMs,
    );
    kit.assert(client.closed?.code === 4502, `silent: ${JSON.stringify(client.closed)}`);
  },
};

const subprotocol: Rule = {
  name: "subprotocol-is-asked-for",
  about: "an upgrade that does not offer millrace.v1 is 400 subprotocol_missing, as problem details",
  async run(kit) {
    for (const offered of [undefined, "other.v1"]) {
      const { status, type, body } = await upgradeOf(kit, offered);
      kit.assert(
        status === 400 &&
          type.startsWith("application/problem+json") &&
          body.includes('"subprotocol_missing"'),
        `offering ${offered ?? "nothing"}: ${status} ${type} ${body.slice(0, 200)}`,
      );
    }
  },
};

interface Refused {
  readonly status: number;
  readonly type: string;
  readonly body: string;
}

async function upgradeOf(kit: Kit, offered: string | undefined): Promise<Refused> {
  return await new Promise((resolve, reject) => {
    const headers = {
      connection: "Upgrade",
      upgrade: "websocket",
      "sec-websocket-version": "13",
      "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
      ...(offered === undefined ? {} : { "sec-websocket-protocol": offered }),
    };
    const request = get(`${kit.target.http}/v1/stream`, { headers, agent: false }, (response) => {
      let body = "";
      response.on("data", (chunk: Buffer) => {
        body += chunk.toString();
      });
      response.on("end", () =>
        resolve({ status: response.statusCode ?? 0, type: response.headers["content-type"] ?? "", body }),
      );
    });
    request.on("upgrade", (_response, socket) => {
      socket.destroy();
      resolve({ status: 101, type: "", body: "upgraded" });
    });
    request.on("error", reject);
  });
}

/** Time in which what must not come would come: of that there is no event to wait for. */
export async function quietFor(ms: number): Promise<void> {
  await delay(ms);
}

export const frameRules: readonly Rule[] = [badFrames, refused, lenient, sameId, limit, subprotocol, silent];
