/** Bounds of the wait before the next connection attempt, in milliseconds. */
export interface BackoffBounds {
  readonly minMs: number;
  readonly maxMs: number;
}

/**
 * Full jitter: a uniform wait between 0 and `minMs * 2^failures`, at most `maxMs`. Anything less random makes the
 * clients of a restarted server come back together.
 * Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
 *
 * @param failures failed attempts so far, from 0
 * @param random in [0, 1)
 */
export function backoffDelayMs(failures: number, bounds: BackoffBounds, random: number): number {
  const ceiling = Math.min(bounds.maxMs, bounds.minMs * 2 ** Math.min(failures, 30));
  return Math.round(ceiling * random);
}

/** The longest wait that a server may ask for: a wrong number must not put a page to sleep for a day. */
const askedDelayMaxMs = 5 * 60_000;

/** A wait within the bounds that the server asked for in `bye`; they win over ours. */
export function askedDelayMs(bounds: BackoffBounds, random: number): number {
  const min = Math.min(Math.max(0, bounds.minMs), askedDelayMaxMs);
  const max = Math.min(Math.max(min, bounds.maxMs), askedDelayMaxMs);
  return Math.round(min + (max - min) * random);
}
