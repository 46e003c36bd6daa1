import { isMillraceError } from "@millrace/schemas";
import { retryDelayMs } from "./core/attempt.ts";
import type { Clock, DueTimers } from "./due-timers.ts";
import type { Logger } from "./logger.ts";

/** Between tries of an append or load that the broker did not answer; it may be away for minutes. */
const retryPolicy = { initialDelayMs: 100, maxDelayMs: 5_000 };

interface PersistenceDeps {
  readonly logger: Logger;
  readonly clock: Clock;
  readonly timers: DueTimers;
  readonly random: () => number;
}

/** Tries again while the broker is away: what a run has to say is kept until the log has it, or the run is stopped. */
export class Persistence {
  readonly #deps: PersistenceDeps;
  readonly #workflowId: string;
  #endWaits: Set<() => void> | null = null;
  #stopped = false;

  constructor(deps: PersistenceDeps, workflowId: string) {
    this.#deps = deps;
    this.#workflowId = workflowId;
  }

  /** Rejects with what cannot be tried again, or, once stopped, with the last error. A `conflict` is the caller's. */
  async persist<T>(act: () => Promise<T>): Promise<T> {
    for (let attempt = 1; ; attempt++) {
      try {
        return await act();
      } catch (error) {
        const again = isMillraceError(error) && error.retryable && error.code !== "conflict";
        if (!again || this.#stopped) throw error;
        this.#deps.logger.warn(
          { workflowId: this.#workflowId, code: error.code, attempt },
          `Run ${this.#workflowId} waits: ${error.message}`,
        );
        await this.#wait(retryDelayMs(retryPolicy, attempt, this.#deps.random()));
        if (this.#isStopped()) throw error;
      }
    }
  }

  stop(): void {
    this.#stopped = true;
    for (const end of [...(this.#endWaits ?? [])]) end();
  }

  #isStopped(): boolean {
    return this.#stopped;
  }

  #wait(delayMs: number): Promise<void> {
    return new Promise((resolve) => {
      const end = (): void => {
        this.#endWaits?.delete(end);
        resolve();
      };
      (this.#endWaits ??= new Set()).add(end);
      this.#deps.timers.add(this.#deps.clock.now() + delayMs, end);
    });
  }
}
