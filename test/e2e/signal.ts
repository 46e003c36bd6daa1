/** Wakes those who wait for a condition over state that somebody else changes. */
export class Signal {
  #waiting: (() => void)[] = [];

  /** The state changed. */
  fire(): void {
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const wake of waiting) wake();
  }

  /** Resolves when the condition holds; looked at now and after each `fire`. */
  async until(holds: () => boolean): Promise<void> {
    while (!holds()) {
      await new Promise<void>((resolve) => {
        this.#waiting.push(resolve);
      });
    }
  }
}
