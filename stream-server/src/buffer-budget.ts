import type { Seam } from "./core/seam.ts";
import type { HubSettings } from "./hub-settings.ts";
import type { Session } from "./session.ts";

export interface BufferBudgetOptions {
  readonly settings: HubSettings;
  readonly sessions: ReadonlySet<Session>;
  readonly seam: Seam;
  /** Bytes that are held for clients and not in sockets: the ring, snapshots on their way, shared pages, histories. */
  readonly heldBytes: () => number;
  /** Lets go of what is only kept in case somebody else asks for it. */
  readonly letGo: () => void;
}

/**
 * What the stream may hold in memory, for all clients together. Over it, first what is kept for convenience goes, then
 * the largest connections are demoted, and new subscriptions are refused (4004) until there is room again.
 */
export class BufferBudget {
  readonly #options: BufferBudgetOptions;
  #exceeded = false;

  constructor(options: BufferBudgetOptions) {
    this.#options = options;
  }

  /** As of the last {@link check}. */
  get exceeded(): boolean {
    return this.#exceeded;
  }

  /** With what waits in all sockets now. */
  check(buffered: number): void {
    const { letGo } = this.#options;
    if (this.#over(buffered) > 0) letGo();
    const over = this.#over(buffered);
    this.#exceeded = over > 0;
    if (this.#exceeded) this.#relieve(over);
  }

  #over(buffered: number): number {
    const { settings, heldBytes } = this.#options;
    return Math.max(buffered - settings.bufferedBytesMax, buffered + heldBytes() - settings.memoryBytesMax);
  }

  /** The largest first, until what is left to live ones is less by `over`. */
  #relieve(over: number): void {
    const { sessions, seam } = this.#options;
    const bySize = [...sessions].sort((a, b) => b.connection.bufferedBytes() - a.connection.bufferedBytes());
    let left = over;
    for (const { connection, outlet } of bySize) {
      if (left <= 0) return;
      left -= connection.bufferedBytes();
      for (const subscription of [...seam.subscriptionsOf(outlet)]) seam.demote(subscription, "slow");
    }
  }
}
