/**
 * Subscriptions that wait for the projector. One question for all of them: the lowest sequence that anybody wants.
 *
 * Tested by `projection-wait.test.ts`.
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
  readonly #projection: Pick<Projection, "waitFor">;
  readonly #logger: StreamServerLogger;
  readonly #waiting = new Map<object, { readonly sequence: number; readonly ready: () => void }>();
  /** The lowest sequence that is being asked for. */
  #asked: number | null = null;
  #stopped = false;

  constructor(projection: Pick<Projection, "waitFor">, logger: StreamServerLogger) {
    this.#projection = projection;
    this.#logger = logger;
  }

  /** Calls `ready` in a later turn, once the projection has reached the sequence. One wait per key. */
  until(key: object, sequence: number, ready: () => void): void {
    this.#waiting.set(key, { sequence, ready });
    if (this.#asked === null || sequence < this.#asked) this.#ask();
  }

  stop(): void {
    this.#stopped = true;
    this.#waiting.clear();
  }

  #ask(): void {
    if (this.#stopped || this.#waiting.size === 0) return;
    let lowest = Infinity;
    for (const { sequence } of this.#waiting.values()) lowest = Math.min(lowest, sequence);
    this.#asked = lowest;
    this.#projection.waitFor(lowest, questionMs).then(
      (reached) => this.#answered(lowest, reached),
      (error: unknown) => {
        if (isMillraceError(error, "projector_behind")) {
          this.#answered(lowest, 0);
          return;
        }
        this.#logger.warn({ err: error }, "Waiting for the projection failed");
        setTimeout(() => this.#answered(lowest, 0), retryMs).unref();
      },
    );
  }

  #answered(asked: number, reached: number): void {
    for (const [key, { sequence, ready }] of this.#waiting) {
      if (sequence > reached) continue;
      this.#waiting.delete(key);
      ready();
    }
    // A lower question was asked in the meantime: its answer goes on.
    if (this.#asked !== asked) return;
    this.#asked = null;
    this.#ask();
  }
}
