/** Building a projection from the log's first commit: as a file of its own, or to prove that a live one is right. */
import { existsSync } from "node:fs";
import type { EventLog, StoredCommit } from "@millrace/event-log";
import { MillraceError } from "@millrace/schemas";
import type { PoisonPolicy } from "./core/fold-batch.ts";
import { ProjectionWriter } from "./projection-writer.ts";
import { createIndexes, createTables } from "./sqlite/create-tables.ts";
import { hashProjection, type ProjectionHash } from "./sqlite/hash-projection.ts";
import { openForBuilding } from "./sqlite/open-database.ts";
import {
  finishProjectionFile,
  publishProjectionFile,
  removeProjectionFile,
} from "./sqlite/projection-file.ts";

/** Large, since nobody waits for a row: a run's commits are then mostly written as one row. */
const batchMax = 5_000;

export interface RebuildOptions {
  readonly log: EventLog;
  /** The file to make; must not exist. */
  readonly path: string;
  /** Last sequence to fold in. Default: the log's end, as it is now. */
  readonly upTo?: number;
  /**
   * What to do about a commit that cannot be read. Default `stop`: reject with its error and leave no file.
   * `quarantine`: do as a live projector does.
   */
  readonly poison?: PoisonPolicy;
  /** Called after each transaction. */
  readonly onProgress?: (sequence: number, upTo: number) => void;
}

/**
 * Folds the log into a new file and gives its hash. The file appears at `path` when it is whole.
 * Rejects with `invalid_request` (the path is taken), `cursor_future` (`upTo` lies beyond the log's end),
 * `commit_malformed` or `event_type_unknown` (see `poison`), `unavailable`.
 */
export async function rebuildProjection(options: RebuildOptions): Promise<ProjectionHash> {
  const { log, path } = options;
  if (existsSync(path)) {
    throw new MillraceError(
      "invalid_request",
      `Rebuild to ${path} refused: the file exists. Choose a new path.`,
    );
  }
  const { created, lastSequence } = await log.info();
  const upTo = options.upTo ?? lastSequence;
  if (upTo > lastSequence) {
    throw new MillraceError(
      "cursor_future",
      `Rebuild up to ${upTo} refused: the log ends at ${lastSequence}. Choose a sequence of this log.`,
      { details: { expected: upTo, actual: lastSequence } },
    );
  }
  const draft = `${path}.rebuild`;
  removeProjectionFile(draft);
  const database = openForBuilding(draft);
  try {
    createTables(database, created);
    const writer = new ProjectionWriter({ database, batchMax, poison: options.poison ?? "stop" });
    await foldUpTo(log, writer, upTo, options.onProgress);
    createIndexes(database);
    database.close();
    finishProjectionFile(draft);
    publishProjectionFile(draft, path);
  } catch (error) {
    database.close();
    removeProjectionFile(draft);
    throw error;
  }
  return hashProjection(path);
}

export interface Verification {
  /** True when the live file holds exactly what the log says. */
  readonly equal: boolean;
  readonly live: ProjectionHash;
  readonly rebuilt: ProjectionHash;
  /** Tables that differ. */
  readonly differing: readonly string[];
}

/**
 * Rebuilds up to a live file's checkpoint beside it and compares the two; the live projector may go on meanwhile.
 * Poisoned commits are quarantined as the live projector does. Leaves no file behind.
 */
export async function verifyProjection(options: {
  readonly log: EventLog;
  readonly path: string;
  readonly onProgress?: (sequence: number, upTo: number) => void;
}): Promise<Verification> {
  const { log, path, ...rest } = options;
  const live = hashProjection(path);
  const copy = `${path}.verify-${process.pid}`;
  removeProjectionFile(copy);
  try {
    const rebuilt = await rebuildProjection({
      log,
      path: copy,
      upTo: live.sequence,
      poison: "quarantine",
      ...rest,
    });
    const names = Object.keys(live.tables) as (keyof typeof live.tables)[];
    const differing = names.filter((name) => live.tables[name].hash !== rebuilt.tables[name].hash);
    return { equal: live.hash === rebuilt.hash, live, rebuilt, differing };
  } finally {
    removeProjectionFile(copy);
  }
}

async function foldUpTo(
  log: EventLog,
  writer: ProjectionWriter,
  upTo: number,
  onProgress: RebuildOptions["onProgress"],
): Promise<void> {
  if (upTo === 0) return;
  const flush = () => {
    const flushed = writer.flush();
    if (flushed !== null) onProgress?.(flushed.sequence, upTo);
  };
  let finish: () => void = () => undefined;
  let fail: (error: Error) => void = () => undefined;
  const finished = new Promise<void>((resolve, reject) => {
    finish = resolve;
    fail = reject;
  });
  let done = false;
  const take = (commit: StoredCommit, pending: number) => {
    if (done) return;
    if (commit.sequence <= upTo) writer.add(commit);
    // A purged last commit leaves `upTo` without one: then the log's end says that we have all.
    done = commit.sequence >= upTo || pending === 0;
    if (writer.full || done) flush();
    if (done) finish();
  };
  const following = log.follow({
    after: 0,
    onCommit: take,
    onStatus: (status, error) => {
      if (status === "live" || status === "interrupted") return;
      fail(
        error ??
          new MillraceError(
            "log_recreated",
            `The log changed under the rebuild (${status}). Start it again.`,
          ),
      );
    },
  });
  try {
    await Promise.all([following, finished]);
  } finally {
    await (await following).stop();
  }
}
