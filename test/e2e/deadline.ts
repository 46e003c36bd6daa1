import { setTimeout as delay } from "node:timers/promises";

/** The promise's value, or a failure that says what did not happen in time. */
export async function within<T>(
  what: string | (() => string),
  deadlineMs: number,
  promise: Promise<T>,
): Promise<T> {
  const timer = new AbortController();
  const late = delay(deadlineMs, undefined, { signal: timer.signal }).then(
    () => {
      throw new Error(`not within ${deadlineMs} ms: ${typeof what === "string" ? what : what()}`);
    },
    () => new Promise<never>(() => undefined),
  );
  try {
    return await Promise.race([promise, late]);
  } finally {
    timer.abort();
  }
}

/** Looks again and again, for what nothing tells of: processes that are not our children, counters of a server. */
export async function eventually(
  what: string | (() => string),
  deadlineMs: number,
  holds: () => boolean | Promise<boolean>,
): Promise<void> {
  const deadline = performance.now() + deadlineMs;
  while (!(await holds())) {
    if (performance.now() > deadline) {
      throw new Error(`not within ${deadlineMs} ms: ${typeof what === "string" ? what : what()}`);
    }
    await delay(25);
  }
}
