/**
 * Time that passes only when it is told to: a month of `ctx.sleep` takes no time.
 *
 * Owns: what is due, and the present. Does not own: when time passes (`test-environment.ts`).
 * V1 Time never goes back, and stops at each due time on its way: what is due at it is called then.
 */
import type { Clock } from "../due-timers.ts";

interface Wake {
  readonly at: number;
  readonly callback: () => void;
}

export class VirtualClock implements Clock {
  readonly steady = true;
  #now: number;
  readonly #wakes = new Set<Wake>();
  readonly #onChange: () => void;

  /** `onChange` is told of each new wake. */
  constructor(startAt: number, onChange: () => void) {
    this.#now = startAt;
    this.#onChange = onChange;
  }

  readonly now = (): number => this.#now;

  readonly wake = (delayMs: number, callback: () => void): (() => void) => {
    const wake = { at: this.#now + Math.max(0, delayMs), callback };
    this.#wakes.add(wake);
    this.#onChange();
    return () => void this.#wakes.delete(wake);
  };

  /** When the next wake is due; null when none is pending. */
  get nextAt(): number | null {
    let next: number | null = null;
    for (const { at } of this.#wakes) if (next === null || at < next) next = at;
    return next;
  }

  /** Goes to `to`, which no pending wake is before, and calls back what is due then, in order. */
  moveTo(to: number): void {
    this.#now = Math.max(this.#now, to);
    const due = [...this.#wakes].filter(({ at }) => at <= this.#now).sort((a, b) => a.at - b.at);
    for (const wake of due) {
      // One that was called before it may have taken it back.
      if (this.#wakes.delete(wake)) wake.callback();
    }
  }
}
