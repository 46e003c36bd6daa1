/**
 * Snapshots on their way to clients: rows of one moment, read as fast as each client takes them.
 *
 * Owns: how many are open, who waits for one, how long one may take. Does not own: the rows, what is sent when.
 *
 * N1 Rows and sequence are of one read transaction: the subscription goes on from that sequence, without hole or repeat.
 * N2 A client costs one page, whatever the list's length.
 * N3 A read transaction ends: while one is open the projection's write-ahead log can only grow. A client that takes
 *    its rows too slowly is told so, and more than `snapshotsMax` at once wait in line.
 *
 * Tested by `snapshots.sqlite.test.ts`.
 */
import type { Projection, ProjectionSnapshot } from "@millrace/projector";
import { MillraceError, type Filter } from "@millrace/schemas";
import type { KnownLog } from "./known-log.ts";

export interface SnapshotLimits {
  /** Snapshots that are read at the same time; others wait in line. */
  readonly snapshotsMax: number;
  /** Those that may wait; one more is refused with `overloaded`. */
  readonly snapshotsWaitingMax: number;
  /** How long one may take, in milliseconds; then it is given up with `timeout`. */
  readonly snapshotMs: number;
}

export interface SnapshotPage {
  /** Rows as JSON texts. */
  readonly rows: readonly string[];
  readonly more: boolean;
}

export class Snapshot {
  readonly sequence: number;
  readonly #rows: ProjectionSnapshot;
  readonly #release: () => void;
  readonly #endsAt: number;
  /** Read, and too large for the page before. Null: there is no row left. */
  #next: string | null;
  #released = false;

  constructor(rows: ProjectionSnapshot, endsAt: number, release: () => void) {
    this.sequence = rows.checkpoint.sequence;
    this.#rows = rows;
    this.#endsAt = endsAt;
    this.#release = release;
    this.#next = this.#read();
  }

  /** Nothing is left. */
  get done(): boolean {
    return this.#next === null;
  }

  /** Bytes held here. */
  get bytes(): number {
    return this.#next?.length ?? 0;
  }

  late(now: number): boolean {
    return now >= this.#endsAt;
  }

  /** At least one row, and about `bytesMax` of them. */
  page(bytesMax: number): SnapshotPage {
    const rows: string[] = [];
    for (let bytes = 0; this.#next !== null; this.#next = this.#read()) {
      bytes += this.#next.length;
      if (rows.length > 0 && bytes > bytesMax) break;
      rows.push(this.#next);
    }
    return { rows, more: this.#next !== null };
  }

  /** Idempotent. */
  close(): void {
    this.#next = null;
    if (this.#released) return;
    this.#released = true;
    this.#rows.close();
    this.#release();
  }

  #read(): string | null {
    const row = this.#rows.next();
    if (row !== null) return JSON.stringify(row);
    // The transaction has ended; the place is free for the next in line.
    if (!this.#released) {
      this.#released = true;
      this.#release();
    }
    return null;
  }
}

interface Waiter {
  readonly filter: Filter;
  readonly wanted: () => boolean;
  readonly resolve: (snapshot: Snapshot | null) => void;
  readonly reject: (error: unknown) => void;
}

export class Snapshots {
  readonly #projection: Projection;
  readonly #known: KnownLog;
  readonly #limits: SnapshotLimits;
  readonly #open = new Set<Snapshot>();
  #places = 0;
  #waiting: Waiter[] = [];

  constructor(projection: Projection, known: KnownLog, limits: SnapshotLimits) {
    this.#projection = projection;
    this.#known = known;
    this.#limits = limits;
  }

  /** Read now, and in line. */
  get count(): number {
    return this.#places + this.#waiting.length;
  }

  get bytes(): number {
    let bytes = 0;
    for (const snapshot of this.#open) bytes += snapshot.bytes;
    return bytes;
  }

  /**
   * Opens one, when it is its turn; the caller closes it. Null when it is no longer `wanted` by then. `overloaded` when
   * the line is full, `checkpoint_mismatch` when the projection is of another log.
   */
  open(filter: Filter, wanted: () => boolean): Promise<Snapshot | null> {
    const { snapshotsMax, snapshotsWaitingMax } = this.#limits;
    if (this.#places < snapshotsMax) return Promise.resolve().then(() => this.#begin(filter));
    this.#waiting = this.#waiting.filter((each) => each.wanted());
    if (this.#waiting.length >= snapshotsWaitingMax) {
      return Promise.reject(
        new MillraceError(
          "overloaded",
          `Snapshot refused: ${this.#places} are being read and ${this.#waiting.length} wait, the limit is ${snapshotsWaitingMax}. Try again later.`,
          { details: { limit: snapshotsWaitingMax, actual: this.#waiting.length } },
        ),
      );
    }
    return new Promise((resolve, reject) => this.#waiting.push({ filter, wanted, resolve, reject }));
  }

  #begin(filter: Filter): Snapshot {
    this.#places++;
    let rows: ProjectionSnapshot | null = null;
    try {
      rows = this.#projection.openSnapshot(filter);
      const { sequence, streamCreated } = rows.checkpoint;
      const { created } = this.#known.info;
      if (sequence > 0 && streamCreated !== created) {
        throw new MillraceError(
          "checkpoint_mismatch",
          `Snapshot refused: the projection is of another log (created ${streamCreated}, expected ${created}). Try again when the projector has built it anew.`,
          { retryable: true },
        );
      }
      let snapshot: Snapshot | null = null;
      snapshot = new Snapshot(rows, Date.now() + this.#limits.snapshotMs, () => {
        if (snapshot !== null) this.#open.delete(snapshot);
        this.#leave();
      });
      if (!snapshot.done) this.#open.add(snapshot);
      return snapshot;
    } catch (error) {
      rows?.close();
      this.#leave();
      throw error;
    }
  }

  #leave(): void {
    this.#places--;
    // Not in the turn of whoever leaves: it may be in the middle of sending.
    setImmediate(() => this.#admit());
  }

  #admit(): void {
    while (this.#places < this.#limits.snapshotsMax) {
      const next = this.#waiting.shift();
      if (next === undefined) return;
      if (!next.wanted()) {
        next.resolve(null);
        continue;
      }
      try {
        next.resolve(this.#begin(next.filter));
      } catch (error) {
        next.reject(error);
      }
    }
  }
}
