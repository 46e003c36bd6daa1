/**
 * Offsets of a time zone, as the runtime's own zone data has them. Pure: the same zone and time give the same offset.
 *
 * Formatting an offset takes a microsecond, so all else is built from that one question.
 */

const hourMs = 3_600_000;
const dayMs = 24 * hourMs;
/** Two changes of one zone are weeks apart (Morocco's Ramadan is the shortest span in use), so none is stepped over. */
const stepMs = 7 * dayMs;

export interface Transition {
  /** First instant at the new offset. */
  readonly at: number;
  readonly before: number;
  readonly after: number;
}

export interface Zone {
  /** Milliseconds to add to UTC for the wall clock's reading. */
  offsetAt(ms: number): number;
  /** The first change of offset in `(after, until]`; null when there is none. */
  transition(after: number, until: number): Transition | null;
}

const zones = new Map<string, Zone | null>();
/** Names are few; the bound is for what comes from outside. */
const zonesKept = 1_000;

/** Null when the runtime knows no zone of this name. */
export function zoneOf(name: string): Zone | null {
  const known = zones.get(name);
  if (known !== undefined) return known;
  const zone = createZone(name);
  if (zones.size >= zonesKept) zones.clear();
  zones.set(name, zone);
  return zone;
}

function createZone(name: string): Zone | null {
  let format: Intl.DateTimeFormat;
  try {
    format = new Intl.DateTimeFormat("en-US", { timeZone: name, timeZoneName: "longOffset" });
  } catch (error) {
    if (error instanceof RangeError) return null;
    throw error;
  }
  const offsetAt = (ms: number): number => parseOffset(format.format(ms));
  function between(from: number, to: number): Transition {
    const before = offsetAt(from);
    let low = from;
    let high = to;
    while (high - low > 1) {
      const middle = Math.floor((low + high) / 2);
      if (offsetAt(middle) === before) low = middle;
      else high = middle;
    }
    return { at: high, before, after: offsetAt(high) };
  }
  return {
    offsetAt,
    transition(after, until) {
      let from = after;
      let offset = offsetAt(from);
      while (from < until) {
        const to = Math.min(from + stepMs, until);
        const next = offsetAt(to);
        if (next !== offset) return between(from, to);
        from = to;
        offset = next;
      }
      return null;
    },
  };
}

/** `9/9/2001, GMT+02:00` */
function parseOffset(text: string): number {
  const match = /GMT(?:([+-])(\d{1,2}):(\d{2})(?::(\d{2}))?)?$/.exec(text);
  if (match?.[1] === undefined) return 0;
  const [, sign, hours, minutes, seconds = "0"] = match;
  const ms = (Number(hours) * 3_600 + Number(minutes) * 60 + Number(seconds)) * 1_000;
  return sign === "-" ? -ms : ms;
}
