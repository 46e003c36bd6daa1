import type { WatchOptions } from "./create-client.ts";
import type { EventItem, RestartItem, SnapshotItem, StateItem, StreamItem } from "./items.ts";
import type { StreamStatus, Subscription } from "./subscription.ts";

type Handled = void | Promise<void>;

export interface SubscribeOptions extends WatchOptions {
  readonly onEvent?: (event: EventItem) => Handled;
  /** With `shape: "state"`. */
  readonly onState?: (state: StateItem) => Handled;
  /** With `from: "snapshot"`. */
  readonly onSnapshot?: (page: SnapshotItem) => Handled;
  /** With an `onGone` that restarts: events between are missing. */
  readonly onRestart?: (notice: RestartItem) => Handled;
  /** The subscription ended without an error: closed, or the workflow did with `until: "closed"`. */
  readonly onEnd?: () => void;
  /** The subscription ended with an error: see the codes of {@link Client.watch}, or what a handler threw. */
  readonly onError: (error: unknown) => void;
}

export interface Subscribed {
  /** Everything up to here was handled: safe to store. `null` until a first position is known. */
  readonly cursor: string | null;
  readonly status: StreamStatus;
  /** Ends the subscription; what was received and not handled yet is dropped. */
  close(): void;
}

function handle(item: StreamItem, options: SubscribeOptions): Handled {
  switch (item.kind) {
    case "event":
      return options.onEvent?.(item);
    case "state":
      return options.onState?.(item);
    case "snapshot":
      return options.onSnapshot?.(item);
    case "restart":
      return options.onRestart?.(item);
  }
}

/** Hands the items of a subscription to callbacks, one after the other. */
export function consume(subscription: Subscription, options: SubscribeOptions): Subscribed {
  const { signal } = options;
  const close = (): void => {
    signal?.removeEventListener("abort", close);
    subscription.queue.end({ discard: true });
    subscription.step({ type: "close" });
  };
  if (signal?.aborted === true) close();
  else signal?.addEventListener("abort", close, { once: true });

  const run = async (): Promise<void> => {
    for (;;) {
      const taking = subscription.queue.take();
      subscription.eased();
      const taken = await taking;
      if (taken === "done") return;
      if ("error" in taken) throw taken.error;
      await handle(taken.item, options);
    }
  };
  void run().then(
    () => {
      signal?.removeEventListener("abort", close);
      options.onEnd?.();
    },
    (error: unknown) => {
      close();
      options.onError(error);
    },
  );

  return {
    get cursor() {
      return subscription.cursor;
    },
    get status() {
      return subscription.status;
    },
    close,
  };
}
