/**
 * Leases in a key-value bucket of the broker's.
 *
 * Owns: the bucket's watches and kept keys of this connection. Does not own: when a key is renewed (`lease-keeper.ts`).
 *
 * I1 Every write names the revision that it expects, so a late or repeated one does no harm; an unanswered one is
 *    settled by reading the key from the leader.
 * I2 A kept key carries a time to live of its own. The broker tells of its expiry like of a removal, at once; nobody
 *    here looks at a clock to find out that another process is gone.
 * I3 After each reconnect a watch begins anew, and tells of the keys that went away meanwhile.
 */
import { jetstream, type JetStreamClient } from "@nats-io/jetstream";
import { Kvm, type KV, type KvWatchEntry } from "@nats-io/kv";
import type { NatsConnection } from "nats";
import { isMillraceError, MillraceError } from "@millrace/schemas";
import { keepLease, type LeaseKeeper, type LeaseTimers, type LeaseWrites } from "../lease-keeper.ts";
import type { KeepOptions, Lease, LeaseChange, LeaseStore, LeaseWatch } from "../lease-store.ts";
import { toMillraceError } from "./broker-errors.ts";

/** Of one write: well below the shortest renewal interval times the tries that a lease has. */
const writeTimeoutMs = 1_500;
/** How long the broker keeps the mark of a removed or expired key: a watch that was away for longer compares all keys. */
const markerMs = 60_000;

const timers: LeaseTimers = {
  now: () => performance.now(),
  wake(delayMs, callback) {
    const timer = setTimeout(callback, delayMs);
    return () => clearTimeout(timer);
  },
};

