import type { Seam } from "./core/seam.ts";
import type { HubSettings } from "./hub-settings.ts";
import type { Session } from "./session.ts";

/** What may wait in all sockets together. */
export class BufferBudget {
  readonly #settings: HubSettings;
  readonly #sessions: ReadonlySet<Session>;
  readonly #seam: Seam;
  #bufferedBytes = 0;

  constructor(settings: HubSettings, sessions: ReadonlySet<Session>, seam: Seam) {
    this.#settings = settings;
    this.#sessions = sessions;
    this.#seam = seam;
  }

  /** As of the last {@link check}. */
  get exceeded(): boolean {
    return this.#bufferedBytes > this.#settings.bufferedBytesMax;
  }

  /** With what waits in all sockets now: the largest are demoted, until those that stay live hold less than the budget. */
  check(sum: number): void {
    this.#bufferedBytes = sum;
    if (!this.exceeded) return;
    const bySize = [...this.#sessions].sort(
      (a, b) => b.connection.bufferedBytes() - a.connection.bufferedBytes(),
    );
    let left = sum;
    for (const { connection, outlet } of bySize) {
      if (left <= this.#settings.bufferedBytesMax) return;
      left -= connection.bufferedBytes();
      for (const subscription of [...this.#seam.subscriptionsOf(outlet)])
        this.#seam.demote(subscription, "slow");
    }
  }
}
