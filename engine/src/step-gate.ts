import type { StepSlots } from "./step-slots.ts";

/** What a run asks for its steps: the worker's slots, until the run is to move elsewhere. */
export class StepGate {
  readonly #slots: StepSlots;
  #running = 0;
  #closing: Promise<void> | null = null;
  #onIdle = (): void => undefined;

  constructor(slots: StepSlots) {
    this.#slots = slots;
  }

  /** As {@link StepSlots.run}; after `close` nothing is started. */
  run(task: () => Promise<void>): void {
    if (this.#closing !== null) return;
    this.#slots.run(() => {
      // It may have waited for its slot until now.
      if (this.#closing !== null) return Promise.resolve();
      this.#running++;
      return task().then(this.#ended, this.#ended);
    });
  }

  readonly #ended = (): void => {
    this.#running--;
    if (this.#running === 0) this.#onIdle();
  };

  /** Starts nothing more; resolves when nothing runs. Idempotent. */
  close(): Promise<void> {
    this.#closing ??=
      this.#running === 0 ? Promise.resolve() : new Promise((resolve) => (this.#onIdle = resolve));
    return this.#closing;
  }
}
