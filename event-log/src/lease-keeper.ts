/**
 * Keeps one key alive: renews it well before it expires, and says so when it did not succeed in time.
 *
 * Owns: the chain of writes to the key, when they are made. Does not own: how a write is made (the adapters).
 *
 * I1 One write at a time, each on the revision of the one before it.
 * I2 The lease counts from when its last write was sent, so that it ends here before it ends in the broker.
 * I3 After `onLost` or `release` nothing is written any more.
 *
 * Tested by `lease-keeper.test.ts` and the conformance suite.
 */
import { isMillraceError, MillraceError } from "@millrace/schemas";
import { leaseMsMin, type KeepOptions, type Lease } from "./lease-store.ts";

export interface LeaseWrites {
  /** Writes the key so that it expires after `leaseMs`. `recovered`: it was stored by an earlier, unanswered write. */
  write(
    key: string,
    value: string,
    expected: number,
    leaseMs: number,
  ): Promise<{ readonly revision: number; readonly recovered: boolean }>;
  remove(key: string, expected: number): Promise<void>;
}

export interface LeaseTimers {
  /** Milliseconds that only grow, whatever is done to the machine's clock. */
  now(): number;
  wake(delayMs: number, callback: () => void): () => void;
}

/** Three tries within a lease. */
const renewShare = 0.3;
/** After a try that was not answered. */
const retryShare = 0.05;
/** The broker's clock and ours need not run at the same speed. */
const marginShare = 0.05;

export async function keepLease(
  writes: LeaseWrites,
  timers: LeaseTimers,
  options: KeepOptions,
  onEnd: () => void,
): Promise<LeaseKeeper> {
  const { leaseMs, key } = options;
  if (!Number.isSafeInteger(leaseMs / 1_000) || leaseMs < leaseMsMin) {
    throw new MillraceError(
      "invalid_request",
      `A lease of ${leaseMs} ms on ${key} refused: it must be whole seconds, ${leaseMsMin} ms at least. Give e.g. 10000.`,
      { details: { limit: leaseMsMin, actual: leaseMs } },
    );
  }
  const sentAt = timers.now();
  const { revision, recovered } = await writes.write(key, options.value, 0, leaseMs);
  const keeper = new LeaseKeeper(writes, timers, options, revision, sentAt, onEnd);
  // It counts from an earlier try.
  if (recovered) keeper.renew();
  return keeper;
}

interface Update {
  readonly version: number;
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;
}

export class LeaseKeeper implements Lease {
  readonly #writes: LeaseWrites;
  readonly #timers: LeaseTimers;
  readonly #options: KeepOptions;
  readonly #onEnd: () => void;
  #revision: number;
  #value: string;
  #version = 0;
  #updates: Update[] = [];
  #writing: Promise<void> | null = null;
  #ended = false;
  #cancelRenewal: () => void = () => undefined;
  #cancelLapse: () => void = () => undefined;

  constructor(
    writes: LeaseWrites,
    timers: LeaseTimers,
    options: KeepOptions,
    revision: number,
    sentAt: number,
    onEnd: () => void,
  ) {
    this.#writes = writes;
    this.#timers = timers;
    this.#options = options;
    this.#revision = revision;
    this.#value = options.value;
    this.#onEnd = onEnd;
    this.#holdUntil(sentAt + options.leaseMs * (1 - marginShare));
    this.#renewIn(options.leaseMs * renewShare);
  }

  get revision(): number {
    return this.#revision;
  }

  update(value: string): Promise<void> {
    const { key } = this.#options;
    if (this.#ended) return Promise.reject(ended(key));
    this.#value = value;
    const version = ++this.#version;
    return new Promise((resolve, reject) => {
      this.#updates.push({ version, resolve, reject });
      this.renew();
    });
  }

  async release(): Promise<void> {
    if (this.#ended) return;
    this.end(ended(this.#options.key));
    await this.#writing;
    await this.#writes.remove(this.#options.key, this.#revision).catch(leftToExpire);
  }

  /** Ends the renewals and leaves the key to expire. */
  end(reason: Error): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#cancelRenewal();
    this.#cancelLapse();
    for (const { reject } of this.#updates.splice(0)) reject(reason);
    this.#onEnd();
  }

  #lose(reason: Error): void {
    if (this.#ended) return;
    this.end(reason);
    this.#options.onLost(reason);
    // Ours or not is decided by the revision; when it is still there, others need not wait for it to expire.
    void this.#writes.remove(this.#options.key, this.#revision).catch(leftToExpire);
  }

  /** Writes the key now. */
  renew(): void {
    this.#cancelRenewal();
    if (this.#ended || this.#writing !== null) return;
    this.#writing = this.#write().finally(() => {
      this.#writing = null;
      // An update came while the write before it was under way.
      if (this.#updates.length > 0 && !this.#ended) this.renew();
    });
  }

  async #write(): Promise<void> {
    const { key, leaseMs } = this.#options;
    const version = this.#version;
    const sentAt = this.#timers.now();
    try {
      const { revision, recovered } = await this.#writes.write(key, this.#value, this.#revision, leaseMs);
      this.#revision = revision;
      if (this.#ended) return;
      // What was recovered counts from a write that is longer ago: it is written again.
      if (!recovered) this.#holdUntil(sentAt + leaseMs * (1 - marginShare));
      this.#renewIn(recovered ? 0 : leaseMs * renewShare);
      const stored = this.#updates.filter((update) => update.version <= version);
      this.#updates = this.#updates.filter((update) => update.version > version);
      for (const { resolve } of stored) resolve();
    } catch (error) {
      if (this.#ended) return;
      if (isMillraceError(error) && error.retryable && error.code !== "conflict") {
        await new Promise<void>((resolve) => {
          const cancel = this.#timers.wake(leaseMs * retryShare, resolve);
          this.#cancelRenewal = () => {
            cancel();
            resolve();
          };
        });
        this.#renewIn(0);
        return;
      }
      this.#lose(
        new MillraceError(
          "conflict",
          `The lease on ${key} is lost: ${error instanceof Error ? error.message : String(error)}`,
          { cause: error },
        ),
      );
    }
  }

  #renewIn(delayMs: number): void {
    if (this.#ended) return;
    this.#cancelRenewal = this.#timers.wake(delayMs, () => this.renew());
  }

  #holdUntil(at: number): void {
    const { key, leaseMs } = this.#options;
    this.#cancelLapse();
    this.#cancelLapse = this.#timers.wake(Math.max(0, at - this.#timers.now()), () => {
      this.#lose(
        new MillraceError(
          "unavailable",
          `The lease on ${key} lapsed: it could not be renewed within ${leaseMs} ms. The broker was away, or this process stood still.`,
          { details: { leaseMs } },
        ),
      );
    });
  }
}

/** Gone, another's by now, or out of reach: then it expires by itself. */
function leftToExpire(): void {
  // Nothing is left to do.
}

function ended(key: string): MillraceError {
  return new MillraceError("unavailable", `The lease on ${key} was given back.`, { retryable: false });
}
