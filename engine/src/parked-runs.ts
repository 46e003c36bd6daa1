/**
 * Runs that wait, as little as their owner must keep of them: an id, a type, and a due time.
 *
 * P1 Whatever the log holds of a parked run is enough to bring it back.
 * P2 A due run is given to `onDue` once; what is given or taken is not parked any more.
 */
import type { DueTimers } from "./due-timers.ts";

interface Parked {
  readonly type: string;
  readonly cancel: (() => void) | null;
}

export class ParkedRuns {
  readonly #timers: DueTimers;
  readonly #onDue: (id: string, type: string) => void;
  readonly #parked = new Map<string, Parked>();

  constructor(timers: DueTimers, onDue: (id: string, type: string) => void) {
    this.#timers = timers;
    this.#onDue = onDue;
  }

  get size(): number {
    return this.#parked.size;
  }

  /** Ids with their types. */
  *entries(): IterableIterator<[string, string]> {
    for (const [id, { type }] of this.#parked) yield [id, type];
  }

  has(id: string): boolean {
    return this.#parked.has(id);
  }

  /** `dueAt` in milliseconds since 1970; null: until something comes in. */
  park(id: string, type: string, dueAt: number | null): void {
    this.take(id);
    const due = (): void => {
      if (this.take(id) !== null) this.#onDue(id, type);
    };
    this.#parked.set(id, { type, cancel: dueAt === null ? null : this.#timers.add(dueAt, due) });
  }

  /** Its type, and it is parked no more; null when it was not. */
  take(id: string): string | null {
    const parked = this.#parked.get(id);
    if (parked === undefined) return null;
    parked.cancel?.();
    this.#parked.delete(id);
    return parked.type;
  }

  clear(): void {
    for (const id of [...this.#parked.keys()]) this.take(id);
  }
}
