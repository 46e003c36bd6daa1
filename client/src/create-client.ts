import {
  MillraceError,
  parseCursor,
  type Cursor,
  type Filter,
  type StreamBatch,
  type StreamShape,
} from "@millrace/schemas";
import type { ConnectionRules } from "./connection-machine.ts";
import type { CursorStore } from "./stores/cursor-store.ts";
import type { EventItem, RestartItem, SnapshotItem, StateItem } from "./items.ts";
import { StreamConnection, type ClientLogger, type Timer, type Token } from "./stream-connection.ts";
import { consume, type Subscribed, type SubscribeOptions } from "./subscribe.ts";
import type { OnGone, Origin } from "./subscription-machine.ts";
import { Subscription, type ClientStats, type GapNotice, type StreamStatus } from "./subscription.ts";
import { Watch } from "./watch.ts";
import { openTransport, usableTransports } from "./open-transport.ts";
import type { TransportKind } from "./transport.ts";
import { streamUrl, type WebSocketConstructor } from "./web-socket.ts";

export interface ClientOptions {
  /**
   * Address of the stream server, e.g. `ws://127.0.0.1:8001`. `http` becomes `ws`; without a path it is
   * `/v1/stream`; in a page a relative address will do.
   */
  readonly url: string;
  /**
   * Default: the global one (browsers, Node 22 and up). On Node 20 pass the one of the `ws` package.
   */
  readonly WebSocket?: WebSocketConstructor;
  /**
   * The ways to the stream that may be used, best first; one alone pins it. After two attempts in a row that did not
   * reach the server the next one is tried, and the first again beside it, 10 s later and then every five minutes.
   * Default: `["websocket"]`, all that this version of the server speaks; `sse` and `poll` are for servers that have
   * the stream over HTTP, and are loaded only when they are needed.
   */
  readonly transports?: readonly TransportKind[];
  /**
   * Requests that may be open at a time over `sse` and `poll`, 1 or more. Default 4, since browsers allow six
   * connections to an origin over HTTP/1.1, for all tabs. Each subscription is a request; what is above the limit
   * polls in turns, about a second late for each turn. With HTTP/2, or in Node, more will do.
   */
  readonly httpRequestsMax?: number;
  /** For `sse` and `poll`. Default: the global one. */
  readonly fetch?: typeof globalThis.fetch;
  /** Sent in the first frame, never in the URL. A function is asked on each connection. */
  readonly token?: Token;
  /** Name of this client for the server's log, e.g. `web/1.0`. At most 128 characters. */
  readonly client?: string;
  /** Waits between attempts. */
  readonly backoff?: BackoffOptions;
  /** `false`: the first lost or failed connection is final (`unavailable`). Default true. */
  readonly retry?: boolean;
  /** Closes the client when aborted. */
  readonly signal?: AbortSignal;
  /** How long the connection is kept without a subscription. Default 1,000 ms. */
  readonly idleMs?: number;
  /** From opening the socket to the server's `welcome`. Default 10,000 ms. */
  readonly connectTimeoutMs?: number;
  readonly logger?: ClientLogger;
  /** Milliseconds; default `Date.now`. For tests. */
  readonly now?: () => number;
  /** In [0, 1); default `Math.random`. For tests. */
  readonly random?: () => number;
  /** Default `setTimeout`. For tests. */
  readonly timer?: Timer;
}

export interface BackoffOptions {
  /** The first wait is between 0 and this; each failure doubles it. Default 500 ms. */
  readonly minMs?: number;
  /** Default 30,000 ms. */
  readonly maxMs?: number;
  /** A connection that lasted this long makes the waits begin anew. Default 10,000 ms. */
  readonly healthyMs?: number;
  /** Attempts in a row that may fail before the client gives up with `unavailable`. Default: no end. */
  readonly attemptsMax?: number;
}

export interface WatchOptions<
  From extends string = string,
  Shape extends StreamShape = StreamShape,
  Gone extends OnGone = OnGone,
