/**
 * The rate of a queue, as one stored number: the time until which what has begun uses the rate up.
 * Source: the generic cell rate algorithm (ITU-T I.371), virtual scheduling form.
 */
export interface Rate {
  readonly perS: number;
  /** Tasks that may begin at once after a silence, at least 1. */
  readonly burst: number;
}

export function rateOf(limits: {
  readonly ratePerS: number | null;
  readonly burst: number | null;
}): Rate | null {
  if (limits.ratePerS === null) return null;
  return { perS: limits.ratePerS, burst: limits.burst ?? Math.max(1, Math.ceil(limits.ratePerS)) };
}

/** A time since 1970 has a precision of 0.0002 ms: what is missing by rounding must not cost a token. */
const roundingTokens = 0.01;

/** How many may begin at `now`. `usedUntil` is in milliseconds since 1970, as `now`. */
export function tokensAt(rate: Rate, usedUntil: number, now: number): number {
  const intervalMs = 1_000 / rate.perS;
  const free = (now + rate.burst * intervalMs - Math.max(usedUntil, now)) / intervalMs;
  return Math.max(0, Math.floor(free + roundingTokens));
}

/** The number to store after `count` have begun at `now`. */
export function usedUntilAfter(rate: Rate, usedUntil: number, now: number, count: number): number {
  return Math.max(usedUntil, now) + (count * 1_000) / rate.perS;
}

/** Whole milliseconds from `now` until one more may begin; 0 when it may. */
export function tokenDelayMs(rate: Rate, usedUntil: number, now: number): number {
  if (tokensAt(rate, usedUntil, now) > 0) return 0;
  return Math.max(1, Math.ceil(usedUntil - ((rate.burst - 1) * 1_000) / rate.perS - now));
}
