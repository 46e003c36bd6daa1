/**
 * Keeps one SQLite file in step with the event log.
 *
 * Owns: the file at `path` (nobody else writes it), the follower, when to flush.
 * Does not own: the log, how a commit changes a run (`core/`), how rows look (`sqlite/`).
 *
 * I1 Rows, history and checkpoint are those of one sequence at every moment: a crash anywhere loses no commit and
 *    counts none twice.
 * I2 A file that belongs to another log is never written to and never served: it is put aside, and the log is folded
 *    from its first commit again.
 * I3 `onAdvance` and the hint to other processes come after the transaction, with a sequence that can be read.
 * I4 After `failed` or `stopped` there is no further write.
 *
 * Tested by `projector.sqlite.test.ts`, `projector.prop.test.ts`, `crash-points.sqlite.test.ts` and, with `kill -9`
 * over a real broker, `projector.nats.test.ts`.
 */
import { existsSync } from "node:fs";
import type { EventLog, Follower, FollowStatus, StoredCommit } from "@millrace/event-log";
import { isMillraceError, MillraceError } from "@millrace/schemas";
import { silentLogger, type ProjectorLogger } from "./logger.ts";
import { ProjectionWriter } from "./projection-writer.ts";
import { openForWriting } from "./sqlite/open-database.ts";
import { createProjectionFile, moveProjectionAside, schemaVersionOf } from "./sqlite/projection-file.ts";
import { schemaVersion } from "./sqlite/tables.ts";

/** Topic of the hint by which other processes learn that the file has advanced. */
export const projectorTopic = "projector";

/** A batch that is not full is stored after this long at the latest, when more was announced and does not come. */
const batchAgeMaxMs = 20;
const defaultBatchMax = 1_000;

/**
 * `catching-up`: behind the log, folding. `rebuilding`: the same, from the log's first commit, since the file had to
 * be put aside. `live`: everything that the broker had is in the file. `interrupted`: the broker is away. Final:
 * `failed`, `stopped`.
 */
export type ProjectorStatus = "catching-up" | "rebuilding" | "live" | "interrupted" | "failed" | "stopped";

export interface ProjectorOptions {
  readonly log: EventLog;
  /** The SQLite file; created when missing, its folder must exist. */
  readonly path: string;
  /** Commits of one transaction. Default 1,000. */
  readonly batchMax?: number;
  /** Called after each transaction with the sequence that the file now has. Must not throw. */
  readonly onAdvance?: (sequence: number) => void;
  /** `error` comes with `failed`, and with `rebuilding` as the reason. Must not throw. */
  readonly onStatus?: (status: ProjectorStatus, error?: Error) => void;
  readonly logger?: ProjectorLogger;
}

export interface Projector {
  /** Sequence of the last commit in the file. */
  readonly position: number;
  readonly status: ProjectorStatus;
  /** Stores what was received, ends. Idempotent. */
  stop(): Promise<void>;
}

/**
 * Starts to project the log into the file, from where the file stands. Exactly one projector a file. A file of another
 * schema version, or of a log that was recreated or has lost its tail, is renamed aside and built anew, which `status`
 * and the logger say.
 *
 * Rejects with `checkpoint_mismatch` when commits after the file's checkpoint are no longer in the log,
 * `data_folder_not_writable`, `data_folder_in_use`, `unavailable`. Later failures come by `onStatus("failed", error)`.
 *
 * @example
 * const projector = await startProjector({ log, path: "data/projection.sqlite" });
 * const projection = openProjection({ log, path: "data/projection.sqlite" });
 */
export async function startProjector(options: ProjectorOptions): Promise<Projector> {
  const loop = new ProjectorLoop(options);
  await loop.start();
  return loop;
}

class ProjectorLoop implements Projector {
  readonly #log: EventLog;
  readonly #path: string;
  readonly #batchMax: number;
  readonly #options: ProjectorOptions;
  readonly #logger: ProjectorLogger;
  #status: ProjectorStatus = "catching-up";
  #writer: ProjectionWriter | null = null;
  #position = 0;
  #follower: Follower | null = null;
  /** Raised when a follower is given up: what an old one still says is ignored. */
  #generation = 0;
  /** The broker had nothing more when it sent the last commit. */
  #atEnd = false;
  #flushSoon: NodeJS.Immediate | undefined;
  #flushTimer: NodeJS.Timeout | undefined;
  #restart: Promise<void> = Promise.resolve();

