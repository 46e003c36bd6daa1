/**
 * The writing side of one projection file.
 *
 * Owns: the writer's handle, the batch in hand, the cache of folded runs. Does not own: the event log, when to flush.
 *
 * I1 `checkpoint` is what the file has; the batch in hand goes beyond it.
 * I2 A failed flush closes the writer: what is in memory is ahead of the file. Open a new one.
 */
import type { Checkpoint } from "@millrace/event-log";
import type { Database } from "better-sqlite3";
import {
  FoldBatch,
  type FoldableCommit,
  type PoisonPolicy,
  type QuarantineEntry,
} from "./core/fold-batch.ts";
import { RunCache } from "./core/run-cache.ts";
import { createBatchWriter } from "./sqlite/batch-writer.ts";
import { prepareCheckpoint } from "./sqlite/projection-file.ts";
import { sqliteError } from "./sqlite/sqlite-error.ts";

/** Bodies of one transaction: bounds memory when commits are large. */
const batchBytesMax = 8 * 1024 * 1024;
/** The runs of a few thousand workers, and no more memory than the page cache has. */
const cacheLimits = { runsMax: 20_000, bytesMax: 64 * 1024 * 1024 };

export interface ProjectionWriterOptions {
  /** Read-write, with the current tables; closed by {@link ProjectionWriter.close}. */
  readonly database: Database;
  /** Commits of one transaction. */
  readonly batchMax: number;
  readonly poison: PoisonPolicy;
}

export interface Flushed {
  readonly sequence: number;
  readonly quarantined: readonly QuarantineEntry[];
}

export class ProjectionWriter {
  readonly #database: Database;
  readonly #batchMax: number;
  readonly #poison: PoisonPolicy;
  readonly #cache = new RunCache(cacheLimits);
  readonly #tables: ReturnType<typeof createBatchWriter>;
  #checkpoint: Checkpoint;
  #batch: FoldBatch;

  constructor({ database, batchMax, poison }: ProjectionWriterOptions) {
    this.#database = database;
    this.#batchMax = batchMax;
    this.#poison = poison;
    this.#tables = createBatchWriter(database);
    this.#checkpoint = prepareCheckpoint(database)();
    this.#batch = this.#newBatch();
  }

  /** What the file has. */
  get checkpoint(): Checkpoint {
    return this.#checkpoint;
  }
  /** Commits taken in and not yet stored. */
  get pending(): number {
    return this.#batch.count;
  }
  /** The batch in hand has reached its limit: flush now. */
  get full(): boolean {
    return this.#batch.count >= this.#batchMax || this.#batch.bytes >= batchBytesMax;
  }

  /** Folds one commit in. One that the file has already is ignored. */
  add(commit: FoldableCommit): void {
    this.#batch.add(commit);
  }

  /** Stores the batch in hand; null when there is nothing to store. */
  flush(): Flushed | null {
    const batch = this.#batch;
    const { last, quarantined } = batch;
    if (last === null) return null;
    try {
      this.#tables.write(batch, this.#checkpoint.sequence);
    } catch (error) {
      this.close();
      throw sqliteError(error, `Writing sequences up to ${last.sequence} to ${this.#database.name}`);
    }
    this.#checkpoint = { ...last, streamCreated: this.#checkpoint.streamCreated };
    this.#cache.settle(batch.runs);
    this.#batch = this.#newBatch();
    return { sequence: last.sequence, quarantined };
  }

  /** Forgets the batch in hand and closes the handle. Idempotent. */
  close(): void {
    this.#database.close();
  }

  #newBatch(): FoldBatch {
    return new FoldBatch({
      position: this.#checkpoint.sequence,
      cache: this.#cache,
      find: (workflowId) => this.#tables.find(workflowId),
      findSchedule: (id) => this.#tables.findSchedule(id),
      poison: this.#poison,
    });
  }
}