> {
  /**
   * Where to begin: a cursor that an item gave, `start` (the first event kept), `now` (default), or `snapshot`
   * (the present rows, then every event after them).
   */
  readonly from?: From;
  /** `events` (default), `state`: the projected row after each commit, or `both`: a commit's events, then the row. */
  readonly shape?: Shape;
  /** `closed`: the subscription ends by itself when the workflow has closed. */
  readonly until?: "closed";
  /** Ends the iteration by throwing the signal's reason. */
  readonly signal?: AbortSignal;
  /**
   * When the server can no longer resume from the cursor: `error` (default) throws `cursor_epoch`,
   * `cursor_expired` or `cursor_future`; the others deliver a `restart` item and begin again.
   */
  readonly onGone?: Gone;
  /**
   * Items kept for a slow consumer. When there are more, the subscription is given up on the server and resumed
   * from its cursor when a quarter is left: nothing is lost and memory stays bounded. Default 1,024.
   */
  readonly bufferedItemsMax?: number;
  /** Rows of a snapshot kept for a slow consumer; more end the subscription with `limit_exceeded`. Default 100,000. */
  readonly snapshotRowsMax?: number;
  /**
   * Entries that the server may send beyond what was handled, 1 to 100,000: then it waits for the client, which
   * acknowledges after handling, at half a window. Default: none; a slow consumer is then bounded by
   * `bufferedItemsMax`.
   */
  readonly window?: number;
  /** The server holds live entries until `max` (1 to 1,000) are there or `ms` (1 to 1,000) have passed. */
  readonly batch?: StreamBatch;
  /** The projection must have this sequence first: the `sequence` that a write answered, to see that write. */
  readonly min?: number;
  /**
   * Where the cursor is kept, under `key`: read before the subscription begins (`from` counts only if there is
   * none), and written after the handler has resolved. So each item is handled at least once, and exactly once when
   * the handler is idempotent or writes its effect and the cursor in one transaction. Writes are coalesced. A store
   * that fails ends the subscription with `unavailable`.
   */
  readonly store?: CursorStore;
  /** Required with `store`: one for each subscription. */
  readonly key?: string;
  /** Called when the status changes. */
  readonly onStatus?: (status: StreamStatus) => void;
  /** Called for each chain break. The missing events are read again, so this is for the log. */
  readonly onGap?: (gap: GapNotice) => void;
  /**
   * Called with each new cursor after everything up to it was handled, also when it moves without events. This is
   * the one to store.
   */
  readonly onCursor?: (cursor: string) => void;
}

/**
 * What a watch with these options yields: events, or rows with `shape: "state"`, or both; pages too with
 * `from: "snapshot"`, and a notice with an `onGone` that restarts. A `from` that is only known as `string` is taken
 * for a cursor.
 */
export type WatchItem<From extends string, Shape extends StreamShape, Gone extends OnGone> =
  | (Shape extends "state" ? never : EventItem)
  | (Shape extends "events" ? never : StateItem)
  | (From extends "snapshot" ? SnapshotItem : never)
  | (Gone extends "error" ? never : RestartItem)
  | (Gone extends "restart-from-snapshot" ? SnapshotItem : never);

export interface Client {
  /**
   * Follows all events that match `filter` (`{}` is everything), as an async iterable. It begins at once, not with
   * the first `next()`; leaving the loop ends it. Over any number of reconnects each event comes exactly once, in
   * log order.
   *
   * Throws (from the iterator): `cursor_malformed`, `cursor_expired`, `cursor_epoch`, `cursor_future`,
   * `filter_invalid`, `subscription_limit`, `limit_exceeded`, `forbidden`, `protocol_version`,
   * `subprotocol_missing`, `unavailable` (only with `retry: false` or `attemptsMax`), or the signal's reason.
   *
   * @example
   * ```ts
   * for await (const event of client.watch({ workflow: ["order-42"] }, { from: saved ?? "start" })) {
   *   if (event.type === "StepCompleted") show(event.data.name, event.data.output);
   *   saved = event.cursor; // after handling: resuming from here repeats nothing
   * }
   * ```
   */
  watch<From extends string = "now", Shape extends StreamShape = "events", Gone extends OnGone = "error">(
    filter: Filter,
    options?: WatchOptions<From, Shape, Gone>,
  ): Watch<WatchItem<From, Shape, Gone>>;

  /**
   * The same with callbacks. A handler that returns a promise is waited for before the next item; one that throws
   * ends the subscription with `onError`, the cursor still before that item.
   *
   * @example
   * ```ts
   * const subscription = client.subscribe(
   *   { type: ["order"] },
   *   {
   *     from: localStorage.getItem("cursor") ?? "start",
   *     onEvent: (event) => render(event),
   *     onCursor: (cursor) => localStorage.setItem("cursor", cursor),
   *     onStatus: (status) => badge(status),
   *     onError: (error) => alert(error.message),
   *   },
   * );
   * subscription.close();
   * ```
   */
  subscribe(filter: Filter, options: SubscribeOptions): Subscribed;

  /** A copy of the counters. `gaps` is the loss counter: 0 in good order. */
  readonly stats: ClientStats;

  /** By which way the server is heard at present; `null` while it is not. */
  readonly transport: TransportKind | null;

  /** Ends all subscriptions without an error and closes the socket. */
  close(): void;
}

