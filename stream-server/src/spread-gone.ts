import type { LogInfo } from "@millrace/event-log";
import type { Seam } from "./core/seam.ts";

/**
 * The end of all subscriptions of a log that is no more, spread over time: told at once, all clients would ask for
 * everything in the same second.
 */
export class SpreadGone {
  readonly #seam: Seam;
  #doomed: { readonly at: number; readonly tell: () => void }[] = [];

  constructor(seam: Seam) {
    this.#seam = seam;
  }

  /** `info` is the new log's; null when it could not be asked. */
  begin(info: LogInfo | null, now: number, spreadMs: number): void {
    const all = [...this.#seam.subscriptions()];
    this.#seam.reset(info?.lastSequence ?? 0);
    const { firstSequence = 0, epoch = "" } = info ?? {};
    for (const [n, subscription] of all.entries()) {
      // It may not read on from another log while it waits for its turn.
      subscription.reading = true;
      const at = now + (spreadMs * n) / all.length;
      this.#doomed.push({ at, tell: () => this.#seam.gone(subscription, "epoch", epoch, firstSequence) });
    }
  }

  tick(now: number): void {
    if (this.#doomed.length === 0) return;
    const due = this.#doomed.filter(({ at }) => at <= now);
    this.#doomed = this.#doomed.filter(({ at }) => at > now);
    for (const { tell } of due) tell();
  }
}
