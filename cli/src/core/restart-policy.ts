/** When a part whose process ended is started again. */
export interface RestartState {
  /** Ends in a row, each after less than {@link healthyMs}. */
  readonly failures: number;
}

/** A part that lived this long was healthy: its next end counts as the first again. */
export const healthyMs = 30_000;
/** Beyond this the cause does not go away by itself, and whoever started us should hear of it. */
export const failuresMax = 10;
const firstDelayMs = 100;
const delayMsMax = 10_000;

export const initialRestart: RestartState = { failures: 0 };

export interface Restart {
  readonly state: RestartState;
  /** Milliseconds until the next start; null: give up. */
  readonly delayMs: number | null;
}

/** A part ended by itself after `livedMs`. Delays double from 100 ms to 10 s; the eleventh end in a row is the last. */
export function afterEnd(state: RestartState, livedMs: number): Restart {
  const failures = livedMs >= healthyMs ? 1 : state.failures + 1;
  return {
    state: { failures },
    delayMs: failures > failuresMax ? null : Math.min(delayMsMax, firstDelayMs * 2 ** (failures - 1)),
  };
}
