/**
 * Work that need not be done in this turn, in order, a slice at a time: a thousand clients that resume at once
 * must not keep the tail waiting.
 */
export class TurnQueue {
  readonly #sliceMs: number;
  readonly #jobs = new Map<object, () => void>();
  #scheduled = false;
  #stopped = false;

  /** `sliceMs`: how long one turn may work. */
  constructor(sliceMs: number) {
    this.#sliceMs = sliceMs;
  }

  /** One job per key: a second one replaces the first, in its place. */
  add(key: object, job: () => void): void {
    this.#jobs.set(key, job);
    this.#schedule();
  }

  stop(): void {
    this.#stopped = true;
    this.#jobs.clear();
  }

  #schedule(): void {
    if (this.#scheduled || this.#stopped) return;
    this.#scheduled = true;
    setImmediate(() => {
      this.#scheduled = false;
      this.#run();
    });
  }

  #run(): void {
    const end = performance.now() + this.#sliceMs;
    for (const [key, job] of this.#jobs) {
      this.#jobs.delete(key);
      job();
      if (performance.now() >= end) break;
    }
    if (this.#jobs.size > 0) this.#schedule();
  }
}
