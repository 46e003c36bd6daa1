/**
 * Subscriptions that wait for the projector. One question for all of them: the lowest sequence that anybody wants.
 *
 * I1 No polling: the projection pushes; a question that times out is asked again only while somebody waits.
 */
import type { Projection } from "@millrace/projector";
import { isMillraceError } from "@millrace/schemas";
import type { StreamServerLogger } from "./logger.ts";

const questionMs = 10_000;
/** Before a question that failed for another reason is asked again. */
const retryMs = 1_000;

export class ProjectionWait {
  readonly #projection: Projection;
  readonly #logger: StreamServerLogger;
  readonly #waiting = new Map<object, { readonly sequence: number; readonly ready: () => void }>();
  #asking = false;
  #stopped = false;

  constructor(projection: Projection, logger: StreamServerLogger) {
    this.#projection = projection;
    this.#logger = logger;
  }

  /** Calls `ready` in a later turn, once the projection has reached the sequence. One wait per key. */
  until(key: object, sequence: number, ready: () => void): void {
    this.#waiting.set(key, { sequence, ready });
    this.#ask();
  }

  stop(): void {
    this.#stopped = true;
    this.#waiting.clear();
  }

  #ask(): void {
    if (this.#asking || this.#stopped || this.#waiting.size === 0) return;
    this.#asking = true;
    let lowest = Infinity;
    for (const { sequence } of this.#waiting.values()) lowest = Math.min(lowest, sequence);
    this.#projection.waitFor(lowest, questionMs).then(
      (reached) => this.#wake(reached),
      (error: unknown) => {
        if (isMillraceError(error, "projector_behind")) {
          this.#wake(0);
          return;
        }
        this.#logger.warn({ err: error }, "Waiting for the projection failed");
        setTimeout(() => this.#wake(0), retryMs).unref();
      },
    );
  }

  #wake(reached: number): void {
    this.#asking = false;
    for (const [key, { sequence, ready }] of this.#waiting) {
      if (sequence > reached) continue;
      this.#waiting.delete(key);
      ready();
    }
    this.#ask();
  }
}
