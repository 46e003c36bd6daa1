interface Waiter {
  readonly holds: () => boolean;
  readonly resolve: () => void;
}

/** Waits for conditions over state that changes in this process: whoever changes it says so, nobody looks by the clock. */
export class ChangeSignal {
  readonly #waiters = new Set<Waiter>();

  changed(): void {
    for (const waiter of this.#waiters) if (waiter.holds()) waiter.resolve();
  }

  /** Resolves once `holds` is true; rejects with the signal's reason. */
  async until(holds: () => boolean, signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    if (holds()) return;
    let stop = (): void => undefined;
    try {
      await new Promise<void>((resolve, reject) => {
        const waiter: Waiter = { holds, resolve };
        const onAbort = (): void => reject(signal.reason as Error);
        this.#waiters.add(waiter);
        signal.addEventListener("abort", onAbort, { once: true });
        stop = () => {
          this.#waiters.delete(waiter);
          signal.removeEventListener("abort", onAbort);
        };
      });
    } finally {
      stop();
    }
  }
}
