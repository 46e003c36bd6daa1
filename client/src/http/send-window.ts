/**
 * How many entries were handed over and not acknowledged. Over HTTP there are no acks: a full window is told to the
 * server by not reading on.
 */
export class SendWindow {
  readonly #max: number;
  #open: { readonly sequence: number; readonly count: number }[] = [];
  #count = 0;
  #waiters: (() => void)[] = [];

  constructor(max: number) {
    this.#max = max;
  }

  get full(): boolean {
    return this.#count >= this.#max;
  }

  sent(sequence: number, count: number): void {
    this.#open.push({ sequence, count });
    this.#count += count;
  }

  /** Everything up to `sequence` was handled. */
  acknowledge(sequence: number): void {
    let handled = 0;
    for (const { sequence: sent, count } of this.#open) {
      if (sent > sequence) break;
      this.#count -= count;
      handled += 1;
    }
    this.#open = this.#open.slice(handled);
    if (!this.full) this.release();
  }

  /** Resolves when there is room, or nobody needs it any more. */
  room(): Promise<void> {
    return this.full ? new Promise((resolve) => this.#waiters.push(resolve)) : Promise.resolve();
  }

  release(): void {
    const waiters = this.#waiters;
    this.#waiters = [];
    for (const resolve of waiters) resolve();
  }
}
