/** Random lives of a schedule: time that passes and jumps, runs that end, pauses, triggers. Invariants S1 to S5. */
import { evolveSchedule, type OverlapPolicy, type ScheduleState } from "@millrace/schemas";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  decideBackfill,
  decideCreate,
  decideDue,
  decidePause,
  decideResume,
  decideTrigger,
  type ScheduleEvent,
} from "./decide-schedule.ts";
import { parseSchedule } from "./parse-schedule.ts";
import { dueAt, runIdOf, ticksOf } from "./schedule-ticks.ts";

const minuteMs = 60_000;
const start = Date.parse("2026-03-28T23:00:00Z");

type Act =
  | { readonly kind: "pass" | "jump"; readonly minutes: number }
  | { readonly kind: "close" }
  | { readonly kind: "pause" | "resume" | "trigger" | "backfill" };

const act: fc.Arbitrary<Act> = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({ kind: fc.constant("pass" as const), minutes: fc.integer({ min: 0, max: 40 }) }),
  },
  {
    weight: 1,
    arbitrary: fc.record({ kind: fc.constant("jump" as const), minutes: fc.integer({ min: -60, max: 60 }) }),
  },
  { weight: 4, arbitrary: fc.constant({ kind: "close" as const }) },
  { weight: 2, arbitrary: fc.constantFrom({ kind: "pause" as const }, { kind: "resume" as const }) },
  { weight: 1, arbitrary: fc.constantFrom({ kind: "trigger" as const }, { kind: "backfill" as const }) },
);

const life = fc.record({
  overlap: fc.constantFrom<OverlapPolicy>("skip", "buffer-one", "allow", "cancel-previous"),
  cron: fc.constantFrom("*/5 * * * *", "30 * * * *", "*/20 1-3 * * *"),
  timeZone: fc.constantFrom("Europe/Amsterdam", "UTC"),
  jitterMs: fc.constantFrom(0, 200_000),
  catchUpWindowMs: fc.constantFrom(0, 15 * minuteMs, 60 * minuteMs),
  acts: fc.array(act, { maxLength: 40 }),
});

describe("decisions", () => {
  test("S1 S3 S4 S5 each tick is started, waits, or is counted, and once; runs overlap under allow only", () => {
    fc.assert(
      fc.property(life, ({ acts, ...timing }) => {
        const spec = parseSchedule("s", { ...timing, workflow: { type: "t" } });
        let now = start;
        let sequence = 0;
        let state: ScheduleState | null = null;
        const open = new Set<string>();
        const started: string[] = [];
        const apply = (event: ScheduleEvent | null): void => {
          if (event === null) return;
          const before = state?.through ?? 0;
          state = evolveSchedule(state, { workflowId: "s", sequence: ++sequence, at: now, events: [event] });
          expect(state?.through).toBeGreaterThanOrEqual(before);
          if (event.type !== "ScheduleTriggered") return;
          for (const { id } of event.data.runs) {
            started.push(id);
            open.add(id);
          }
          expect(spec.overlap === "allow" || open.size <= 1).toBe(true);
        };
        const current = (): ScheduleState => {
          if (state === null) throw new Error("no schedule");
          return state;
        };
        const settle = (): void => {
          for (let rounds = 0; rounds < 100; rounds++) {
            const event = decideDue(current(), now, (id) => open.has(id));
            if (event === null) break;
            apply(event);
          }
          // S5, and nothing is left that is due.
          expect(decideDue(current(), now, (id) => open.has(id))).toBeNull();
          const { status, nextTickAt, nextDueAt } = current();
          expect(status === "active" && nextDueAt !== null && nextDueAt <= now).toBe(false);
          expect(nextTickAt).toBe(ticksOf(spec).next(current().through));
        };

        apply(decideCreate("s", spec, {}, now));
        let triggers = 0;
        let heldBack = 0;
        for (const each of acts) {
          switch (each.kind) {
            case "pass":
              now += each.minutes * minuteMs;
              break;
            case "jump":
              now += each.minutes * minuteMs;
              break;
            case "close":
              for (const id of [...open].slice(0, 1)) open.delete(id);
              break;
            case "pause":
              apply(decidePause(current(), {}, now));
              break;
            case "resume": {
              const before = current().through;
              apply(decideResume(current(), {}, now));
              heldBack += ticksIn(spec, before, current().through).length;
              break;
            }
            case "trigger":
              apply({
                type: "ScheduleTriggered",
                data: decideTrigger(current(), `s-manual-${++triggers}`, undefined, now, (id) =>
                  open.has(id),
                ),
              });
              break;
            case "backfill":
              if (current().backfills.length < 3)
                apply(decideBackfill(current(), start - 30 * minuteMs, start - minuteMs, undefined));
              break;
          }
          settle();
        }
        const { counts, waiting, through, backfills } = current();
        const ticks = ticksIn(spec, start, through);
        const ofTicks = new Set(ticks.map((tick) => runIdOf("s", tick)));
        const startedTicks = started.filter((id) => ofTicks.has(id));
        const waitingTicks = waiting.filter(({ kind }) => kind === "tick");
        // S1
        expect(new Set(startedTicks).size).toBe(startedTicks.length);
        // S4; missed ticks are counted up to 100 at a time, which these lives do not reach.
        expect(startedTicks.length + waitingTicks.length + counts.skipped + counts.missed + heldBack).toBe(
          ticks.length,
        );
        const manual = started.filter((id) => id.startsWith("s-manual-")).length;
        expect(manual + waiting.filter(({ kind }) => kind === "manual").length).toBe(triggers);
        expect(backfills.length).toBeLessThanOrEqual(3);
      }),
      { numRuns: 400 },
    );
  });
});

describe("jitter", () => {
  test("is the same for all who look, within its bound, never beyond the next tick, and spread", () => {
    const spec = parseSchedule("j", { everyMs: 10_000, jitterMs: 60_000, workflow: { type: "t" } });
    const parts: number[] = [];
    for (let tick = 0; tick < 1_000 * 10_000; tick += 10_000) {
      const late = dueAt("j", spec, tick) - tick;
      expect(late).toBe(dueAt("j", spec, tick) - tick);
      expect(late).toBeGreaterThanOrEqual(0);
      expect(late).toBeLessThan(10_000);
      parts.push(late);
    }
    for (let tenth = 0; tenth < 10; tenth++) {
      const inside = parts.filter((late) => Math.floor(late / 1_000) === tenth).length;
      expect(inside).toBeGreaterThan(60);
      expect(inside).toBeLessThan(140);
    }
    // Many schedules of one time do not fire together.
    const dues = new Set(Array.from({ length: 100 }, (_, n) => dueAt(`s-${n}`, spec, 0)));
    expect(dues.size).toBeGreaterThan(90);
  });
});

function ticksIn(spec: Parameters<typeof ticksOf>[0], after: number, through: number): number[] {
  const found: number[] = [];
  const ticks = ticksOf(spec);
  for (let tick = ticks.next(after); tick !== null && tick <= through; tick = ticks.next(tick))
    found.push(tick);
  return found;
}
