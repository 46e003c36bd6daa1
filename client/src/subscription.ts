/**
 * The shell of one subscription: carries out what `stepSubscription` decides.
 *
 * Owns: the state, the buffer, the consumer's status. Does not own: the socket (`StreamLink`), reading the items
 * (`watch.ts`, `subscribe.ts`).
 *
 * I1 Events are stepped one at a time, in the order in which they came, also when one causes another.
 * I2 The buffer is bounded: at `bufferedItemsMax` the subscription is given up on the server and resumed from its
 *    position at a quarter of that. The overshoot is one frame. A snapshot cannot be resumed, so it is not
 *    paused; more than `snapshotRowsMax` waiting rows end the subscription with `limit_exceeded`.
 * I3 A callback never runs inside a step: it is queued as a microtask, where what it throws is not swallowed.
 */
import {
  formatCursor,
  MillraceError,
  type Cursor,
  type Filter,
  type StreamBatch,
  type StreamShape,
  type SubscribeFrame,
} from "@millrace/schemas";
import { HeldRows } from "./held-rows.ts";
import type { StreamItem } from "./items.ts";
import { ItemQueue } from "./item-queue.ts";
import {
  initialSubscription,
  stepSubscription,
  type OnGone,
  type Origin,
  type SubscriptionEffect,
  type SubscriptionEvent,
  type SubscriptionState,
} from "./subscription-machine.ts";

/**
 * How fresh what was received is. `connecting`: on the way to the server. `catching-up`: receiving what was missed.
 * `live`: up to date. `stale`: connected, but the server lost the log or a heartbeat is late. `offline`: no
 * connection, waiting to try again.
 */
export type StreamStatus = "connecting" | "catching-up" | "live" | "stale" | "offline";

/** A chain break: events after `cursor` were missing in what came, so they are read again. Nothing is lost by it. */
export interface GapNotice {
  readonly cursor: string;
  /** The frame said that it follows this sequence. */
  readonly previous: number;
}

/** Counters of one client since it was created. */
export interface ClientStats {
  /** Chain breaks that were found and healed. Anything but 0 points to a fault in the server or between. */
  readonly gaps: number;
  /** Frames that were dropped because all in them had been received. */
  readonly duplicates: number;
  /** Connections made after one was lost. */
  readonly reconnects: number;
  /** Events and rows received, without duplicates. */
  readonly received: number;
}

export type MutableStats = { -readonly [K in keyof ClientStats]: ClientStats[K] };

/** What a subscription asks of its connection. */
export interface StreamLink {
  readonly stats: MutableStats;
  subscribe(subscription: Subscription, frame: Omit<SubscribeFrame, "t" | "i">): void;
  unsubscribe(subscription: Subscription): void;
  forget(subscription: Subscription): void;
  report(subscription: Subscription, breaks: number, duplicates: number): void;
  acknowledge(subscription: Subscription, sequence: number): void;
  reconnect(reason: string): void;
  connectionStatus(): "connecting" | "ready" | "stale" | "offline";
  /** The subscription ended: no more events for it. */
  release(subscription: Subscription): void;
}

export interface SubscriptionOptions {
  readonly filter: Filter;
  readonly from: Cursor | Origin;
  readonly shape: StreamShape;
  readonly untilClosed: boolean;
  readonly onGone: OnGone;
  readonly bufferedItemsMax: number;
  readonly snapshotRowsMax: number;
  readonly window: number | undefined;
  readonly batch: StreamBatch | undefined;
  readonly min: number | undefined;
  readonly onStatus: ((status: StreamStatus) => void) | undefined;
  readonly onGap: ((gap: GapNotice) => void) | undefined;
  readonly onCursor: ((cursor: string) => void) | undefined;
}

export class Subscription {
  readonly queue: ItemQueue;
  readonly #link: StreamLink;
  readonly #options: SubscriptionOptions;
  #state: SubscriptionState;
  #status: StreamStatus = "connecting";
  readonly #inbox: SubscriptionEvent[] = [];
  #stepping = false;
  /** Items that the consumer took since the last acknowledgement. */
  #taken = 0;
  #acknowledged = 0;
  /** The server waits: acknowledge whatever can be. */
  #awaited = false;
  readonly #rows = new HeldRows();

  constructor(link: StreamLink, options: SubscriptionOptions) {
    this.#link = link;
    this.#options = options;
    this.#state = initialSubscription(options.from);
    const { onCursor } = options;
    this.queue = new ItemQueue(typeof options.from === "string" ? null : options.from, (position) => {
      if (onCursor === undefined) return;
      const cursor = formatCursor(position.epoch, position.sequence);
      queueMicrotask(() => onCursor(cursor));
    });
  }

  get ended(): boolean {
    return this.#state.at === "ended";
  }

  get status(): StreamStatus {
    return this.#status;
  }

  /** When the subscription wants a `tick`; `null` when it waits for nothing. */
  get wakeAt(): number | null {
    return this.#state.at === "waiting" ? this.#state.until : null;
  }

  /** Everything up to here was handled by the consumer: safe to store. `null` before the first position is known. */
  get cursor(): string | null {
    const { handled } = this.queue;
    return handled === null ? null : formatCursor(handled.epoch, handled.sequence);
  }

