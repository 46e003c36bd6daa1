import type { ScheduleRow } from "@millrace/schemas";
import { expect, test } from "vitest";
import { whyNotFiring } from "./why-not-firing.ts";

const now = Date.parse("2026-01-01T12:00:00Z");
const row: ScheduleRow = {
  id: "s",
  status: "active",
  paused: null,
  cron: "* * * * *",
  timeZone: "UTC",
  everyMs: null,
  startAt: null,
  endAt: null,
  jitterMs: 0,
  overlap: "buffer-one",
  catchUpWindowMs: 60_000,
  workflow: { type: "report", input: null, attributes: {}, timeoutMs: null },
  note: null,
  nextTickAt: "2026-01-01T12:01:00.000Z",
  nextDueAt: "2026-01-01T12:01:00.000Z",
  openRuns: [],
  waitingRuns: [],
  backfills: [],
  counts: { triggered: 0, skipped: 0, missed: 0 },
  recentRuns: [],
  failure: null,
  commits: 1,
  createdAt: "2026-01-01T00:00:00.000Z",
  updatedAt: "2026-01-01T00:00:00.000Z",
  sequence: 1,
};
const run = (workflowId: string) => ({ workflowId, tick: row.createdAt, kind: "tick" as const });

test.each<[string, Partial<ScheduleRow>, RegExp]>([
  ["a tick to come", {}, /^$/],
  [
    "a pause",
    { status: "paused", paused: { since: "2026-01-01T10:00:00.000Z", reason: "audit", by: "ada" } },
    /paused since 2026-01-01T10.* by ada: audit/,
  ],
  ["the end", { nextDueAt: null, endAt: "2026-01-01T11:00:00.000Z" }, /no tick is left before its end/],
  [
    "nobody who hosts it",
    { nextDueAt: "2026-01-01T11:59:00.000Z" },
    /due since .*no worker that hosts report/,
  ],
  ["an open run", { waitingRuns: [run("s-2")], openRuns: [run("s-1")] }, /s-2 waits for the end of s-1/],
  [
    "a failure",
    { failure: { workflowId: "s-1", tick: row.createdAt, message: "invalid_input: no", at: row.createdAt } },
    /could not start its run: invalid_input/,
  ],
])("%s", (_name, change, wanted) => {
  const why = whyNotFiring({ ...row, ...change }, now);
  expect(why ?? "").toMatch(wanted);
});
