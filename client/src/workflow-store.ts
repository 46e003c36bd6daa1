/**
 * Present rows for a user interface: `getSnapshot` and `subscribe`, as React, Svelte and the like want them.
 *
 * Owns: one subscription to projected rows, as long as somebody listens, and a little longer.
 * Does not own: the client and its socket, the rows (`workflow-rows.ts`).
 *
 * I1 `getSnapshot` gives the same object until something has changed.
 * I2 Listeners are called once for all that came in one go, never within `subscribe`.
 * I3 Without a listener nothing is open: neither a subscription nor a timer.
 */
import { canonicalFilter, type Filter, type WorkflowRow } from "@millrace/schemas";
import type { Client } from "./create-client.ts";
import type { Subscribed } from "./subscribe.ts";
import type { StreamStatus } from "./subscription.ts";
import { WorkflowRows } from "./workflow-rows.ts";

/** By run, type, status and attributes. Rows are states, so there is nothing to choose events by. */
export type RowFilter = Omit<Filter, "event">;

/**
 * `catching-up`: not up to date yet. `live`: up to date. `stale`: connected, but the server has lost the log or a
 * heartbeat is late. `offline`: no connection, or given up (see `error`).
 */
export type RowStatus = "catching-up" | "live" | "stale" | "offline";

export interface WorkflowsSnapshot {
  /** Newest start first. */
  readonly rows: readonly WorkflowRow[];
  /** The first complete list is there; before that `rows` is empty. */
  readonly loaded: boolean;
  readonly status: RowStatus;
  /** Milliseconds since `rows` was last known to be up to date, by steps of a second; 0 while live, null before that. */
  readonly lag: number | null;
  /** Why it was given up; null while it goes on. Network trouble is not an error: it is tried again. */
  readonly error: unknown;
}

export interface WorkflowStoreOptions {
  /** More matching rows end the subscription with `limit_exceeded`. Default 10,000. */
  readonly rowsMax?: number;
  /** How long it goes on without a listener, in milliseconds. Default 1,000: a page that changes keeps its rows. */
  readonly lingerMs?: number;
  /** Milliseconds; default `Date.now`. For tests. */
  readonly now?: () => number;
}

export interface WorkflowStore {
  readonly getSnapshot: () => WorkflowsSnapshot;
  /** Opens the subscription with the first listener. Returns what takes the listener away. */
  readonly subscribe: (listener: () => void) => () => void;
}

/** What there is before anything came, also where a page is rendered on a server. */
export const emptySnapshot: WorkflowsSnapshot = {
  rows: [],
  loaded: false,
  status: "catching-up",
  lag: null,
  error: null,
};

const lagStepMs = 1_000;

/**
 * The rows of all runs that match `filter`, kept up to date. It begins with a consistent snapshot and resumes over
 * reconnects; when the server can no longer resume, it takes a new snapshot by itself. After an error (`error`) the
 * next listener makes it begin again.
 *
 * @example
 * ```ts
 * const store = createWorkflowStore(client, { type: ["order"] });
 * const stop = store.subscribe(() => render(store.getSnapshot().rows));
 * ```
 */
export function createWorkflowStore(
  client: RowClient,
  filter: RowFilter,
  options: WorkflowStoreOptions = {},
): WorkflowStore {
  return new Store(client, filter, options, () => undefined);
}

/** What a store needs of a client. */
export type RowClient = Pick<Client, "subscribe">;

class Store implements WorkflowStore {
  readonly #client: RowClient;
  readonly #filter: RowFilter;
  readonly #rowsMax: number;
  readonly #lingerMs: number;
  readonly #now: () => number;
  readonly #onClosed: () => void;
  readonly #listeners = new Set<() => void>();
  #snapshot = emptySnapshot;
  #rows: WorkflowRows;
  /** Rows have changed since the snapshot was made. */
  #rowsChanged = false;
  #open: Subscribed | null = null;
  #lastLiveAt: number | null = null;
  #announcing = false;
  #ageing: Timeout;
  #closing: Timeout;

