/**
 * Folds commits into what one transaction will write.
 *
 * Owns: the changes since the last transaction. Does not own: tables, files, when to write.
 *
 * I1 A commit at or below `position` changes nothing, so that a repeat is harmless.
 * I2 Each run that was touched is written once, however many of its commits came.
 * I3 A commit that cannot be read stops its own run and no other: it and all later ones of that run are quarantined.
 * I4 What is written does not depend on where a batch ends.
 *
 * Tested by `fold-batch.test.ts` and, over SQLite, `projector.prop.test.ts`.
 */
import {
  evolveCommit,
  evolveSchedule,
  isMillraceError,
  MillraceError,
  scheduleType,
  validateEvent,
  type RunCondition,
  type WorkflowEvent,
} from "@millrace/schemas";
import { beginFoldedRun, noteAttributes, noteStep, noteWaits, type FoldedRun } from "./folded-run.ts";
import type { FoldedSchedule } from "./folded-schedule.ts";
import type { RunCache } from "./run-cache.ts";

/** A commit as the event log delivers it. `events` and `body` throw when they cannot be read. */
export interface FoldableCommit {
  readonly sequence: number;
  readonly workflowId: string;
  readonly type: string;
  /** Milliseconds since 1970. */
  readonly at: number;
  readonly commitId: string;
  readonly condition: RunCondition | null;
  readonly body: string;
  readonly events: readonly WorkflowEvent[];
}

export interface QuarantineEntry {
  readonly sequence: number;
  readonly workflowId: string;
  readonly type: string;
  readonly at: number;
  readonly error: string;
}

/** `quarantine`: go on without its run, what a live projector does. `stop`: throw, what a rebuild does. */
export type PoisonPolicy = "quarantine" | "stop";

export interface FoldBatchOptions {
  /** Sequence of the last commit that the tables have. */
  readonly position: number;
  readonly cache: RunCache;
  /** A run as the tables have it; null when they have none under this id. */
  readonly find: (workflowId: string) => FoldedRun | null;
  /** A schedule as the tables have it. */
  readonly findSchedule: (id: string) => FoldedSchedule | null;
  readonly poison: PoisonPolicy;
}

export class FoldBatch {
  readonly #options: FoldBatchOptions;
  #position: number;
  /** Readable commits with the key of their run, in order: the history. */
  readonly commits: { readonly run: number; readonly commit: FoldableCommit }[] = [];
  /** Runs whose rows are out of date. */
  readonly runs = new Set<FoldedRun>();
  /** Schedules whose rows are out of date, by id. They are no runs and few, so no cache keeps them. */
  readonly schedules = new Map<string, FoldedSchedule>();
  readonly quarantined: QuarantineEntry[] = [];
  #last: { readonly sequence: number; readonly commitId: string } | null = null;
  #count = 0;
  #bytes = 0;

  constructor(options: FoldBatchOptions) {
    this.#options = options;
    this.#position = options.position;
  }

  /** The last commit taken in; null when there is nothing to write. */
  get last(): { readonly sequence: number; readonly commitId: string } | null {
    return this.#last;
  }
  /** Commits taken in. */
  get count(): number {
    return this.#count;
  }
  /** Bytes of the bodies taken in. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Takes one commit. Throws only under the policy `stop`, or for what is not the commit's fault. */
  add(commit: FoldableCommit): void {
    if (commit.sequence <= this.#position) return;
    const content = read(commit);
    if (commit.type === scheduleType) this.#addToSchedule(commit, content);
    else {
      const run = this.#runOf(commit);
      if (content instanceof MillraceError) this.#poison(run, commit, content);
      else this.#fold(run, commit, content);
    }
    this.#position = commit.sequence;
    this.#last = { sequence: commit.sequence, commitId: commit.commitId };
    this.#count++;
  }

  #runOf(commit: FoldableCommit): FoldedRun {
    const { cache, find } = this.#options;
    return (
      cache.get(commit.workflowId) ??
      find(commit.workflowId) ??
      beginFoldedRun(commit.sequence, commit.workflowId, commit.type)
    );
  }

  #fold(run: FoldedRun, commit: FoldableCommit, { events, body }: Content): void {
    this.commits.push({ run: run.run, commit });
    this.#bytes += body.length;
    noteAttributes(run, commit.sequence, events);
    if (run.quarantinedSequence !== null) {
      const error = `The run stopped at sequence ${run.quarantinedSequence}, whose commit could not be read.`;
      this.#quarantine(run, commit, error);
      if (run.attributeChanges.length > 0) this.runs.add(run);
      return;
    }
    const { sequence, at, condition } = commit;
    evolveCommit(run.state, { sequence, at, condition, events });
    for (const event of events) {
      noteStep(run, event);
      noteWaits(run, event);
    }
    run.bytes += body.length;
    this.#options.cache.keep(run);
    this.runs.add(run);
  }

  #addToSchedule(commit: FoldableCommit, content: Content | MillraceError): void {
    const { sequence, workflowId: id, type, at } = commit;
    const schedule = this.schedules.get(id) ??
      this.#options.findSchedule(id) ?? { run: sequence, id, state: null, quarantinedSequence: null };
    this.schedules.set(id, schedule);
    if (content instanceof MillraceError) {
      this.#assertQuarantining(commit, content);
      schedule.quarantinedSequence ??= sequence;
      this.quarantined.push({ sequence, workflowId: id, type, at, error: content.message });
      return;
    }
    this.commits.push({ run: schedule.run, commit });
    this.#bytes += content.body.length;
    if (schedule.quarantinedSequence === null) {
      schedule.state = evolveSchedule(schedule.state, {
        workflowId: id,
        sequence,
        at,
        events: content.events,
      });
      return;
    }
    const error = `The schedule stopped at sequence ${schedule.quarantinedSequence}, whose commit could not be read.`;
    this.quarantined.push({ sequence, workflowId: id, type, at, error });
  }

  #assertQuarantining(commit: FoldableCommit, error: MillraceError): void {
    if (this.#options.poison !== "stop") return;
    throw new MillraceError(
      error.code,
      `Rebuild stopped at sequence ${commit.sequence} of ${commit.workflowId}: ${error.message}`,
      { cause: error, details: { sequence: commit.sequence, workflowId: commit.workflowId } },
    );
  }

  #poison(run: FoldedRun, commit: FoldableCommit, error: MillraceError): void {
    this.#assertQuarantining(commit, error);
    run.quarantinedSequence ??= commit.sequence;
    this.#quarantine(run, commit, error.message);
    this.runs.add(run);
  }

  #quarantine(run: FoldedRun, commit: FoldableCommit, error: string): void {
    const { sequence, workflowId, type, at } = commit;
    this.quarantined.push({ sequence, workflowId, type, at, error });
    this.#options.cache.keep(run);
  }
}

interface Content {
  readonly events: readonly WorkflowEvent[];
  readonly body: string;
}

/**
 * Data is checked too (0.3 µs an event): a value of the wrong kind would else be found by the table it does not fit,
 * which would stop every run's projection and not only its own.
 */
function read(commit: FoldableCommit): Content | MillraceError {
  try {
    const { events, body } = commit;
    for (const event of events) validateEvent(event);
    return { events, body };
  } catch (error) {
    if (isMillraceError(error, "commit_malformed") || isMillraceError(error, "event_type_unknown"))
      return error;
    throw error;
  }
}
