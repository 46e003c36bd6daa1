/**
 * Leases of the memory twin: the server's keys, and one connection's view of them.
 *
 * Owns: values, revisions and expiry of keys; watches. Does not own: when a key is renewed (`lease-keeper.ts`).
 *
 * I1 A write is one synchronous step: check, number, keep, tell the listeners.
 * I2 A watch compares what it told with what there is, so that it may be away and misses no key.
 */
import { MillraceError } from "@millrace/schemas";
import { keepLease, type LeaseKeeper, type LeaseTimers } from "../lease-keeper.ts";
import type { LeaseChange, LeaseStore } from "../lease-store.ts";
import type { MemoryServer } from "./memory-server.ts";

interface MemoryKey {
  readonly value: string;
  readonly revision: number;
  readonly cancelExpiry: () => void;
}

export class MemoryKeys {
  readonly #wake: LeaseTimers["wake"];
  readonly #entries = new Map<string, MemoryKey>();
  readonly #listeners = new Set<() => void>();
  #revision = 0;

  constructor(wake: LeaseTimers["wake"]) {
    this.#wake = wake;
  }

  get revision(): number {
    return this.#revision;
  }

  get entries(): ReadonlyMap<string, MemoryKey> {
    return this.#entries;
  }

  onChange(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  write(key: string, value: string, expected: number, leaseMs: number | null): number {
    this.#expect(`Writing ${key}`, key, expected);
    this.#entries.get(key)?.cancelExpiry();
    const revision = ++this.#revision;
    const cancelExpiry =
      leaseMs === null ? () => undefined : this.#wake(leaseMs, () => this.remove(key, revision));
    this.#entries.set(key, { value, revision, cancelExpiry });
    this.#tell();
    return revision;
  }

  remove(key: string, expected: number): void {
    const entry = this.#entries.get(key);
    if (entry === undefined) return;
    this.#expect(`Removing ${key}`, key, expected);
    entry.cancelExpiry();
    this.#entries.delete(key);
    this.#revision++;
    this.#tell();
  }

  #expect(attempt: string, key: string, expected: number): void {
    const actual = this.#entries.get(key)?.revision ?? 0;
    if (actual === expected) return;
    throw new MillraceError(
      "conflict",
      `${attempt} refused: expected revision ${expected}, it has ${actual}. Read it and decide again.`,
      { details: { expected, actual } },
    );
  }

  #tell(): void {
    for (const listener of [...this.#listeners]) listener();
  }
}

export interface MemoryLeases extends LeaseStore {
  connectionChanged(): void;
  close(): void;
}

/** One connection's leases. */
export function createMemoryLeases(server: MemoryServer, namespace: string): MemoryLeases {
  const keys = server.keys(namespace);
  const keepers = new Set<LeaseKeeper>();
  const watches = new Set<MemoryWatch>();
  const timers: LeaseTimers = { now: server.clock, wake: (...after) => server.wake(...after) };
  let closed = false;

  function requireConnected(): void {
    if (server.connected && !closed) return;
    throw new MillraceError(
      "unavailable",
      `The leases of namespace ${namespace} are not reachable. Try again.`,
      {
        retryable: !closed,
      },
    );
  }

  return {
    async write(key, value, expected) {
      requireConnected();
      return keys.write(key, value, expected, null);
    },
    async remove(key, expected) {
      requireConnected();
      keys.remove(key, expected);
    },
    async keep(options) {
      requireConnected();
      const writes = {
        write: async (key: string, value: string, expected: number, leaseMs: number) => {
          requireConnected();
          return { revision: keys.write(key, value, expected, leaseMs), recovered: false };
        },
        remove: async (key: string, expected: number) => {
          requireConnected();
          keys.remove(key, expected);
        },
      };
      const keeper = await keepLease(writes, timers, options, () => keepers.delete(keeper));
      keepers.add(keeper);
      return keeper;
    },
    async watch(onChange) {
      requireConnected();
      const watch = new MemoryWatch(
        keys,
        () => server.connected,
        onChange,
        () => watches.delete(watch),
      );
      watches.add(watch);
      watch.sync();
      return watch;
    },
    connectionChanged() {
      for (const watch of watches) watch.schedule();
    },
    close() {
      closed = true;
      for (const watch of [...watches]) watch.stop();
      const reason = new MillraceError("unavailable", "The event log was closed.", { retryable: false });
      for (const keeper of [...keepers]) keeper.end(reason);
    },
  };
}

class MemoryWatch {
  readonly #keys: MemoryKeys;
  readonly #connected: () => boolean;
  readonly #onChange: (change: LeaseChange) => void;
  readonly #onEnd: () => void;
  readonly #known = new Map<string, number>();
  readonly #unlisten: () => void;
  #scheduled = false;
  #stopped = false;

  constructor(
    keys: MemoryKeys,
    connected: () => boolean,
    onChange: (change: LeaseChange) => void,
    onEnd: () => void,
  ) {
    this.#keys = keys;
    this.#connected = connected;
    this.#onChange = onChange;
    this.#onEnd = onEnd;
    this.#unlisten = keys.onChange(() => this.schedule());
  }

  schedule(): void {
    if (this.#scheduled || this.#stopped) return;
    this.#scheduled = true;
    setImmediate(() => {
      this.#scheduled = false;
      this.sync();
    });
  }

  /** Tells of what is different from what was told before. */
  sync(): void {
    if (this.#stopped || !this.#connected()) return;
    const { entries, revision: last } = this.#keys;
    for (const key of [...this.#known.keys()]) {
      if (entries.has(key)) continue;
      this.#known.delete(key);
      this.#onChange({ key, value: null, revision: last });
    }
    const changed = [...entries].filter(([key, { revision }]) => this.#known.get(key) !== revision);
    for (const [key, { value, revision }] of changed.toSorted(([, a], [, b]) => a.revision - b.revision)) {
      this.#known.set(key, revision);
      this.#onChange({ key, value, revision });
    }
  }

  stop(): void {
    this.#stopped = true;
    this.#unlisten();
    this.#onEnd();
  }
}
