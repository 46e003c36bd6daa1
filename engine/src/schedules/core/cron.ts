/**
 * Ticks of a cron expression in a time zone. The expression is matched against the wall clock by a library that is
 * told to know no zone; what a changed clock means is decided here, since libraries differ and lose ticks:
 *
 * T1 An expression for every hour (`*`, or all of 0-23) goes by elapsed time: in the repeated hour it ticks twice, in
 *    the hour that is left out it does not tick.
 * T2 Any other expression names times of the day. A time that is left out ticks as long after the change as it would
 *    have without one (02:30 becomes 03:30); two that fall together are one tick. A time that comes twice ticks the
 *    first time only.
 * T3 `next` is strictly later than what it is given, whatever the clock does.
 */
import { Cron } from "croner";
import { MillraceError } from "@millrace/schemas";
import { zoneOf, type Zone } from "./zone-time.ts";

/** Longest step of a zone's clock (a change of the date line): how far a change reaches. */
const shadowMs = 26 * 3_600_000;
/** Changes of the clock on the way to one tick; `0 0 29 2 *` may be eight years off. */
const transitionsMax = 64;

export interface CronTicks {
  /** The first tick after a time (ms since 1970); null when there is none. */
  readonly next: (after: number) => number | null;
}

/** Throws `invalid_request` that names the field. */
export function parseCron(expression: string, timeZone: string): CronTicks {
  const zone = zoneOf(timeZone);
  if (zone === null) {
    throw new MillraceError(
      "invalid_request",
      `Time zone ${JSON.stringify(timeZone.slice(0, 80))} is not known here. Give an IANA name, e.g. Europe/Amsterdam.`,
      { details: { at: "timeZone" } },
    );
  }
  const fields = expression.trim().split(/\s+/);
  if (fields.length !== 5 && fields.length !== 6) throw invalid(expression, "it has not five or six fields");
  // The library puts the time of parsing in its place.
  if (expression.includes("?")) throw invalid(expression, "? has no meaning here, use *");
  const text = fields.join(" ").toUpperCase();
  let matcher: Cron;
  try {
    matcher = new Cron(text, { utcOffset: 0, mode: "5-or-6-parts" });
  } catch (cause) {
    throw invalid(expression, cause instanceof Error ? cause.message : String(cause), cause);
  }
  const hour = fields.at(-4) ?? "";
  const wall = (after: number): number | null => matcher.nextRun(new Date(after))?.getTime() ?? null;
  return { next: (after) => nextTick(zone, wall, isEveryHour(hour), after) };
}

/** `*`, a star with step one, 0-23, or a list that has one of these. */
function isEveryHour(field: string): boolean {
  return field.split(",").some((part) => /^(?:\*|0-23)(?:\/0*1)?$/.test(part));
}

interface Segment {
  /** The change that began it; null when that is too long ago to matter. */
  readonly began: { readonly at: number; readonly before: number } | null;
  readonly offset: number;
}

function nextTick(
  zone: Zone,
  wall: (after: number) => number | null,
  everyHour: boolean,
  after: number,
): number | null {
  const near = lastTransition(zone, after);
  let segment: Segment = {
    began: near === null ? null : { at: near.at, before: near.before },
    offset: zone.offsetAt(after),
  };
  let since = after;
  for (let changes = 0; changes < transitionsMax; changes++) {
    // A change may fall on a tick, so from one on the search includes its instant.
    const tick = firstIn(segment, wall, everyHour, changes === 0 ? after : since - 1);
    if (tick === null) return null;
    const change = zone.transition(since, tick);
    // Counted with an offset that has ended by then, it is none.
    if (change === null) return tick;
    segment = { began: change, offset: change.after };
    since = change.at;
  }
  return null;
}

/** The last change in `(at - shadow, at]`. */
function lastTransition(zone: Zone, at: number): { readonly at: number; readonly before: number } | null {
  let last = null;
  for (
    let change = zone.transition(at - shadowMs, at);
    change !== null;
    change = zone.transition(change.at, at)
  )
    last = change;
  return last;
}

/** The first tick after a time as if the segment never ended. */
function firstIn(
  { began, offset }: Segment,
  wall: (after: number) => number | null,
  everyHour: boolean,
  after: number,
): number | null {
  const shiftMs = began === null || everyHour ? 0 : offset - began.before;
  // T2: until the clock is past what it has shown before, it shows times that have ticked.
  const start = began !== null && shiftMs < 0 ? Math.max(after, began.at - shiftMs - 1) : after;
  const read = wall(start + offset);
  const tick = read === null ? null : read - offset;
  if (began === null || shiftMs <= 0) return tick;
  // T2: what was left out, at the distance that it had.
  const leftOut = wall(Math.max(after, began.at - 1) + began.before);
  const moved = leftOut === null ? null : leftOut - began.before;
  if (moved === null || moved >= began.at + shiftMs) return tick;
  return tick === null ? moved : Math.min(tick, moved);
}

function invalid(expression: string, why: string, cause?: unknown): MillraceError {
  return new MillraceError(
    "invalid_request",
    `Cron expression ${JSON.stringify(expression.slice(0, 120))} refused: ${why}. ` +
      "Give five fields (minute hour day month weekday) or six (second first).",
    { details: { at: "cron" }, cause },
  );
}
