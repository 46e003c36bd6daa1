/** The ticks of a schedule: when, how late each is, and which run it starts. All of it follows from the spec. */
import { fnv1a, type ScheduleSpec } from "@millrace/schemas";
import { parseCron, type CronTicks } from "./cron.ts";

const known = new WeakMap<ScheduleSpec, CronTicks>();

/** Ticks within the spec's bounds. Throws `invalid_request` for a cron expression or time zone that is none. */
export function ticksOf(spec: ScheduleSpec): CronTicks {
  let ticks = known.get(spec);
  if (ticks === undefined) {
    ticks = bounded(spec);
    known.set(spec, ticks);
  }
  return ticks;
}

function bounded(spec: ScheduleSpec): CronTicks {
  const { cron, timeZone, everyMs, startAt, endAt } = spec;
  const base = cron === null ? interval(everyMs ?? 0, startAt) : parseCron(cron, timeZone);
  return {
    next(after) {
      const tick = base.next(startAt === null ? after : Math.max(after, startAt - 1));
      return tick === null || (endAt !== null && tick > endAt) ? null : tick;
    },
  };
}

/** Elapsed time knows no time zone: counted from the start bound, or from 1970. */
function interval(everyMs: number, anchor: number | null): CronTicks {
  const from = anchor ?? 0;
  return { next: (after) => from + (Math.floor((after - from) / everyMs) + 1) * everyMs };
}

/** The first tick after a time and when it is due; both null when there is none. */
export function nextOf(
  id: string,
  spec: ScheduleSpec,
  after: number,
): { readonly nextTickAt: number | null; readonly nextDueAt: number | null } {
  const nextTickAt = ticksOf(spec).next(after);
  return { nextTickAt, nextDueAt: nextTickAt === null ? null : dueAt(id, spec, nextTickAt) };
}

/**
 * When a tick is due: later by a part of `jitterMs` that hangs on schedule and tick alone, so that every owner fires it
 * at the same time, and always before the tick that follows, so that ticks keep their order.
 */
export function dueAt(id: string, spec: ScheduleSpec, tick: number): number {
  if (spec.jitterMs === 0) return tick;
  const following = ticksOf(spec).next(tick);
  const room = following === null ? spec.jitterMs : Math.min(spec.jitterMs, following - tick);
  return tick + Math.floor((mix(fnv1a(`${id}/${tick}`)) / 2 ** 32) * room);
}

/** Spreads a hash over all its bits: FNV leaves the last characters in the low ones. Source: MurmurHash3's finalizer. */
function mix(hash: number): number {
  let bits = hash ^ (hash >>> 16);
  bits = Math.imul(bits, 0x85ebca6b);
  bits ^= bits >>> 13;
  bits = Math.imul(bits, 0xc2b2ae35);
  return (bits ^ (bits >>> 16)) >>> 0;
}

/** Workflow id of a tick's run: `nightly-20261125T030000Z`, with milliseconds where they are not 0. */
export function runIdOf(scheduleId: string, tick: number): string {
  const time = new Date(tick).toISOString().replaceAll(/[-:.]/g, "").replace(/000Z$/, "Z");
  return `${scheduleId}-${time}`;
}