  constructor(options: ProjectorOptions) {
    this.#log = options.log;
    this.#path = options.path;
    this.#batchMax = options.batchMax ?? defaultBatchMax;
    this.#options = options;
    this.#logger = options.logger ?? silentLogger;
    if (!Number.isSafeInteger(this.#batchMax) || this.#batchMax < 1) {
      throw new MillraceError(
        "invalid_request",
        `batchMax must be a positive integer, not ${this.#batchMax}.`,
      );
    }
  }

  get position(): number {
    return this.#position;
  }
  get status(): ProjectorStatus {
    return this.#status;
  }

  async start(): Promise<void> {
    try {
      await this.#openAndFollow();
    } catch (error) {
      this.#closeWriter();
      throw error;
    }
  }

  async stop(): Promise<void> {
    if (this.#isFinal()) return;
    const follower = this.#follower;
    try {
      // What was received is stored; a failure is the caller's to see.
      this.#flush();
    } finally {
      this.#end("stopped");
    }
    await this.#restart;
    await follower?.stop();
  }

  async #openAndFollow(): Promise<void> {
    const info = await this.#log.info();
    if (this.#isFinal()) return;
    this.#openWriter(info.created);
    await this.#verify(info.created);
    if (this.#isFinal()) return;
    const after = this.#position;
    const generation = ++this.#generation;
    const current = () => generation === this.#generation;
    const follower = await this.#log.follow({
      after,
      onCommit: (commit, pending) => {
        if (current()) this.#take(commit, pending);
      },
      onStatus: (status, error) => {
        if (current()) this.#followStatus(status, error);
      },
    });
    if (!current()) return follower.stop();
    this.#follower = follower;
    this.#liveWhenAt(info.lastSequence);
  }

  /** An idle log sends no commit that would say so. */
  #liveWhenAt(lastSequence: number): void {
    if (this.#position >= lastSequence && !this.#isFinal()) this.#setStatus("live");
  }

  /** Opens the file, made new when there is none or none of this version. */
  #openWriter(streamCreated: string): void {
    const path = this.#path;
    if (!existsSync(path)) createProjectionFile(path, streamCreated);
    let database = openForWriting(path);
    const version = schemaVersionOf(database);
    if (version !== schemaVersion) {
      database.close();
      this.#startAnew(
        `v${version}`,
        `its tables have version ${version}, this projector writes ${schemaVersion}`,
      );
      createProjectionFile(path, streamCreated);
      database = openForWriting(path);
    }
    this.#writer = new ProjectionWriter({ database, batchMax: this.#batchMax, poison: "quarantine" });
    this.#position = this.#writer.checkpoint.sequence;
  }

  /** Makes sure that the file's checkpoint is a point of this log. */
  async #verify(streamCreated: string): Promise<void> {
    const { checkpoint } = this.#opened();
    const verdict = await this.#log.verify(checkpoint);
    if (verdict === "ok" || this.#isFinal()) return;
    if (verdict === "expired") {
      throw new MillraceError(
        "checkpoint_mismatch",
        `The projection ${this.#path} stands at ${checkpoint.sequence}, and the log no longer has all commits after it. ` +
          "Put a newer copy of the file in its place, or restore the log; moving the file away gives a projection " +
          "of only those commits that are left.",
        { details: { sequence: checkpoint.sequence } },
      );
    }
    this.#putAside(verdict);
    this.#openWriter(streamCreated);
  }

  #putAside(verdict: "recreated" | "diverged"): void {
    const { sequence } = this.#opened().checkpoint;
    this.#closeWriter();
    const found =
      verdict === "recreated"
        ? "the log was created anew"
        : `the log lost its tail: at ${sequence} it no longer has the commit that the file has`;
    this.#startAnew(`stale-${sequence}`, found);
  }

  #startAnew(label: string, reason: string): void {
    const aside = moveProjectionAside(this.#path, label);
    this.#position = 0;
    const error = new MillraceError(
      "checkpoint_mismatch",
      `The projection ${this.#path} does not belong to the log: ${reason}. It is now ${aside}, and the log is folded ` +
        "from its first commit again. Delete the old file when nobody needs it.",
    );
    this.#logger.warn({ path: this.#path, aside, code: error.code }, error.message);
    this.#setStatus("rebuilding", error);
  }

  #opened(): ProjectionWriter {
    if (this.#writer === null) throw new Error(`The projector has no open file at ${this.#path}.`);
    return this.#writer;
  }

  #take(commit: StoredCommit, pending: number): void {
    const writer = this.#opened();
    writer.add(commit);
    this.#atEnd = pending === 0;
    if (writer.full) this.#flush();
    // Not in this very turn: a fast broker says "nothing pending" of each commit, and the next ones are in our socket
    // already. One transaction for all of them costs a fifth of one each (measured: 30 µs a commit instead of 150).
    else if (this.#atEnd) this.#flushSoon ??= setImmediate(() => this.#flushLate());
    else this.#flushTimer ??= setTimeout(() => this.#flushLate(), batchAgeMaxMs);
  }

  #flushLate(): void {
    try {
      this.#flush();
    } catch (error) {
      this.#fail(error);
    }
  }

  #cancelFlush(): void {
    clearTimeout(this.#flushTimer);
    clearImmediate(this.#flushSoon);
    this.#flushTimer = undefined;
    this.#flushSoon = undefined;
  }

  #flush(): void {
    this.#cancelFlush();
    const flushed = this.#writer?.flush() ?? null;
    if (flushed === null) return;
    this.#position = flushed.sequence;
    for (const entry of flushed.quarantined)
      this.#logger.error(entry, "Commit quarantined: its run's row stops here");
    this.#options.onAdvance?.(flushed.sequence);
    this.#log.announce(projectorTopic, flushed.sequence);
    if (this.#atEnd && this.#status !== "interrupted") this.#setStatus("live");
  }

  #followStatus(status: FollowStatus, error?: Error): void {
    switch (status) {
      case "live":
        if (this.#status !== "interrupted") return;
        this.#setStatus("catching-up");
        this.#log
          .info()
          .then((info) => this.#liveWhenAt(info.lastSequence))
          // The broker is away again: its return brings us here once more.
          .catch((reason: unknown) => this.#logger.warn({ err: reason }, "Reading the log's end failed"));
        return;
      case "interrupted":
        this.#setStatus("interrupted");
        return;
      case "recreated":
      case "diverged":
        this.#restart = this.#goOnAnew(status);
        return;
      case "failed":
        this.#fail(error ?? new Error("The follower failed without a reason."));
        return;
    }
  }

  async #goOnAnew(verdict: "recreated" | "diverged"): Promise<void> {
    this.#generation++;
    try {
      this.#putAside(verdict);
      await this.#openAndFollow();
    } catch (error) {
      this.#fail(error);
    }
  }

  #fail(reason: unknown): void {
    if (this.#isFinal()) return;
    const error = reason instanceof Error ? reason : new Error(String(reason));
    const code = isMillraceError(error) ? error.code : "internal";
    this.#logger.error({ err: error, code, position: this.#position }, "The projector stopped on an error");
    const follower = this.#follower;
    this.#end("failed", error);
    follower
      ?.stop()
      .catch((stopError: unknown) => this.#logger.warn({ err: stopError }, "Ending the follower failed"));
  }

  #end(status: "failed" | "stopped", error?: Error): void {
    this.#generation++;
    this.#follower = null;
    this.#closeWriter();
    this.#setStatus(status, error);
  }

  #closeWriter(): void {
    this.#cancelFlush();
    this.#writer?.close();
    this.#writer = null;
  }

  #setStatus(status: ProjectorStatus, error?: Error): void {
    if (this.#status === status) return;
    this.#status = status;
    this.#options.onStatus?.(status, error);
  }

  #isFinal(): boolean {
    return this.#status === "failed" || this.#status === "stopped";
  }
}
