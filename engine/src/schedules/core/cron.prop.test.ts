/** Cron in a zone against a plain oracle that looks at every minute of the wall clock. */
import fc from "fast-check";
import { expect, test } from "vitest";
import { parseCron } from "./cron.ts";
import { zoneOf } from "./zone-time.ts";

const minuteMs = 60_000;
const hourMs = 60 * minuteMs;

const changes = [
  ["Europe/Amsterdam", "2026-03-29T01:00:00Z"],
  ["Europe/Amsterdam", "2026-10-25T01:00:00Z"],
  ["America/New_York", "2026-03-08T07:00:00Z"],
  ["America/New_York", "2026-11-01T06:00:00Z"],
  ["Australia/Lord_Howe", "2026-10-03T15:30:00Z"],
  ["Australia/Lord_Howe", "2026-04-04T15:00:00Z"],
  ["Africa/Casablanca", "2026-02-15T02:00:00Z"],
  ["UTC", "2026-03-29T01:00:00Z"],
] as const;

const fields = fc.record({
  minutes: fc.uniqueArray(fc.integer({ min: 0, max: 59 }), { minLength: 1, maxLength: 4 }),
  hours: fc.oneof(
    fc.constant(null),
    fc.uniqueArray(fc.integer({ min: 0, max: 5 }), { minLength: 1, maxLength: 3 }),
  ),
});

test("T1 T2 ticks around a change of the clock are those of an oracle that reads the wall clock every minute", () => {
  fc.assert(
    fc.property(fc.constantFrom(...changes), fields, ([timeZone, at], { minutes, hours }) => {
      const zone = zoneOf(timeZone);
      if (zone === null) throw new Error(timeZone);
      const wall = (ms: number): number => ms + zone.offsetAt(ms);
      const matches = (reading: number): boolean => {
        const date = new Date(reading);
        return (
          minutes.includes(date.getUTCMinutes()) && (hours === null || hours.includes(date.getUTCHours()))
        );
      };
      const from = Date.parse(at) - 6 * hourMs;
      const to = Date.parse(at) + 6 * hourMs;
      const wanted = new Set<number>();
      const seen = new Set<number>();
      for (let ms = from - 3 * hourMs; ms <= to; ms += minuteMs) {
        const reading = wall(ms);
        if (matches(reading) && (hours === null || !seen.has(reading))) wanted.add(ms);
        seen.add(reading);
        // What the clock leaves out between this minute and the next, as the time before the change would have it.
        for (let left = reading + minuteMs; left < wall(ms + minuteMs); left += minuteMs)
          if (hours !== null && matches(left)) wanted.add(ms + (left - reading));
      }
      const { next } = parseCron(`${minutes.join(",")} ${hours?.join(",") ?? "*"} * * *`, timeZone);
      const found: number[] = [];
      for (let tick = next(from); tick !== null && tick <= to; tick = next(tick)) found.push(tick);
      expect(found).toEqual([...wanted].filter((ms) => ms > from && ms <= to).sort((a, b) => a - b));
    }),
    { numRuns: 300 },
  );
});

test("T3 the next tick is the first one after a time, from wherever it is asked", () => {
  fc.assert(
    fc.property(
      fc.constantFrom(...changes),
      fields,
      fc.array(fc.integer({ min: -8 * 3_600, max: 8 * 3_600 }), { minLength: 1, maxLength: 5 }),
      ([timeZone, at], { minutes, hours }, offsets) => {
        const { next } = parseCron(`${minutes.join(",")} ${hours?.join(",") ?? "*"} * * *`, timeZone);
        const all: number[] = [];
        for (let tick = next(Date.parse(at) - 72 * hourMs); tick !== null; tick = next(tick)) {
          all.push(tick);
          if (tick > Date.parse(at) + 72 * hourMs) break;
        }
        for (const seconds of offsets) {
          const asked = Date.parse(at) + seconds * 1_000;
          expect(next(asked)).toBe(all.find((tick) => tick > asked));
        }
      },
    ),
    { numRuns: 200 },
  );
});