const defaultTimer: Timer = (callback, delayMs) => {
  const handle = setTimeout(callback, delayMs);
  return () => clearTimeout(handle);
};

function readFrom(from: string | undefined): Cursor | Origin {
  if (from === undefined) return "now";
  return from === "start" || from === "now" || from === "snapshot" ? from : parseCursor(from);
}

function readRules(options: ClientOptions): ConnectionRules {
  const { backoff = {}, retry = true } = options;
  return {
    backoffMinMs: backoff.minMs ?? 500,
    backoffMaxMs: backoff.maxMs ?? 30_000,
    healthyMs: backoff.healthyMs ?? 10_000,
    failuresMax: retry ? (backoff.attemptsMax ?? Number.POSITIVE_INFINITY) : 1,
    connectTimeoutMs: options.connectTimeoutMs ?? 10_000,
    idleMs: options.idleMs ?? 1_000,
  };
}

/**
 * A client of the live stream: one socket for any number of subscriptions, opened with the first and closed after
 * the last. It reconnects and resumes by itself; a cursor kept by the caller resumes across restarts too.
 *
 * What is final (wrong token, protocol version, a limit) ends the present subscriptions with an error and is not
 * tried again; a subscription made after that connects anew.
 *
 * Throws `invalid_request` when there is no WebSocket in this runtime or `url` is no address.
 *
 * @example
 * ```ts
 * import { createClient } from "@millrace/client";
 * import { WebSocket } from "ws"; // only on Node 20
 *
 * const client = createClient({ url: "ws://127.0.0.1:8001", WebSocket });
 * for await (const event of client.watch({ workflow: ["order-42"] }, { from: "start", until: "closed" })) {
 *   console.log(event.sequence, event.type, event.at);
 * }
 * client.close();
 * ```
 */
export function createClient(options: ClientOptions): Client {
  const timing = {
    now: options.now ?? Date.now,
    random: options.random ?? Math.random,
    timer: options.timer ?? defaultTimer,
  };
  const rules = readRules(options);
  const url = streamUrl(options.url);
  const ways = { ...timing, ...options, url, connectTimeoutMs: rules.connectTimeoutMs };
  const connection = new StreamConnection({
    url,
    transports: usableTransports(options),
    openTransport: (kind, listener) => openTransport(kind, ways, listener),
    token: options.token,
    client: options.client,
    rules,
    ...timing,
    logger: options.logger,
  });

  const open = (filter: Filter, given: WatchOptions): Subscription => {
    const subscription = new Subscription(connection, {
      filter,
      from: readFrom(given.from),
      shape: given.shape ?? "events",
      untilClosed: given.until === "closed",
      onGone: given.onGone ?? "error",
      bufferedItemsMax: given.bufferedItemsMax ?? 1_024,
      snapshotRowsMax: given.snapshotRowsMax ?? 100_000,
      window: given.window,
      batch: given.batch,
      min: given.min,
      onStatus: given.onStatus,
      onGap: given.onGap,
      onCursor: (cursor) => {
        given.onCursor?.(cursor);
        keep?.(cursor);
      },
    });
    const begin = (): void => {
      // With an aborted signal the caller below ends it, with the reason.
      if (connection.closed) subscription.step({ type: "close" });
      else if (given.signal?.aborted !== true && !subscription.ended) connection.add(subscription);
    };
    let keep: ((cursor: string) => void) | undefined;
    const { store, key } = given;
    if (store === undefined) begin();
    else {
      if (key === undefined) {
        throw new MillraceError(
          "invalid_request",
          "A subscription with a store needs a key of its own: set key.",
        );
      }
      const fail = (message: string, cause: unknown): void => {
        const error = new MillraceError("unavailable", message, { cause, details: { key } });
        subscription.step({ type: "fail", error });
      };
      import("./stores/keep-cursor.ts").then(
        ({ keepCursor }) => {
          keep = keepCursor(store, key, {
            begin(cursor) {
              if (cursor !== null) subscription.resumeFrom(parseCursor(cursor));
              begin();
            },
            fail,
          });
        },
        (cause: unknown) => fail(String(cause), cause),
      );
    }
    return subscription;
  };

  const close = (): void => connection.close();
  if (options.signal?.aborted === true) close();
  else options.signal?.addEventListener("abort", close, { once: true });

  return {
    watch: (filter, given) => new Watch(open(filter, given ?? {}), given?.signal),
    subscribe: (filter, given) => consume(open(filter, given), given),
    get stats() {
      return { ...connection.stats };
    },
    get transport() {
      return connection.transport;
    },
    close() {
      options.signal?.removeEventListener("abort", close);
      close();
    },
  };
}