  constructor(client: RowClient, filter: RowFilter, options: WorkflowStoreOptions, onClosed: () => void) {
    this.#client = client;
    this.#filter = filter;
    this.#rowsMax = options.rowsMax ?? 10_000;
    this.#lingerMs = options.lingerMs ?? 1_000;
    this.#now = options.now ?? Date.now;
    this.#onClosed = onClosed;
    this.#rows = new WorkflowRows(filter, this.#rowsMax);
  }

  readonly getSnapshot = (): WorkflowsSnapshot => {
    if (this.#rowsChanged) {
      this.#rowsChanged = false;
      this.#snapshot = { ...this.#snapshot, rows: this.#rows.rows };
    }
    return this.#snapshot;
  };

  readonly subscribe = (listener: () => void): (() => void) => {
    // One function may be given twice: each time counts.
    const own = (): void => listener();
    this.#listeners.add(own);
    clearTimeout(this.#closing);
    if (this.#open === null) this.#start();
    return () => {
      this.#listeners.delete(own);
      if (this.#listeners.size > 0) return;
      clearTimeout(this.#closing);
      this.#closing = setTimeout(() => {
        this.#stop("offline");
        this.#onClosed();
      }, this.#lingerMs);
    };
  };

  #start(): void {
    this.#rows = new WorkflowRows(this.#filter, this.#rowsMax);
    this.#change({ status: "catching-up", error: null });
    this.#ageing = setInterval(() => this.#age(), lagStepMs);
    this.#open = this.#client.subscribe(this.#filter, {
      from: "snapshot",
      shape: "state",
      onGone: "restart-from-snapshot",
      onSnapshot: (page) => {
        this.#rows.takePage(page);
        if (!page.last) return;
        this.#rowsChanged = true;
        this.#change({ loaded: true });
      },
      onState: ({ row }) => {
        this.#rows.takeRow(row);
        this.#rowsChanged = true;
        this.#announce();
      },
      onStatus: (status) => {
        this.#change({ status: rowStatus(status, this.#snapshot.status) });
        this.#age();
      },
      onEnd: () => this.#stop("offline"),
      onError: (error) => {
        this.#stop("offline");
        this.#change({ error });
      },
    });
  }

  #stop(status: RowStatus): void {
    clearInterval(this.#ageing);
    this.#open?.close();
    this.#open = null;
    this.#change({ status });
  }

  #age(): void {
    if (this.#snapshot.status === "live") this.#lastLiveAt = this.#now();
    const lag = this.#lastLiveAt === null ? null : Math.max(0, this.#now() - this.#lastLiveAt);
    this.#change({ lag });
  }

  #change(changes: Partial<WorkflowsSnapshot>): void {
    const next = { ...this.#snapshot, ...changes };
    const { loaded, status, lag, error } = this.#snapshot;
    if (next.loaded !== loaded || next.status !== status || next.lag !== lag || next.error !== error)
      this.#snapshot = next;
    else if (!this.#rowsChanged) return;
    this.#announce();
  }

  /** In a turn of its own: the frames of one message, and more that wait, become one rendering. */
  #announce(): void {
    if (this.#announcing || this.#listeners.size === 0) return;
    this.#announcing = true;
    setTimeout(() => {
      this.#announcing = false;
      for (const listener of [...this.#listeners]) listener();
    }, 0);
  }
}

type Timeout = ReturnType<typeof setTimeout> | undefined;

/** A page has no word for "on the way": it is not up to date yet, or still without a connection. */
function rowStatus(status: StreamStatus, before: RowStatus): RowStatus {
  if (status !== "connecting") return status;
  return before === "offline" ? "offline" : "catching-up";
}

const shared = new WeakMap<object, Map<string, WorkflowStore>>();

/** One store for a client and a filter, whoever asks: components that show the same share a subscription. */
export function sharedWorkflowStore(client: RowClient, filter: RowFilter): WorkflowStore {
  const own = shared.get(client) ?? new Map<string, WorkflowStore>();
  shared.set(client, own);
  const key = canonicalFilter(filter);
  let store = own.get(key);
  if (store === undefined) {
    store = new Store(client, filter, {}, () => own.delete(key));
    own.set(key, store);
  }
  return store;
}
