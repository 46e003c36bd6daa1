/**
 * Which transport is tried next, as a value.
 *
 * I1 A transport is given up for the next one after `failuresMax` attempts in a row that never worked; what worked
 *    once and broke is tried again as it is.
 * I2 After the last one comes the first: a server that was down may be back, by any way.
 * I3 While a transport works that is not the first, the first has a time at which it is tried beside it.
 */
import type { TransportKind } from "./transport.ts";

export interface TransportChoice {
  readonly kinds: readonly TransportKind[];
  readonly index: number;
  /** Attempts in a row that never worked, with the present transport. */
  readonly failures: number;
  /** When to try the first transport beside the present one. */
  readonly probeAt: number | null;
}

/** One failure may be chance; two mean that something between does not let it through. */
const failuresMax = 2;
/**
 * The first probe comes soon: after an outage the clients come back by whichever transport was in turn, though
 * nothing is wrong with the first.
 */
const firstProbeMs = 10_000;
const probeEveryMs = 5 * 60_000;

export function initialChoice(kinds: readonly TransportKind[]): TransportChoice {
  return { kinds, index: 0, failures: 0, probeAt: null };
}

export function chosenKind(choice: TransportChoice): TransportKind {
  return choice.kinds[choice.index] ?? "websocket";
}

/** An attempt ended; `worked`: the server had been heard by it. */
export function afterAttempt(choice: TransportChoice, worked: boolean): TransportChoice {
  const failures = worked ? 0 : choice.failures + 1;
  if (failures < failuresMax) return { ...choice, failures, probeAt: null };
  return { ...choice, index: (choice.index + 1) % choice.kinds.length, failures: 0, probeAt: null };
}

/** The server was heard by the present transport. */
export function proven(choice: TransportChoice, now: number): TransportChoice {
  return { ...choice, failures: 0, probeAt: choice.index === 0 ? null : now + firstProbeMs };
}

/** The first transport still does not work. `random` is in [0, 1): clients must not probe together. */
export function probeFailed(choice: TransportChoice, now: number, random: number): TransportChoice {
  return { ...choice, probeAt: now + Math.round(probeEveryMs * (0.9 + 0.2 * random)) };
}

export function probeWorked(choice: TransportChoice): TransportChoice {
  return { ...choice, index: 0, failures: 0, probeAt: null };
}
