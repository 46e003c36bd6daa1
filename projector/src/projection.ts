/** What others may ask of the read model. Reads are synchronous: one better-sqlite3 handle, opened read-only. */
import type { Checkpoint } from "@millrace/event-log";
import type {
  AttributeFilter,
  Attributes,
  AttributesAround,
  EventRow,
  Filter,
  Page,
  RunCondition,
  RunState,
  RunStatus,
  ScheduleRow,
  WaitKind,
  WorkflowRow,
} from "@millrace/schemas";

/** Bounds are inclusive. A number is compared with numbers, a text with texts, by code point (so with ISO dates). */
export interface AttributeRange {
  readonly min?: number | string;
  readonly max?: number | string;
}

/** Which runs: all that is given must match. */
export interface RunFilter {
  readonly type?: string;
  /** Of several, one. */
  readonly status?: RunStatus | readonly RunStatus[];
  readonly workflow?: readonly string[];
  /** All must match, compared by text; of several values of one, one. */
  readonly attributes?: AttributeFilter;
  /** Runs that wait for this now; without a name, for any of the kind. */
  readonly waits?: { readonly kind: WaitKind; readonly name?: string };
  /** All must match. */
  readonly ranges?: Readonly<Record<string, AttributeRange>>;
}

export interface ListOptions extends RunFilter {
  /** `next` of the page before; newest first, by start sequence. */
  readonly after?: string;
  /** 1 to `limits.pageItems`; default 50. */
  readonly limit?: number;
}

export interface ScheduleListOptions {
  readonly status?: "active" | "paused";
  /** Of the workflow that is started. */
  readonly type?: string;
  /** `next` of the page before; by id. */
  readonly after?: string;
  /** 1 to `limits.pageItems`; default 50. */
  readonly limit?: number;
}

/** A stored commit as the read model keeps it: the body is the JSON text of the log. */
export interface CommitRow {
  readonly sequence: number;
  readonly workflowId: string;
  readonly type: string;
  readonly at: number;
  readonly commitId: string;
  /** What the run's owner declared with it; null for a fact from outside. */
  readonly condition: RunCondition | null;
  readonly body: string;
  /** Given when the filter is for attributes. As texts. */
  readonly attributes?: AttributesAround;
}

export interface CommitPage {
  /** Commits that match the filter by run, type and attributes (event types and statuses are for the caller), in order. */
  readonly commits: readonly CommitRow[];
  /** Everything up to here that matches is in `commits`: at most the checkpoint. */
  readonly upTo: number;
}

/** Rows of one moment, read one by one: what a list of any length needs is memory for one row. */
export interface ProjectionSnapshot {
  /** The moment: every commit up to its sequence is in the rows, none after it. */
  readonly checkpoint: Checkpoint;
  /** The next row, in no particular order; null after the last one, when it has closed itself. */
  next(): WorkflowRow | null;
  /** Ends the read transaction. While it is open the projector cannot fold back its write-ahead log. Idempotent. */
  close(): void;
}

/** A commit that could not be read, or that belongs to a run of which an earlier one could not. */
export interface QuarantinedCommit {
  readonly sequence: number;
  readonly workflowId: string;
  readonly error: string;
}

export interface Projection {
  checkpoint(): Checkpoint;
  workflow(id: string): WorkflowRow | null;
  /** The full folded state (for readers that go on folding); null when there is no such run. */
  state(id: string): RunState | null;
  /**
   * The state as of a sequence, folded from the run's commits; null when the run did not exist then. Throws
   * `projector_behind` for a sequence beyond the checkpoint: wait for it first.
   */
  stateAt(id: string, sequence: number): RunState | null;
  /** A run's attributes as of a sequence (at most the checkpoint), as texts; none when there is no such run. */
  attributesAt(id: string, sequence: number): Attributes;
  /** Newest first. Rows and sequence are from one read transaction. */
  list(options: ListOptions): Page<WorkflowRow> & { readonly sequence: number };
  /** How many runs a list would have, counted up to `max`. */
  count(options: RunFilter, max: number): number;
  /** A run's history, or a schedule's. `after` is `next` of the page before, or a sequence: after all events of that commit. */
  events(id: string, options: { readonly after?: string; readonly limit?: number }): Page<EventRow>;
  /** A schedule that is not deleted, and the sequence that the answer reflects. */
  schedule(id: string): { readonly row: ScheduleRow | null; readonly sequence: number };
  /** Schedules that are not deleted, by id. */
  schedules(options: ScheduleListOptions): Page<ScheduleRow> & { readonly sequence: number };
  /** Deep replay: commits after a sequence that can match, at most `maxCommits` and about `maxBytes` of bodies. */
  commits(filter: Filter, after: number, maxCommits: number, maxBytes: number): CommitPage;
  /**
   * Rows of all runs that match by id, type, status and attributes, exact at `sequence`: rows and checkpoint are read in one
   * transaction. `limit_exceeded` beyond `maxRows`.
   */
  snapshot(
    filter: Filter,
    maxRows: number,
  ): { readonly rows: readonly WorkflowRow[]; readonly sequence: number };
  /**
   * The same for a list of any length: a handle of its own and one read transaction, which the caller closes soon.
   * Rows are read when they are asked for.
   */
  openSnapshot(filter: Filter): ProjectionSnapshot;
  /** Sequences of quarantined commits, newest first, at most 100. */
  quarantined(): readonly QuarantinedCommit[];
  /**
   * Resolves with the checkpoint's sequence once it is at least `sequence`; rejects with `projector_behind` after
   * `timeoutMs`. Pushed by the projector, in this process or another.
   */
  waitFor(sequence: number, timeoutMs: number): Promise<number>;
  close(): void;
}
