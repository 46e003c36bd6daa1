/**
 * The port to the leases of a namespace: small values under keys, written by compare-and-set, seen by everybody at
 * once. Two adapters, as for the log; both pass `conformance/describe-lease-store.ts`.
 *
 * K1 A write with an expectation succeeds only on the revision that it expects.
 * K2 A kept key vanishes when its process stops renewing it, and not before its last renewal is `leaseMs` old.
 * K3 Whoever kept a key is told that it lost it before others can see that it is gone, unless its event loop stands
 *    still: then as soon as that goes on.
 * K4 A watcher sees the latest state of every key, removals and expiries included, also over a reconnect; what was
 *    overwritten in between may be left out.
 */

export interface LeaseChange {
  readonly key: string;
  /** Null: the key was removed, or it expired. */
  readonly value: string | null;
  /** Of this change: greater than that of every earlier one. For a key found missing after a reconnect, its last known. */
  readonly revision: number;
}

export interface KeepOptions {
  readonly key: string;
  readonly value: string;
  /** Whole seconds, at least {@link leaseMsMin}. */
  readonly leaseMs: number;
  /** Called at most once, not after `release`: the key could not be renewed in time, or somebody removed it. */
  readonly onLost: (reason: Error) => void;
}

/** A key that this process keeps alive. */
export interface Lease {
  /** Of the last write that is known to be stored. */
  readonly revision: number;
  /** Another value from now on. Resolves when it is stored; rejects when the lease is lost or released first. */
  update(value: string): Promise<void>;
  /** Ends the renewals and removes the key. Resolves also when the broker cannot be told: the key then expires. */
  release(): Promise<void>;
}

export interface LeaseWatch {
  stop(): void;
}

export interface LeaseStore {
  /**
   * Writes a key that stays. `expected` is its present revision, 0 when there is none. Gives the new revision; the same
   * value found there after a lost answer counts as written. Rejects with `conflict` or `unavailable`.
   */
  write(key: string, value: string, expected: number): Promise<number>;
  /** Removes a key at a revision; a key that is gone already counts as removed. Rejects with `conflict` or `unavailable`. */
  remove(key: string, expected: number): Promise<void>;
  /** Makes a key and keeps it alive. Rejects with `conflict` when it is there, `invalid_request`, `unavailable`. */
  keep(options: KeepOptions): Promise<Lease>;
  /**
   * Calls back with every key that there is, then resolves; from there on with every change, in order of revision.
   */
  watch(onChange: (change: LeaseChange) => void): Promise<LeaseWatch>;
}

/** The broker counts in seconds; below two of them a garbage collection could cost a lease. */
export const leaseMsMin = 2_000;