  step(event: SubscriptionEvent): void {
    this.#inbox.push(event);
    if (this.#stepping) return;
    this.#stepping = true;
    try {
      for (let next = this.#inbox.shift(); next !== undefined; next = this.#inbox.shift()) {
        const { state, effects } = stepSubscription(this.#state, next, this.#options);
        this.#state = state;
        for (const effect of effects) this.#carryOut(effect);
      }
    } finally {
      this.#stepping = false;
    }
    if (event.type === "awaited" || (event.type === "behind" && event.why === "window")) this.#awaited = true;
    else if (event.type === "live") this.#awaited = false;
    if (this.#awaited) this.#acknowledge();
    this.refreshStatus();
  }

  /** Before the first step: begin after this position instead. */
  resumeFrom(position: Cursor): void {
    if (this.ended) return;
    this.#state = initialSubscription(position);
    this.queue.startAt(position);
  }

  /** The consumer took an item: what was before it is handled, and a paused subscription may go on. */
  eased(): void {
    this.#taken += 1;
    this.#acknowledge();
    if (this.#state.at === "paused" && this.queue.size <= this.#options.bufferedItemsMax / 4) {
      this.step({ type: "drained" });
    }
  }

  /** At half a window, so that the server need not wait for the round trip. */
  #acknowledge(): void {
    const { window } = this.#options;
    const { handled } = this.queue;
    if (window === undefined || handled === null || handled.sequence <= this.#acknowledged) return;
    if (this.#taken < window / 2 && !this.#awaited) return;
    this.#taken = 0;
    this.#acknowledged = handled.sequence;
    this.#link.acknowledge(this, handled.sequence);
  }

  refreshStatus(): void {
    const status = this.#computeStatus();
    if (status === this.#status || this.ended) return;
    this.#status = status;
    const { onStatus } = this.#options;
    if (onStatus !== undefined) queueMicrotask(() => onStatus(status));
  }

  #computeStatus(): StreamStatus {
    const connection = this.#link.connectionStatus();
    if (connection === "offline" || connection === "connecting") return connection;
    const state = this.#state;
    switch (state.at) {
      case "live":
        return connection === "stale" ? "stale" : "live";
      case "catching-up":
        return state.stale || connection === "stale" ? "stale" : "catching-up";
      case "snapshot":
      case "paused":
        return "catching-up";
      case "detached":
      case "waiting":
      case "asked":
      case "ended":
        return "connecting";
    }
  }

  #carryOut(effect: SubscriptionEffect): void {
    const { filter, shape, untilClosed, onGap, window, batch, min } = this.#options;
    switch (effect.do) {
      case "subscribe":
        this.#rows.clear();
        // What another subscription acknowledged says nothing to this one.
        this.#taken = 0;
        this.#acknowledged = 0;
        this.#awaited = false;
        this.#link.subscribe(this, {
          filter: copyFilter(filter),
          from: effect.from,
          shape,
          ...(untilClosed ? { until: "closed" } : {}),
          ...(window === undefined ? {} : { window }),
          ...(batch === undefined ? {} : { batch }),
          ...(min === undefined ? {} : { min }),
        });
        return;
      case "unsubscribe":
        this.#link.unsubscribe(this);
        return;
      case "forget":
        this.#link.forget(this);
        return;
      case "report":
        this.#link.report(this, effect.breaks, effect.duplicates);
        return;
      case "deliver":
        for (const placed of effect.items) {
          if (placed.item.kind === "event" || placed.item.kind === "state") this.#link.stats.received += 1;
          this.queue.push({ ...placed, item: this.#withRow(placed.item) });
        }
        this.#bound();
        return;
      case "advance":
        this.queue.bookmark(effect.position);
        return;
      case "gap": {
        this.#link.stats.gaps += 1;
        const notice = {
          cursor: formatCursor(effect.after.epoch, effect.after.sequence),
          previous: effect.p,
        };
        if (onGap !== undefined) queueMicrotask(() => onGap(notice));
        return;
      }
      case "duplicate":
        this.#link.stats.duplicates += 1;
        return;
      case "reconnect":
        this.#link.reconnect(effect.reason);
        return;
      case "finish":
        this.queue.end({ discard: false });
        this.#link.release(this);
        return;
      case "fail":
        this.queue.end({ failure: { error: effect.error }, discard: false });
        this.#link.release(this);
        return;
    }
  }

  /** A state entry has only what changed: the item gets all of the row. */
  #withRow(item: StreamItem): StreamItem {
    if (item.kind === "snapshot") for (const row of item.rows) this.#rows.keep(row);
    return item.kind === "state" ? { ...item, row: this.#rows.merge(item.row) } : item;
  }

  #bound(): void {
    const { bufferedItemsMax, snapshotRowsMax } = this.#options;
    if (this.queue.size >= bufferedItemsMax) this.#inbox.push({ type: "full" });
    if (this.#state.at !== "snapshot") return;
    const rows = this.queue.snapshotRows;
    if (rows <= snapshotRowsMax) return;
    const error = new MillraceError(
      "limit_exceeded",
      `Snapshot given up: ${rows} rows wait for the consumer, the limit is ${snapshotRowsMax}. ` +
        `Take the pages faster, narrow the filter or raise snapshotRowsMax.`,
      { details: { limit: snapshotRowsMax, actual: rows } },
    );
    this.#inbox.push({ type: "fail", error });
  }
}

function copyFilter(filter: Filter): NonNullable<SubscribeFrame["filter"]> {
  return {
    ...(filter.workflow === undefined ? {} : { workflow: [...filter.workflow] }),
    ...(filter.type === undefined ? {} : { type: [...filter.type] }),
    ...(filter.status === undefined ? {} : { status: [...filter.status] }),
    ...(filter.event === undefined ? {} : { event: [...filter.event] }),
    ...(filter.attr === undefined ? {} : { attr: copyAttributes(filter.attr) }),
  };
}

function copyAttributes(
  wanted: NonNullable<Filter["attr"]>,
): NonNullable<NonNullable<SubscribeFrame["filter"]>["attr"]> {
  return Object.fromEntries(
    Object.entries(wanted).map(([key, value]) => [key, typeof value === "object" ? [...value] : value]),
  );
}
