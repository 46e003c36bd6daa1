import { statSync } from "node:fs";
import type { Checkpoint } from "@millrace/event-log";
import type { Database } from "better-sqlite3";
import { openForReading } from "./open-database.ts";
import { PreparedQueries } from "./prepared-queries.ts";
import { hasCurrentSchema, prepareCheckpoint } from "./projection-file.ts";
import { createRunReader, type RunReader } from "./run-reader.ts";
import { sqliteError } from "./sqlite-error.ts";

/** One open file, as queries see it. */
export interface ProjectionFile {
  readonly queries: PreparedQueries;
  readonly runs: RunReader;
  readonly checkpoint: () => Checkpoint;
}

interface OpenFile extends ProjectionFile {
  readonly database: Database;
  readonly transaction: <T>(read: () => T) => T;
}

/**
 * A read-only handle on whatever file is at a path now. The path is looked at before each read (2 µs): a rebuilt
 * projection is another file under the same name, and the open handle would go on reading the old one.
 */
export class ReadHandle {
  readonly #path: string;
  /** Device and inode of the file looked at last. */
  #identity: string | null = null;
  /** Null when there is no file, or it has tables of another version and will be replaced. */
  #file: OpenFile | null = null;
  #closed = false;

  constructor(path: string) {
    this.#path = path;
  }

  /** Runs a query in one read transaction: all that it reads is of one moment. `empty` when there is no projection. */
  read<T>(query: (file: ProjectionFile) => T, empty: T): T {
    const file = this.#current();
    if (file === null) return empty;
    try {
      return file.transaction(() => query(file));
    } catch (error) {
      throw sqliteError(error, `Reading the projection ${this.#path}`);
    }
  }

  close(): void {
    this.#closed = true;
    this.#release();
  }

  #current(): OpenFile | null {
    if (this.#closed) throw new Error(`The projection ${this.#path} was closed.`);
    const stat = statSync(this.#path, { throwIfNoEntry: false });
    const identity = stat === undefined ? null : `${stat.dev}:${stat.ino}`;
    if (identity === this.#identity) return this.#file;
    this.#release();
    if (identity !== null) this.#file = openFile(this.#path);
    this.#identity = identity;
    return this.#file;
  }

  #release(): void {
    this.#file?.database.close();
    this.#file = null;
    this.#identity = null;
  }
}

/** A handle that stays in one read transaction. Null when there is no projection, or one with other tables. */
export function openSnapshotFile(path: string): (ProjectionFile & { readonly close: () => void }) | null {
  if (statSync(path, { throwIfNoEntry: false }) === undefined) return null;
  const file = openFile(path);
  if (file === null) return null;
  const { database, queries, runs, checkpoint } = file;
  try {
    // There may be several beside each other, and each reads a page once: the usual cache would be memory for nothing.
    database.pragma("cache_size = -1024");
    database.exec("begin");
  } catch (error) {
    database.close();
    throw error;
  }
  return { queries, runs, checkpoint, close: () => void database.close() };
}

function openFile(path: string): OpenFile | null {
  const database = openForReading(path);
  try {
    if (!hasCurrentSchema(database)) {
      database.close();
      return null;
    }
    const run = database.transaction((read: () => unknown) => read());
    return {
      database,
      queries: new PreparedQueries(database),
      runs: createRunReader(database),
      checkpoint: prepareCheckpoint(database),
      transaction: <T>(read: () => T) => run.deferred(read) as T,
    };
  } catch (error) {
    database.close();
    throw error;
  }
}
