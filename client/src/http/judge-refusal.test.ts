import { expect, test } from "vitest";
import { judgeRefusal, type Refusal } from "./judge-refusal.ts";

const refusal = (status: number, code?: string, rest: Partial<Refusal> = {}): Refusal => ({
  status,
  retryAfter: null,
  problem: code === undefined ? null : { code, detail: "why", epoch: "9f3a", first: 5, head: 9 },
  ...rest,
});

test.each([
  ["a first 401 is final", refusal(401, "forbidden"), false, { do: "close", code: 4501 }],
  ["a later 401 asks for another token", refusal(401, "forbidden"), true, { do: "close", code: 4001 }],
  ["a proxy's 403 says nothing about us", refusal(403), true, { do: "close", code: 1006 }],
  [
    "our 403 is of the subscription",
    refusal(403, "forbidden"),
    true,
    { frame: { t: "err", i: 7, retry: false } },
  ],
  [
    "a cursor that is gone",
    refusal(410, "cursor_epoch"),
    true,
    { frame: { t: "gone", i: 7, why: "epoch", e: "9f3a", first: 5, head: 9 } },
  ],
  ["a cursor of the future", refusal(400, "cursor_future"), true, { frame: { t: "gone", why: "future" } }],
  ["a wrong filter", refusal(400, "filter_invalid"), true, { frame: { t: "err", code: "filter_invalid" } }],
  [
    "a read model behind is asked again",
    refusal(503, "projector_behind", { retryAfter: "1" }),
    true,
    { frame: { t: "err", retry: true, after: 1_000 } },
  ],
  [
    "a server that drains",
    refusal(503, "draining", { retryAfter: "2" }),
    true,
    { frame: { t: "bye", code: 4000, min: 2_000, max: 7_000 } },
  ],
  ["too many requests", refusal(429, "limit_exceeded"), true, { frame: { t: "bye", code: 4004, min: 500 } }],
  ["a server without the route", refusal(404, "route_unknown"), true, { do: "close", code: 1006 }],
  ["a fault of the server", refusal(500, "internal"), true, { do: "close", code: 1006 }],
])("%s", (_name, given, worked, expected) => {
  expect(judgeRefusal(7, given, worked)).toMatchObject(expected);
});
