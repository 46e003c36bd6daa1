/**
 * Who waits for the projection to reach a sequence.
 *
 * Owns: the waiters and their deadlines. Does not own: the checkpoint, who says that it moved.
 *
 * I1 A waiter is settled once: reached, late, refused or closed.
 * I2 A lost hint delays a waiter, at worst to its deadline, and never fails it: the checkpoint is read once more there.
 */
import { MillraceError } from "@millrace/schemas";

/** Each waiter is a request held open; a server with more of them than this is not waiting for the projector only. */
export const waitersMax = 10_000;

interface Waiter {
  readonly sequence: number;
  readonly resolve: (sequence: number) => void;
  readonly reject: (error: MillraceError) => void;
  readonly timer: NodeJS.Timeout;
}

export class CheckpointWaiters {
  readonly #readSequence: () => number;
  readonly #waiters = new Set<Waiter>();

  constructor(readSequence: () => number) {
    this.#readSequence = readSequence;
  }

  /** See `Projection.waitFor`. */
  wait(sequence: number, timeoutMs: number): Promise<number> {
    const reached = this.#readSequence();
    if (reached >= sequence) return Promise.resolve(reached);
    if (this.#waiters.size >= waitersMax) {
      return Promise.reject(
        new MillraceError(
          "overloaded",
          `Waiting for sequence ${sequence} refused: ${waitersMax} others wait for the projector. Try again later.`,
          { details: { limit: waitersMax } },
        ),
      );
    }
    return new Promise((resolve, reject) => {
      const waiter: Waiter = {
        sequence,
        resolve,
        reject,
        timer: setTimeout(() => this.#expire(waiter, timeoutMs), timeoutMs),
      };
      this.#waiters.add(waiter);
    });
  }

  /** Reads the checkpoint and settles whom it satisfies. */
  advance(): void {
    if (this.#waiters.size === 0) return;
    const reached = this.#readSequence();
    for (const waiter of this.#waiters) {
      if (waiter.sequence > reached) continue;
      this.#remove(waiter);
      waiter.resolve(reached);
    }
  }

  close(): void {
    for (const waiter of this.#waiters) {
      this.#remove(waiter);
      waiter.reject(
        new MillraceError(
          "unavailable",
          `The projection was closed before sequence ${waiter.sequence}. Ask again.`,
        ),
      );
    }
  }

  #expire(waiter: Waiter, timeoutMs: number): void {
    this.advance();
    if (!this.#waiters.has(waiter)) return;
    this.#remove(waiter);
    waiter.reject(projectorBehind(waiter.sequence, this.#readSequence(), `after ${timeoutMs} ms`));
  }

  #remove(waiter: Waiter): void {
    clearTimeout(waiter.timer);
    this.#waiters.delete(waiter);
  }
}

/** `when` ends the sentence "the projection is at n …". */
export function projectorBehind(expected: number, actual: number, when: string): MillraceError {
  return new MillraceError(
    "projector_behind",
    `Sequence ${expected} is not projected yet: the projection is at ${actual} ${when}. Try again.`,
    { details: { expected, actual } },
  );
}
