/**
 * What a subscription received and its consumer has not handled yet.
 *
 * Owns: the order of items, the cursor that is safe to store. Does not own: the limit, which the subscription
 * enforces by pausing (`size`, `snapshotRows`).
 *
 * I1 Items leave in the order in which they came, each once.
 * I2 `handled` is never past an item that was not handled: an item counts as handled when the next one is asked
 *    for (or `settle` is called), and a bookmark counts only once everything before it was handled.
 * I3 After `end`, what is in the queue still comes, unless it is discarded; then the end, for every taker.
 *
 * Tested by `item-queue.test.ts`.
 */
import type { Cursor } from "@millrace/schemas";
import type { PlacedItem, StreamItem } from "./items.ts";

/** Why a queue ended; `error` is whatever the consumer is to see, an abort reason too. */
interface Failure {
  readonly error: unknown;
}

type Taken = { readonly item: StreamItem } | Failure | "done";

interface Waiter {
  readonly resolve: (taken: Taken) => void;
}

export class ItemQueue {
  #items: PlacedItem[] = [];
  #waiters: Waiter[] = [];
  /** What was taken and not settled; `undefined` when nothing is. */
  #inHand: Cursor | null | undefined;
  #bookmark: Cursor | undefined;
  #handled: Cursor | null;
  /** `null`: without an error, or the error was thrown. */
  #end: Failure | null | undefined;
  readonly #onHandled: (position: Cursor) => void;

  constructor(handled: Cursor | null, onHandled: (position: Cursor) => void) {
    this.#handled = handled;
    this.#onHandled = onHandled;
  }

  get size(): number {
    return this.#items.length;
  }

  get snapshotRows(): number {
    let rows = 0;
    for (const { item } of this.#items) if (item.kind === "snapshot") rows += item.rows.length;
    return rows;
  }

  get handled(): Cursor | null {
    return this.#handled;
  }

  /** Everything up to `position` was handled before: by another life of the consumer. */
  startAt(position: Cursor): void {
    this.#handled = position;
  }

  push(placed: PlacedItem): void {
    if (this.#end !== undefined) return;
    // A snapshot that begins anew makes the pages of the one before it worthless.
    if (placed.item.kind === "snapshot" && placed.item.first) {
      this.#items = this.#items.filter(({ item }) => item.kind !== "snapshot");
    }
    this.#bookmark = undefined;
    const waiter = this.#waiters.shift();
    if (waiter === undefined) {
      this.#items.push(placed);
      return;
    }
    this.settle();
    this.#inHand = placed.position;
    waiter.resolve({ item: placed.item });
  }

  /** Everything up to `position` was sent: the cursor moves there once what came before is handled. */
  bookmark(position: Cursor): void {
    if (this.#end !== undefined) return;
    this.#bookmark = position;
    this.#reachBookmark();
  }

  /** The item taken last was handled. */
  settle(): void {
    const position = this.#inHand;
    this.#inHand = undefined;
    if (position !== undefined) this.#setHandled(position);
    this.#reachBookmark();
  }

  take(): Promise<Taken> {
    this.settle();
    const placed = this.#items.shift();
    if (placed !== undefined) {
      this.#inHand = placed.position;
      return Promise.resolve({ item: placed.item });
    }
    if (this.#end !== undefined) return Promise.resolve(this.#takeEnd());
    return new Promise((resolve) => this.#waiters.push({ resolve }));
  }

  end(options: { readonly failure?: Failure; readonly discard: boolean }): void {
    if (options.discard) {
      this.#items = [];
      this.#inHand = undefined;
      this.#bookmark = undefined;
    }
    if (this.#end !== undefined) return;
    this.#end = options.failure ?? null;
    const waiters = this.#waiters;
    this.#waiters = [];
    for (const waiter of waiters) waiter.resolve(this.#takeEnd());
  }

  /** An error is thrown once; after it the iteration is done. */
  #takeEnd(): Taken {
    const end = this.#end ?? "done";
    this.#end = null;
    return end;
  }

  #reachBookmark(): void {
    const position = this.#bookmark;
    if (position === undefined || this.#items.length > 0 || this.#inHand !== undefined) return;
    this.#bookmark = undefined;
    this.#setHandled(position);
  }

  #setHandled(position: Cursor | null): void {
    const same = position?.sequence === this.#handled?.sequence && position?.epoch === this.#handled?.epoch;
    this.#handled = position;
    if (position !== null && !same) this.#onHandled(position);
  }
}
