import type { StreamItem } from "./items.ts";
import type { StreamStatus, Subscription } from "./subscription.ts";

/** One subscription as an async iterable; see {@link Client.watch}. It can be iterated once. */
export class Watch<Item> implements AsyncIterableIterator<Item, undefined> {
  readonly #subscription: Subscription;
  readonly #signal: AbortSignal | undefined;
  readonly #abort = (): void => this.#end({ error: this.#signal?.reason });

  constructor(subscription: Subscription, signal: AbortSignal | undefined) {
    this.#subscription = subscription;
    this.#signal = signal;
    if (signal?.aborted === true) this.#abort();
    else signal?.addEventListener("abort", this.#abort, { once: true });
  }

  /**
   * Everything up to here was handled, so it is safe to store; `null` until a first position is known. An item
   * counts as handled when the next one is asked for.
   */
  get cursor(): string | null {
    return this.#subscription.cursor;
  }

  get status(): StreamStatus {
    return this.#subscription.status;
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  async next(): Promise<IteratorResult<Item, undefined>> {
    const taking = this.#subscription.queue.take();
    this.#subscription.eased();
    const taken = await taking;
    if (taken === "done" || "error" in taken) {
      this.#signal?.removeEventListener("abort", this.#abort);
      if (taken !== "done") throw taken.error;
      return { done: true, value: undefined };
    }
    // Which kinds of item can come follows from the options that gave `Item` (`WatchItem`).
    return { done: false, value: taken.item as StreamItem & Item };
  }

  /** Leaving a `for await` loop comes here. */
  async return(): Promise<IteratorResult<Item, undefined>> {
    this.close();
    return { done: true, value: undefined };
  }

  /** Ends the subscription; what was received and not read yet is dropped. */
  close(): void {
    this.#signal?.removeEventListener("abort", this.#abort);
    this.#end();
  }

  #end(failure?: { readonly error: unknown }): void {
    this.#subscription.queue.end({ discard: true, ...(failure === undefined ? {} : { failure }) });
    this.#subscription.step({ type: "close" });
  }
}
