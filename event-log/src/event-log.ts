/**
 * The port to the event log: all that the other parts know of it. Two adapters: `jetstream/` (the real one) and
 * `memory/` (its twin for tests); both pass the suite in `conformance/`.
 *
 * L1 A commit is stored whole or not at all, and at most once however often its append is re-sent.
 * L2 `append` answers only with what the log holds: after a lost acknowledgement it looks for its own commit id.
 * L3 Per run, an append with an expectation succeeds only directly after the commit that it expects.
 * L4 `follow` delivers every commit after its start once, in sequence order, or reports why it cannot.
 */
import type { RunCondition, WorkflowEvent } from "@millrace/schemas";
import type { BlobStore } from "./blob-store.ts";
import type { LeaseStore } from "./lease-store.ts";
import type { TaskQueues } from "./task-queues.ts";

/**
 * What must be the run's last commit for an append to be accepted: a sequence; `"new"`, no run with this id under
 * any type; `"any"`, a fact from outside that commutes (a cancel request).
 */
export type Expected = number | "new" | "any";

export interface AppendRequest {
  /** ULID; the same one when the same commit is sent again. */
  readonly commitId: string;
  readonly workflowId: string;
  readonly type: string;
  readonly expected: Expected;
  readonly events: readonly WorkflowEvent[];
  /** What the next owner must know; left out by writers that do not own the run. */
  readonly condition?: RunCondition;
  /** Earliest timer due, milliseconds since 1970. */
  readonly dueAt?: number;
  /** Id of the parent run: how its owner sees that a child has closed, and the child's that the parent has. */
  readonly parent?: string;
  /** Session of the writing engine. */
  readonly writer?: string;
  readonly traceparent?: string;
}

export interface AppendResult {
  readonly sequence: number;
  /** True when the commit was found in the log after a lost acknowledgement or a re-send. */
  readonly recovered: boolean;
}

/** A commit without its body. */
export interface CommitHead {
  readonly sequence: number;
  readonly workflowId: string;
  readonly type: string;
  /** The broker's time, milliseconds since 1970. */
  readonly at: number;
  readonly commitId: string;
  readonly writer: string | null;
  readonly condition: RunCondition | null;
  readonly dueAt: number | null;
  readonly parent: string | null;
  /** W3C trace context of the writer. */
  readonly traceparent: string | null;
}

/** A commit as stored. `events` decodes on first use and throws `commit_malformed` or `event_type_unknown`. */
export interface StoredCommit extends CommitHead {
  /** JSON text of `{v, events}` as it stands in the log. */
  readonly body: string;
  readonly events: readonly WorkflowEvent[];
}

/** Where and what the log is. Always fresh from the broker. */
export interface LogInfo {
  readonly epoch: string;
  /** ISO 8601 creation time of the stream. */
  readonly created: string;
  /** Sequence of the first commit kept; 0 when the log never had one. */
  readonly firstSequence: number;
  readonly lastSequence: number;
  readonly shardCount: number;
}

/** What a projection stores beside its rows to know the log again. */
export interface Checkpoint {
  readonly sequence: number;
  readonly commitId: string;
  readonly streamCreated: string;
}

/**
 * `ok`: the log goes on from the checkpoint. `recreated`: another log under the same name. `diverged`: the log lost
 * its tail and uses these sequences again. `expired`: the commits after the checkpoint are no longer all there.
 */
export type CheckpointVerdict = "ok" | "recreated" | "diverged" | "expired";

/** Loss of the broker's connection and what was found when it came back. */
export type LogStatus = "connected" | "disconnected" | "recreated" | "closed";

export interface FollowOptions {
  /** Exclusive: 0 follows from the first commit. Must not lie beyond the log's end (`cursor_future`). */
  readonly after: number;
  /** Only these workflow types; absent: all. */
  readonly types?: readonly string[];
  /** Deliver heads only: `body` is empty and `events` throws. Default false. */
  readonly headersOnly?: boolean;
  /**
   * Called once per commit, in sequence order, on one synchronous turn each. `pending` is how many more the broker
   * has ready: 0 means "live". An exception stops the follower with status `failed`.
   */
  readonly onCommit: (commit: StoredCommit, pending: number) => void;
  /**
   * `live`: delivering (again). `interrupted`: the broker is away, delivery goes on by itself when it is back.
   * Final, after which nothing more comes: `recreated`, `diverged` (see {@link CheckpointVerdict}), `failed`
   * (`onCommit` threw).
   */
  readonly onStatus?: (status: FollowStatus, error?: Error) => void;
}
export type FollowStatus = "live" | "interrupted" | "recreated" | "diverged" | "failed";

