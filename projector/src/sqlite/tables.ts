/**
 * The tables of the read model. All of it is derived from the event log, so a new shape needs no migration: raise
 * `schemaVersion`, and a file of another version is put aside and built anew.
 *
 * Rows hang together by `run`: the sequence of the run's first commit. Ids are chosen by users and lie anywhere in
 * an index; by `run`, the rows that are written together lie together, and "newest first" is the key's own order.
 */
import type {
  RunCondition,
  RunStatus,
  ScheduleStatus,
  StepState,
  StepStatus,
  WaitKind,
} from "@millrace/schemas";

export const schemaVersion = 4;

export interface WorkflowsTable {
  readonly run: number;
  readonly id: string;
  readonly type: string;
  readonly version: string;
  readonly status: RunStatus;
  readonly driver: "code" | "external";
  readonly current_step: number;
  readonly total_steps: number;
  readonly message: string;
  /** JSON; null while there is none. */
  readonly output: string | null;
  readonly error: string | null;
  readonly attributes: string;
  readonly started_at: number;
  readonly updated_at: number;
  readonly closed_at: number | null;
  readonly sequence: number;
  /** 0 while the run's start has not been seen: such a row is not shown. */
  readonly started_sequence: number;
  readonly progress_current: number | null;
  readonly progress_total: number | null;
  /** JSON of what only folding needs; null while it is all in its initial state. */
  readonly fold_state: string | null;
  /** Sequence of the commit that stopped this row. */
  readonly quarantined_sequence: number | null;
}

/** What a run was started with. Apart from `workflows`, since an update there writes the whole row. */
export interface StartsTable {
  readonly run: number;
  /** JSON. */
  readonly input: string;
  readonly plan: string;
}

export interface StepsTable {
  readonly run: number;
  /** From 0, in the order in which the steps were begun. */
  readonly position: number;
  readonly name: string;
  readonly occurrence: number;
  readonly status: StepStatus;
  readonly attempt: number;
  readonly started_at: number | null;
  readonly completed_at: number | null;
  readonly output: string | null;
  readonly error: string | null;
  readonly next_attempt_at: number | null;
  readonly token: string | null;
  readonly max_attempts: number | null;
  readonly kind: StepState["kind"];
  /** JSON; null unless `kind` is `task`. */
  readonly task: string | null;
}

/** The history. `body` is the text of the log as it is. */
export interface CommitsTable {
  readonly sequence: number;
  readonly run: number;
  readonly workflow_id: string;
  readonly type: string;
  readonly at: number;
  readonly commit_id: string;
  /** What the run's owner declared with it; null for a fact from outside. */
  readonly condition: RunCondition | null;
  readonly body: string;
}

/** `until` of an attribute that still holds. A number, so that one index finds both what holds and what held. */
export const stillHolds = Number.MAX_SAFE_INTEGER;

/** Which attribute had which value from which commit on until which: for lists (`stillHolds`) and for replay. */
export interface AttributesTable {
  readonly run: number;
  readonly key: string;
  readonly text: string;
  /** Null unless the value is a number. */
  readonly number: number | null;
  /** Sequence of the commit that set it. */
  readonly since: number;
  /** Sequence of the commit after which it does not hold any more. */
  readonly until: number;
}

/** A schedule. Its commits are in `commits`, as a run's are. */
export interface SchedulesTable {
  readonly run: number;
  readonly id: string;
  /** Null until a commit that creates it. */
  readonly status: ScheduleStatus | null;
  readonly workflow_type: string | null;
  /** JSON of the folded state. */
  readonly state: string | null;
  readonly quarantined_sequence: number | null;
}

/** What an open run waits for (`waitsOf`): timers, signals, tasks, children. */
export interface WaitsTable {
  readonly run: number;
  /** From 0, longest waiting first. */
  readonly position: number;
  readonly kind: WaitKind;
  readonly name: string;
  readonly since: number | null;
  readonly due: number | null;
  readonly queue: string | null;
  readonly worker: string | null;
}

/** One row: how far the log is folded in, and which log it is. */
export interface CheckpointTable {
  readonly id: 1;
  readonly sequence: number;
  readonly commit_id: string;
  readonly stream_created: string;
}

export interface QuarantineTable {
  readonly sequence: number;
  readonly workflow_id: string;
  readonly type: string;
  readonly at: number;
  readonly error: string;
}

export interface ProjectionTables {
  workflows: WorkflowsTable;
  starts: StartsTable;
  steps: StepsTable;
  commits: CommitsTable;
  attributes: AttributesTable;
  schedules: SchedulesTable;
  waits: WaitsTable;
  checkpoint: CheckpointTable;
  quarantine: QuarantineTable;
}

/** Every table with the columns of its key: the order in which a hash reads it. */
export const tableKeys = {
  workflows: ["run"],
  starts: ["run"],
  steps: ["run", "position"],
  commits: ["sequence"],
  attributes: ["run", "key", "since"],
  schedules: ["run"],
  waits: ["run", "position"],
  checkpoint: ["id"],
  quarantine: ["sequence"],
} as const satisfies { [T in keyof ProjectionTables]: readonly (keyof ProjectionTables[T])[] };
