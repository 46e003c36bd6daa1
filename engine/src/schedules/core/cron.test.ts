import { describe, expect, test } from "vitest";
import { parseCron } from "./cron.ts";

/** Ticks after a time, as the wall clock and UTC have them. */
function ticks(cron: string, timeZone: string, after: string, count: number): string[] {
  const parsed = parseCron(cron, timeZone);
  const found: string[] = [];
  let at: number | null = Date.parse(after);
  while (found.length < count) {
    at = parsed.next(at);
    if (at === null) break;
    found.push(new Date(at).toISOString().replace(".000Z", "Z"));
  }
  return found;
}

describe("cron expressions", () => {
  test("five fields begin with the minute, six with the second; ticks are strictly later", () => {
    expect(ticks("30 4 * * *", "UTC", "2026-01-01T04:30:00Z", 2)).toEqual([
      "2026-01-02T04:30:00Z",
      "2026-01-03T04:30:00Z",
    ]);
    expect(ticks("*/20 30 4 * * *", "UTC", "2026-01-01T04:29:59.999Z", 4)).toEqual([
      "2026-01-01T04:30:00Z",
      "2026-01-01T04:30:20Z",
      "2026-01-01T04:30:40Z",
      "2026-01-02T04:30:00Z",
    ]);
  });

  test("weekdays and months by name, the last day of the month, the second Friday", () => {
    expect(ticks("0 12 * jan mon-fri", "UTC", "2026-01-02T13:00:00Z", 1)).toEqual(["2026-01-05T12:00:00Z"]);
    expect(ticks("0 0 L * *", "UTC", "2026-01-31T13:00:00Z", 1)).toEqual(["2026-02-28T00:00:00Z"]);
    expect(ticks("0 0 * * 5#2", "UTC", "2026-01-02T13:00:00Z", 1)).toEqual(["2026-01-09T00:00:00Z"]);
  });

  test("a day of the month and a weekday: either, as cron has always had it", () => {
    expect(ticks("0 0 13 * FRI", "UTC", "2026-01-08T00:00:00Z", 3)).toEqual([
      "2026-01-09T00:00:00Z",
      "2026-01-13T00:00:00Z",
      "2026-01-16T00:00:00Z",
    ]);
  });

  test("leap days are found years off, a day that never comes is none", () => {
    expect(ticks("0 0 29 2 *", "Europe/Amsterdam", "2026-01-01T00:00:00Z", 2)).toEqual([
      "2028-02-28T23:00:00Z",
      "2032-02-28T23:00:00Z",
    ]);
    expect(ticks("0 0 30 2 *", "UTC", "2026-01-01T00:00:00Z", 1)).toEqual([]);
  });

  test.each([
    ["", /five or six fields/],
    ["* * *", /five or six fields/],
    ["* * * * * * *", /five or six fields/],
    ["@daily", /five or six fields/],
    ["2026-01-01T00:00:00Z", /five or six fields/],
    ["61 * * * *", /minute/],
    ["? * * * *", /\? has no meaning/],
    ["a b c d e", /Give five fields/],
  ])("%j is refused", (cron, why) => {
    expect(() => parseCron(cron, "UTC")).toThrow(
      expect.objectContaining({ code: "invalid_request", message: expect.stringMatching(why) as string }),
    );
  });

  test("a time zone that is none is refused by its name", () => {
    expect(() => parseCron("* * * * *", "Mars/Olympus")).toThrow(/Mars\/Olympus.*IANA/);
  });
});