export class LeaseBucket implements LeaseStore {
  readonly #name: string;
  readonly #bucket: KV;
  readonly #client: JetStreamClient;
  readonly #linked: () => boolean;
  readonly #keepers = new Set<LeaseKeeper>();
  readonly #watches = new Set<BucketWatch>();
  readonly #writes: LeaseWrites = {
    write: (key, value, expected, leaseMs) => this.#put(key, value, expected, leaseMs),
    remove: (key, expected) => this.remove(key, expected),
  };
  #closed = false;

  private constructor(name: string, bucket: KV, client: JetStreamClient, linked: () => boolean) {
    this.#name = name;
    this.#bucket = bucket;
    this.#client = client;
    this.#linked = linked;
  }

  static async open(
    connection: NatsConnection,
    name: string,
    replicas: number,
    linked: () => boolean,
  ): Promise<LeaseBucket> {
    const client = jetstream(connection);
    try {
      const bucket = await new Kvm(client).create(name, {
        history: 1,
        replicas,
        markerTTL: markerMs,
        // Reads settle unanswered writes, so they must come from the leader.
        allow_direct: false,
      });
      return new LeaseBucket(name, bucket, client, linked);
    } catch (error) {
      throw toMillraceError(error, `Opening the bucket of leases ${name}`);
    }
  }

  async write(key: string, value: string, expected: number): Promise<number> {
    return (await this.#put(key, value, expected, null)).revision;
  }

  async remove(key: string, expected: number): Promise<void> {
    const attempt = `Removing ${key} from ${this.#name}`;
    this.#requireLink(attempt);
    try {
      await this.#bucket.purge(key, { previousSeq: expected, ttl: `${markerMs / 1_000}s` });
    } catch (error) {
      const failure = toMillraceError(error, attempt);
      const found = await this.#bucket.get(key).catch(() => undefined);
      if (found === null || (found !== undefined && found.operation !== "PUT")) return;
      if (found === undefined || found.revision === expected) throw failure;
      throw conflict(attempt, expected, found.revision, error);
    }
  }

  async keep(options: KeepOptions): Promise<Lease> {
    const keeper = await keepLease(this.#writes, timers, options, () => this.#keepers.delete(keeper));
    if (this.#closed) keeper.end(closed(this.#name));
    else this.#keepers.add(keeper);
    return keeper;
  }

  async watch(onChange: (change: LeaseChange) => void): Promise<LeaseWatch> {
    this.#requireLink(`Watching ${this.#name}`);
    const watch = new BucketWatch(this.#bucket, onChange, () => this.#watches.delete(watch));
    this.#watches.add(watch);
    try {
      await watch.begin();
    } catch (error) {
      watch.stop();
      throw toMillraceError(error, `Watching ${this.#name}`);
    }
    return watch;
  }

  /** The connection is back. */
  async reconnected(): Promise<void> {
    await Promise.all([...this.#watches].map((watch) => watch.begin()));
  }

  /** Ends watches and renewals. Kept keys expire. */
  close(): void {
    this.#closed = true;
    for (const watch of [...this.#watches]) watch.stop();
    for (const keeper of [...this.#keepers]) keeper.end(closed(this.#name));
  }

  async #put(
    key: string,
    value: string,
    expected: number,
    leaseMs: number | null,
  ): Promise<{ readonly revision: number; readonly recovered: boolean }> {
    const attempt = `Writing ${key} to ${this.#name}`;
    this.#requireLink(attempt);
    try {
      const { seq } = await this.#client.publish(`$KV.${this.#name}.${key}`, value, {
        expect: { lastSubjectSequence: expected },
        timeout: writeTimeoutMs,
        ...(leaseMs === null ? {} : { ttl: `${leaseMs / 1_000}s` }),
      });
      return { revision: seq, recovered: false };
    } catch (error) {
      const failure = toMillraceError(error, attempt);
      if (!failure.retryable) throw failure;
      const found = await this.#bucket.get(key).catch((readError: unknown) => {
        // Refused or not: whose write stands there is unknown until the broker answers again.
        throw new MillraceError("unavailable", `${attempt} is in doubt: ${String(readError)}. Try again.`, {
          cause: error,
        });
      });
      const there = found !== null && found.operation === "PUT" ? found : null;
      if (there !== null && there.revision > expected && there.string() === value)
        return { revision: there.revision, recovered: true };
      // A mark of removal has a revision too: whoever expects nothing writes over it.
      if (there === null && found !== null && expected === 0 && isMillraceError(failure, "conflict"))
        return await this.#put(key, value, found.revision, leaseMs);
      if ((there?.revision ?? 0) === expected && failure.code !== "conflict") throw failure;
      throw conflict(attempt, expected, there?.revision ?? 0, error);
    }
  }

  #requireLink(attempt: string): void {
    if (this.#closed) throw closed(this.#name);
    if (this.#linked()) return;
    // The library would keep the write and send it, late, after a reconnect.
    throw new MillraceError("unavailable", `${attempt} failed: the broker is not reachable. Try again.`);
  }
}

class BucketWatch implements LeaseWatch {
  readonly #bucket: KV;
  readonly #onChange: (change: LeaseChange) => void;
  readonly #onEnd: () => void;
  /** Last revision of every key that is there. */
  readonly #known = new Map<string, number>();
  #entries: { stop(): void } | null = null;
  #stopped = false;

  constructor(bucket: KV, onChange: (change: LeaseChange) => void, onEnd: () => void) {
    this.#bucket = bucket;
    this.#onChange = onChange;
    this.#onEnd = onEnd;
  }

  /** Resolves when the state of all keys was told. */
  async begin(): Promise<void> {
    if (this.#stopped) return;
    this.#entries?.stop();
    const entries = await this.#bucket.watch();
    this.#entries = entries;
    if (this.#isStopped()) return entries.stop();
    const found = new Set<string>();
    const empty = (await this.#bucket.status()).values === 0;
    await new Promise<void>((resolve) => {
      const follow = async (): Promise<void> => {
        let complete = empty;
        if (complete) this.#forgetAllBut(found);
        if (complete) resolve();
        for await (const entry of entries) {
          if (this.#entries !== entries) return;
          this.#take(entry);
          if (complete) continue;
          found.add(entry.key);
          if (entry.delta !== 0) continue;
          complete = true;
          this.#forgetAllBut(found);
          resolve();
        }
      };
      // A watch that ends with its connection is begun anew after the reconnect.
      void follow().then(resolve, () => resolve());
    });
  }

  stop(): void {
    this.#stopped = true;
    this.#entries?.stop();
    this.#entries = null;
    this.#onEnd();
  }

  #take(entry: KvWatchEntry): void {
    const { key, revision } = entry;
    const known = this.#known.get(key);
    if (entry.operation === "PUT") {
      if (known !== undefined && known >= revision) return;
      this.#known.set(key, revision);
      this.#onChange({ key, value: entry.string(), revision });
      return;
    }
    if (!this.#known.delete(key)) return;
    this.#onChange({ key, value: null, revision });
  }

  #forgetAllBut(found: ReadonlySet<string>): void {
    for (const [key, revision] of [...this.#known]) {
      if (found.has(key)) continue;
      this.#known.delete(key);
      this.#onChange({ key, value: null, revision });
    }
  }

  #isStopped(): boolean {
    return this.#stopped;
  }
}

function conflict(attempt: string, expected: number, actual: number, cause: unknown): MillraceError {
  return new MillraceError(
    "conflict",
    `${attempt} refused: expected revision ${expected}, it has ${actual}. Read it and decide again.`,
    { cause, details: { expected, actual } },
  );
}

function closed(name: string): MillraceError {
  return new MillraceError("unavailable", `The bucket of leases ${name} was closed. Open the log again.`, {
    retryable: false,
  });
}
