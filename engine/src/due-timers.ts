/**
 * Timers of the owner: a heap of what the log says is due, and one timer of the system for its head.
 *
 * Owns: when a callback is called. Does not own: what is due (that stands in the log; after a crash the heap is
 * filled again from it).
 * I1 A callback is called at most once, never before its time, and not after `cancel`.
 * I2 However many timers are pending, the system has one.
 * I3 A clock that is set forward is noticed within `clockCheckMs`; one that is set back delays what is due.
 */
export interface Clock {
  /** Milliseconds since 1970. */
  now(): number;
  /** Calls back after a delay of at most 2^31 - 1 ms; the answer takes it back. */
  wake(delayMs: number, callback: () => void): () => void;
  /** Nobody can set it: it need not be looked at while nothing is due. Default false. */
  readonly steady?: boolean;
}

export const systemClock: Clock = {
  now: () => Date.now(),
  wake(delayMs, callback) {
    const timer = setTimeout(callback, delayMs);
    return () => clearTimeout(timer);
  },
};

/** Longest delay in milliseconds that `setTimeout` takes without firing at once. */
export const wakeDelayMaxMs = 2 ** 31 - 1;

/** The system's timer does not follow a clock that is set; so often it is compared with it. */
export const clockCheckMs = 10_000;

/** Below this, cancelled entries are not worth a compaction. */
const cancelledKeptMin = 1_024;

interface Entry {
  readonly at: number;
  /** Null once cancelled: it stays in the heap until it comes to the top, or until most of the heap is cancelled. */
  callback: (() => void) | null;
}

export class DueTimers {
  readonly #clock: Clock;
  #heap: Entry[] = [];
  #cancelled = 0;
  #armedAt = Number.POSITIVE_INFINITY;
  #disarm: () => void = () => undefined;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Entries kept, cancelled ones included. */
  get size(): number {
    return this.#heap.length;
  }

  /** Calls back at `at` (ms since 1970), at once (but not synchronously) when that is past. The answer cancels. */
  add(at: number, callback: () => void): () => void {
    const entry: Entry = { at, callback };
    this.#push(entry);
    this.#arm();
    return () => {
      if (entry.callback === null) return;
      entry.callback = null;
      this.#cancelled++;
      if (this.#heap[0] === entry) this.#arm();
      else if (this.#cancelled > cancelledKeptMin && this.#cancelled > this.#heap.length / 2) this.#compact();
    };
  }

  /** Takes all timers back. */
  clear(): void {
    for (const entry of this.#heap) entry.callback = null;
    this.#heap = [];
    this.#cancelled = 0;
    this.#arm();
  }

  /** Steps that end long before their time limit would otherwise fill the heap with what is over. */
  #compact(): void {
    const live = this.#heap.filter((entry) => entry.callback !== null);
    // In order of time, which is a heap already.
    this.#heap = live.sort((a, b) => a.at - b.at);
    this.#cancelled = 0;
  }

  #arm(): void {
    while (this.#heap[0]?.callback === null) {
      this.#pop();
      this.#cancelled--;
    }
    const at = this.#heap[0]?.at ?? Number.POSITIVE_INFINITY;
    if (at === this.#armedAt) return;
    this.#disarm();
    this.#armedAt = at;
    if (at === Number.POSITIVE_INFINITY) {
      this.#disarm = () => undefined;
      return;
    }
    const checkMs = this.#clock.steady === true ? wakeDelayMaxMs : clockCheckMs;
    const delayMs = Math.min(Math.max(0, at - this.#clock.now()), checkMs);
    this.#disarm = this.#clock.wake(delayMs, () => this.#fire());
  }

  #fire(): void {
    this.#armedAt = Number.POSITIVE_INFINITY;
    const now = this.#clock.now();
    for (let head = this.#heap[0]; head !== undefined && head.at <= now; head = this.#heap[0]) {
      this.#pop();
      const { callback } = head;
      if (callback === null) this.#cancelled--;
      head.callback = null;
      callback?.();
    }
    this.#arm();
  }

  #push(entry: Entry): void {
    const heap = this.#heap;
    let index = heap.push(entry) - 1;
    while (index > 0) {
      const parent = (index - 1) >> 1;
      const above = heap[parent];
      if (above === undefined || above.at <= entry.at) break;
      heap[index] = above;
      index = parent;
    }
    heap[index] = entry;
  }

  #pop(): void {
    const heap = this.#heap;
    const last = heap.pop();
    if (last === undefined || heap.length === 0) return;
    let index = 0;
    for (;;) {
      let child = 2 * index + 1;
      const right = heap[child + 1];
      const left = heap[child];
      if (left === undefined) break;
      if (right !== undefined && right.at < left.at) child++;
      const smaller = heap[child];
      if (smaller === undefined || smaller.at >= last.at) break;
      heap[index] = smaller;
      index = child;
    }
    heap[index] = last;
  }
}

/** One wait on a clock, for what has no due time in the log. */
export function wakeAfter(clock: Clock, delayMs: number): { readonly passed: Promise<void>; cancel(): void } {
  let cancel = (): void => undefined;
  const passed = new Promise<void>((resolve) => {
    cancel = clock.wake(Math.min(delayMs, wakeDelayMaxMs), resolve);
  });
  return { passed, cancel: () => cancel() };
}