export interface PageOptions {
  /** Exclusive. */
  readonly after: number;
  /** Inclusive: a position that the caller has seen, so that "nothing up to here" is a fact and no race. */
  readonly upTo: number;
  /** Only these runs and schedules; absent: all. */
  readonly workflows?: readonly string[];
  /** Only these workflow types; absent: all. Not together with `workflows`. */
  readonly types?: readonly string[];
  readonly commitsMax: number;
  /** About; one commit is given however large it is. */
  readonly bytesMax: number;
}

export interface LogPage {
  readonly commits: readonly StoredCommit[];
  /** Everything up to here that was asked for is in `commits`. Beyond `after` whenever `options.upTo` is. */
  readonly upTo: number;
}

export interface HeadsOptions {
  /** Only these workflow types; absent: all. */
  readonly types?: readonly string[];
  /** Only these shards; absent: all. */
  readonly shards?: readonly number[];
}

export interface Follower {
  /** Sequence of the last commit delivered (or `after`). */
  readonly position: number;
  /** Ends delivery; resolves when no further call will be made. Idempotent. */
  stop(): Promise<void>;
}

/** A workflow type that some worker has registered. Kept in the broker, so it survives the worker. */
export interface RegisteredType {
  readonly type: string;
  /** The newest version registered. */
  readonly version: string;
  readonly plan: readonly string[];
}

export interface EventLog {
  readonly namespace: string;
  /** Payloads that are too large for a commit. */
  readonly blobs: BlobStore;
  /** Queues of tasks for workers; made in the broker on first use. */
  readonly tasks: TaskQueues;

  /**
   * Appends one commit. Idempotent by commit id. Rejects with `conflict` (details `{expected, actual}`),
   * `append_in_doubt` (the broker did not answer within the retry budget; the commit may or may not be stored:
   * append the same commit again), `unavailable`, `overloaded` (in-flight window and its queue are full),
   * `payload_too_large`, `limit_exceeded` (the run's commit cap), `log_full`.
   */
  append(request: AppendRequest): Promise<AppendResult>;

  /** A run's commits in order, from the leader's point of view up to its last one; empty when there is no run. */
  load(workflowId: string, options?: { readonly after?: number }): Promise<StoredCommit[]>;

  /** A run's last commit, read from the leader; null when there is no run. */
  last(workflowId: string): Promise<StoredCommit | null>;

  /** The commit at a sequence, read from the leader; null when that sequence is not (or no longer) there. */
  read(sequence: number): Promise<StoredCommit | null>;

  /**
   * Commits of a range, in order, by request and answer: for readers of old history, of which there are many. Leaves
   * nothing behind in the broker.
   */
  page(options: PageOptions): Promise<LogPage>;

  /**
   * The latest commit head of every run up to the log's end, sampled now: how an owner takes over. Returns the
   * sampled end; follow from there. `shards`: only the runs of these.
   */
  heads(onHead: (head: CommitHead) => void, options?: HeadsOptions): Promise<number>;

  follow(options: FollowOptions): Promise<Follower>;

  info(): Promise<LogInfo>;
  /** Compares a checkpoint with the log. Sequence 0 is always `ok` while the log is not recreated. */
  verify(checkpoint: Checkpoint): Promise<CheckpointVerdict>;

  registerTypes(types: readonly RegisteredType[]): Promise<void>;
  /** Every type registered so far, from a watched local copy. */
  registeredType(type: string): RegisteredType | null;

  /** The namespace's leases: who is alive and who holds what. Opened on first use; closed with the log. */
  leases(): Promise<LeaseStore>;

  /** Sends a hint to whoever listens now; not stored, may be lost, never needed for correctness. */
  announce(topic: string, value: number): void;
  onAnnounce(topic: string, listener: (value: number) => void): () => void;

  /**
   * Asks whoever answers under this topic in any process; the first answer counts. Not stored. Rejects with
   * `unavailable` when nobody listens or the broker is away, `timeout` when nobody answered in time.
   */
  ask(topic: string, question: string, options: { readonly timeoutMs: number }): Promise<string>;
  /** Answers questions; null stays silent, since it is another one's to answer. The answer takes it back. */
  answer(topic: string, handler: (question: string) => Promise<string | null>): () => void;

  status(): LogStatus;
  onStatus(listener: (status: LogStatus) => void): () => void;
  close(): Promise<void>;
}