describe("daylight saving: times of the day", () => {
  test("Europe/Amsterdam: 02:30 on the day without one is 03:30; on the day with two it is the first", () => {
    expect(ticks("30 2 * * *", "Europe/Amsterdam", "2026-03-28T00:00:00Z", 3)).toEqual([
      "2026-03-28T01:30:00Z",
      "2026-03-29T01:30:00Z",
      "2026-03-30T00:30:00Z",
    ]);
    expect(ticks("30 2 * * *", "Europe/Amsterdam", "2026-10-24T00:00:00Z", 3)).toEqual([
      "2026-10-24T00:30:00Z",
      "2026-10-25T00:30:00Z",
      "2026-10-26T01:30:00Z",
    ]);
  });

  test("Europe/Amsterdam: what is asked for in the second of two hours is the next day's", () => {
    for (const after of [
      "2026-10-25T00:30:00Z",
      "2026-10-25T00:59:59Z",
      "2026-10-25T01:00:00Z",
      "2026-10-25T01:29:00Z",
    ])
      expect(ticks("30 2 * * *", "Europe/Amsterdam", after, 1)).toEqual(["2026-10-26T01:30:00Z"]);
  });

  test("Europe/Amsterdam: two times that fall together are one tick, and both sides of the gap keep their order", () => {
    expect(ticks("30 2,3 * * *", "Europe/Amsterdam", "2026-03-29T00:00:00Z", 2)).toEqual([
      "2026-03-29T01:30:00Z",
      "2026-03-30T00:30:00Z",
    ]);
    expect(ticks("*/20 1-3 * * *", "Europe/Amsterdam", "2026-03-28T23:50:00Z", 7)).toEqual([
      "2026-03-29T00:00:00Z",
      "2026-03-29T00:20:00Z",
      "2026-03-29T00:40:00Z",
      "2026-03-29T01:00:00Z",
      "2026-03-29T01:20:00Z",
      "2026-03-29T01:40:00Z",
      "2026-03-29T23:00:00Z",
    ]);
  });

  test("America/New_York: the same on other days, west of Greenwich", () => {
    expect(ticks("30 2 * * *", "America/New_York", "2026-03-07T12:00:00Z", 2)).toEqual([
      "2026-03-08T07:30:00Z",
      "2026-03-09T06:30:00Z",
    ]);
    expect(ticks("30 1 * * *", "America/New_York", "2026-10-31T12:00:00Z", 2)).toEqual([
      "2026-11-01T05:30:00Z",
      "2026-11-02T06:30:00Z",
    ]);
  });

  test("Australia/Lord_Howe: half an hour", () => {
    expect(ticks("15 2 * * *", "Australia/Lord_Howe", "2026-10-03T00:00:00Z", 2)).toEqual([
      "2026-10-03T15:45:00Z",
      "2026-10-04T15:15:00Z",
    ]);
    expect(ticks("45 1 * * *", "Australia/Lord_Howe", "2026-04-04T00:00:00Z", 2)).toEqual([
      "2026-04-04T14:45:00Z",
      "2026-04-05T15:15:00Z",
    ]);
  });

  test("UTC knows none of it", () => {
    expect(ticks("30 2 * * *", "UTC", "2026-03-28T12:00:00Z", 2)).toEqual([
      "2026-03-29T02:30:00Z",
      "2026-03-30T02:30:00Z",
    ]);
  });

  test("Pacific/Apia: a day that was left out altogether moves into the next", () => {
    expect(ticks("0 9 * * *", "Pacific/Apia", "2011-12-29T00:00:00Z", 3)).toEqual([
      "2011-12-29T19:00:00Z",
      "2011-12-30T19:00:00Z",
      "2011-12-31T19:00:00Z",
    ]);
  });
});

describe("daylight saving: every hour", () => {
  test("Europe/Amsterdam: half hours go on through both", () => {
    expect(ticks("*/30 * * * *", "Europe/Amsterdam", "2026-10-24T23:45:00Z", 6)).toEqual([
      "2026-10-25T00:00:00Z",
      "2026-10-25T00:30:00Z",
      "2026-10-25T01:00:00Z",
      "2026-10-25T01:30:00Z",
      "2026-10-25T02:00:00Z",
      "2026-10-25T02:30:00Z",
    ]);
    expect(ticks("30 0-23 * * *", "Europe/Amsterdam", "2026-03-28T23:45:00Z", 3)).toEqual([
      "2026-03-29T00:30:00Z",
      "2026-03-29T01:30:00Z",
      "2026-03-29T02:30:00Z",
    ]);
  });

  test("Australia/Lord_Howe: the minutes of the wall clock, so a change by half an hour shows", () => {
    expect(ticks("15 * * * *", "Australia/Lord_Howe", "2026-10-03T14:30:00Z", 3)).toEqual([
      "2026-10-03T14:45:00Z",
      "2026-10-03T16:15:00Z",
      "2026-10-03T17:15:00Z",
    ]);
    expect(ticks("45 * * * *", "Australia/Lord_Howe", "2026-04-04T14:00:00Z", 3)).toEqual([
      "2026-04-04T14:45:00Z",
      "2026-04-04T15:15:00Z",
      "2026-04-04T16:15:00Z",
    ]);
  });
});
