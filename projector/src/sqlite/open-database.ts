import { existsSync } from "node:fs";
import { dirname } from "node:path";
import { MillraceError } from "@millrace/schemas";
import BetterSqlite3, { type Database, type Options } from "better-sqlite3";
import { sqliteError } from "./sqlite-error.ts";

// 8 KiB pages hold more rows per write; a WAL of 2,000 of them (16 MiB) is folded back by the writer itself.
const pageBytes = 8_192;
const walPages = 2_000;
const shared = ["cache_size = -65536", "mmap_size = 268435456", "temp_store = memory", "busy_timeout = 5000"];

/** The projector's own handle. The checkpoint travels with the rows, so a tail lost to a power cut is replayed. */
export function openForWriting(path: string): Database {
  return open(path, {}, [
    "journal_mode = wal",
    "synchronous = normal",
    `wal_autocheckpoint = ${walPages}`,
    "journal_size_limit = 67108864",
    ...shared,
  ]);
}

/** A handle for queries; the file must be there. */
export function openForReading(path: string): Database {
  return open(path, { readonly: true, fileMustExist: true }, shared);
}

/** A file that nobody else sees until it is finished: no journal, no flush. A failure leaves rubbish to delete. */
export function openForBuilding(path: string): Database {
  return open(path, {}, [
    `page_size = ${pageBytes}`,
    "journal_mode = off",
    "synchronous = off",
    "locking_mode = exclusive",
    ...shared,
  ]);
}

function open(path: string, options: Options, pragmas: readonly string[]): Database {
  if (!existsSync(dirname(path))) {
    throw new MillraceError(
      "data_folder_not_writable",
      `Opening the projection ${path} failed: its folder does not exist. Create the folder first.`,
    );
  }
  let database: Database | null = null;
  try {
    database = new BetterSqlite3(path, options);
    for (const pragma of pragmas) database.pragma(pragma);
    return database;
  } catch (error) {
    database?.close();
    throw sqliteError(error, `Opening the projection ${path}`);
  }
}
