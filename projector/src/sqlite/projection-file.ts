import { closeSync, existsSync, fsyncSync, openSync, renameSync, rmSync } from "node:fs";
import { parse, join } from "node:path";
import type { Checkpoint } from "@millrace/event-log";
import type { Database } from "better-sqlite3";
import { buildQuery } from "./build-query.ts";
import { createIndexes, createTables } from "./create-tables.ts";
import { openForBuilding, openForWriting } from "./open-database.ts";
import { schemaVersion } from "./tables.ts";

/** SQLite's files beside a database. */
const companions = ["-wal", "-shm"];

/** Makes an empty projection at `path`. Readers see it whole or not at all. */
export function createProjectionFile(path: string, streamCreated: string): void {
  const draft = `${path}.new`;
  removeProjectionFile(draft);
  const database = openForBuilding(draft);
  try {
    createTables(database, streamCreated);
    createIndexes(database);
  } finally {
    database.close();
  }
  finishProjectionFile(draft);
  publishProjectionFile(draft, path);
}

/** Makes a file that was built without journal and flush fit for use: WAL from now on, and on disk. */
export function finishProjectionFile(path: string): void {
  openForWriting(path).close();
  const file = openSync(path, "r");
  try {
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
}

/** Puts a finished file in the place of `path`, which must be free. */
export function publishProjectionFile(draft: string, path: string): void {
  // A WAL without its database, left by a crash in the midst of moving aside, must not be taken for the new one's.
  removeCompanions(path);
  renameSync(draft, path);
}

/**
 * Renames a projection to `<name>-<label>.sqlite`, so that nothing is lost and nobody takes it for a current one.
 * Readers that have it open keep reading it until they look at the path again. Returns the new path.
 */
export function moveProjectionAside(path: string, label: string): string {
  const { dir, name, ext } = parse(path);
  const target = (n: number) => join(dir, `${name}-${label}${n === 1 ? "" : `-${n}`}${ext}`);
  let n = 1;
  while (existsSync(target(n))) n++;
  renameSync(path, target(n));
  for (const companion of companions) {
    if (existsSync(path + companion)) renameSync(path + companion, target(n) + companion);
  }
  return target(n);
}

export function removeProjectionFile(path: string): void {
  rmSync(path, { force: true });
  removeCompanions(path);
}

/** Version of the tables in a file; 0 when they are not ours. */
export function schemaVersionOf(database: Database): number {
  return Number(database.pragma("user_version", { simple: true }));
}

export function hasCurrentSchema(database: Database): boolean {
  return schemaVersionOf(database) === schemaVersion;
}

const checkpointQuery = buildQuery
  .selectFrom("checkpoint")
  .select(["sequence", "commit_id as commitId", "stream_created as streamCreated"])
  .compile().sql;

/** Prepares the read of the checkpoint. */
export function prepareCheckpoint(database: Database): () => Checkpoint {
  const statement = database.prepare<[], Checkpoint>(checkpointQuery);
  return () => {
    const checkpoint = statement.get();
    if (checkpoint === undefined) throw new Error(`${database.name} has no checkpoint row.`);
    return checkpoint;
  };
}

function removeCompanions(path: string): void {
  for (const companion of companions) rmSync(path + companion, { force: true });
}
