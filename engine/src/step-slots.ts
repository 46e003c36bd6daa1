/** How many step functions run at the same time in a worker; the others wait in order. */
export class StepSlots {
  readonly #size: number;
  readonly #waiting: (() => Promise<void>)[] = [];
  #next = 0;
  #running = 0;
  #open = true;
  #onIdle: (() => void) | null = null;

  constructor(size: number) {
    this.#size = size;
  }

  get running(): number {
    return this.#running;
  }

  /** Runs `task` when there is a slot. The task must not reject. Its memory is bounded by the steps of the open runs. */
  run(task: () => Promise<void>): void {
    if (!this.#open) return;
    if (this.#running < this.#size) this.#start(task);
    else this.#waiting.push(task);
  }

  /** Starts nothing more, forgets what waits, and resolves when nothing runs. */
  close(): Promise<void> {
    this.#open = false;
    this.#waiting.length = 0;
    if (this.#running === 0) return Promise.resolve();
    return new Promise((resolve) => {
      this.#onIdle = resolve;
    });
  }

  #start(task: () => Promise<void>): void {
    this.#running++;
    const ended = (): void => this.#ended();
    // A task that rejects against its contract must not take its slot with it.
    task().then(ended, ended);
  }

  #ended(): void {
    this.#running--;
    const next = this.#waiting[this.#next];
    if (next === undefined) {
      this.#waiting.length = 0;
      this.#next = 0;
      if (this.#running === 0) this.#onIdle?.();
      return;
    }
    this.#next++;
    // Taking from the front of a long array is linear: cut it now and then instead.
    if (this.#next > 1_024) {
      this.#waiting.splice(0, this.#next);
      this.#next = 0;
    }
    this.#start(next);
  }
}
