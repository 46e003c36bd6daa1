import fc from "fast-check";
import { expect, test } from "vitest";
import { parseServerFrame } from "./server-frame.ts";
import { ev } from "./testing/scripted-server.ts";

const valid = [
  {
    t: "welcome",
    v: 1,
    node: "n",
    e: "9f3a",
    first: 1,
    head: 9,
    hb: 20_000,
    limits: { subs: 64, frame: 65_536 },
  },
  { t: "subbed", i: 1, f: 7, mode: "catchup", s: 174, head: 20_817, resumed: true },
  { t: "snap", i: 1, rows: [{}], more: true },
  { t: "snapend", i: 1, e: "9f3a", s: 20_700 },
  ev(7, 174, 190, [176, 190]),
  { t: "bm", f: 7, p: 190, s: 5_000 },
  { t: "live", i: 1, s: 20_817 },
  { t: "behind", i: 1, s: 20_817, head: 24_000, why: "slow" },
  { t: "hb", s: 20_830, l: [[7, 20_815]] },
  { t: "end", i: 1, s: 20_831 },
  { t: "gone", i: 1, why: "epoch", e: "9f3a", first: 1, head: 9 },
  { t: "err", i: 1, code: "forbidden", msg: "no", retry: false, after: 0 },
  { t: "err", code: "forbidden", msg: "no", retry: false, after: 0 },
  { t: "bye", code: 4000, min: 500, max: 15_000 },
  { t: "pong", n: 7 },
] as const;

test.each(valid)("reads $t", (frame) => {
  expect(parseServerFrame(JSON.stringify(frame))).toEqual(frame);
});

test("no message whatever makes it throw, and what it lets through has its type's numbers", () => {
  const damaged = fc
    .tuple(fc.constantFrom(...valid), fc.string(), fc.jsonValue())
    .map(([frame, key, value]) => {
      const keys = Object.keys(frame);
      return JSON.stringify({ ...frame, [keys[key.length % keys.length] ?? "t"]: value });
    });
  const property = fc.property(fc.oneof(fc.string(), fc.json(), damaged, fc.uint8Array()), (message) => {
    const frame = parseServerFrame(message);
    if (typeof frame === "string") return true;
    const chained = (frame.t !== "ev" && frame.t !== "bm") || frame.p <= frame.s;
    const addressed = !("i" in frame) || frame.i === undefined || Number.isSafeInteger(frame.i);
    return chained && addressed;
  });
  expect(fc.check(property)).toMatchObject({ failed: false, counterexample: null });
});
