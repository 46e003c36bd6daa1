/**
 * Keeps the cursor of one subscription in a store: read before it begins, written after its handler has resolved.
 *
 * I1 What is saved is never past what was handled: a crash repeats, and never skips.
 * I2 At most one write at a time; of the cursors that come meanwhile only the last is written.
 * I3 A store that fails ends the subscription with `unavailable`: going on would only look safe.
 */
import type { CursorStore } from "./cursor-store.ts";

export interface KeptSubscription {
  /** The cursor that was found; `null` if there is none. */
  begin(cursor: string | null): void;
  /** The subscription is to end with this. It is made into an error there: this code is loaded apart. */
  fail(message: string, cause: unknown): void;
}

/** Answers what to call with each cursor up to which everything was handled. */
export function keepCursor(
  store: CursorStore,
  key: string,
  kept: KeptSubscription,
): (cursor: string) => void {
  let next: string | null = null;
  let writing = false;
  let failed = false;
  const fail = (attempted: string, cause: unknown): void => {
    failed = true;
    kept.fail(
      `${attempted} failed: ${String(cause)}. Mend the store and subscribe again: nothing is lost.`,
      cause,
    );
  };
  const write = async (): Promise<void> => {
    writing = true;
    for (let cursor = next; cursor !== null; cursor = next) {
      next = null;
      await store.save(key, cursor);
    }
    writing = false;
  };
  Promise.resolve()
    .then(() => store.load(key))
    .then(
      (cursor) => kept.begin(cursor),
      (error: unknown) => fail(`Loading the cursor ${JSON.stringify(key)}`, error),
    )
    .catch((error: unknown) => fail(`Resuming from the stored cursor ${JSON.stringify(key)}`, error));
  return (cursor) => {
    next = cursor;
    if (writing || failed) return;
    write().catch((error: unknown) => fail(`Saving the cursor ${JSON.stringify(key)}`, error));
  };
}
