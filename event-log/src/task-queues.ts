/**
 * The port to the task queues: steps that workers of any process and language do. Two adapters, as of the event log:
 * `jetstream/` and `memory/`; both pass `conformance/describe-task-queues.ts`. A queue says who may begin a task; what
 * became of it stands in the event log, which refuses whoever is late.
 *
 * Q1 A published task is taken by somebody, and taken again after each lease that passes without a word, until it is
 *    finished. It may be taken more than once; it is never lost while the broker keeps its store.
 * Q2 Of what waits, the highest priority is taken first; within a priority, the oldest.
 * Q3 A queue with a limit of n has at most n tasks taken at a time, over all processes, while leases are kept.
 * Q4 A queue with a rate has at most `burst` tasks taken at once and `ratePerS` in the long run, over all processes.
 */
import type { TaskPriority } from "@millrace/schemas";

/** What a worker is given. Plain JSON. */
export interface TaskMessage {
  /** Of the attempt, as in `StepScheduled`; the same token is published once. */
  readonly token: string;
  readonly workflowId: string;
  /** Workflow type. */
  readonly type: string;
  /** Run number. */
  readonly run: number;
  /** Step name. */
  readonly name: string;
  readonly occurrence: number;
  readonly attempt: number;
  readonly queue: string;
  readonly priority: TaskPriority;
  readonly input: unknown;
  /** Of the commit that scheduled it: a worker that begins at once need not read the history. */
  readonly sequence: number;
  /** Time limits of this attempt, milliseconds; null: none. */
  readonly startToCloseMs: number | null;
  readonly heartbeatMs: number | null;
  /** W3C trace context of the run; null: none. */
  readonly traceparent: string | null;
}

export interface TakenTask {
  readonly task: TaskMessage;
  /** Extends, finishes or releases it, from any process that is connected to the same namespace. */
  readonly handle: string;
  /** From 1. More: it was taken before, and released, or its lease passed. */
  readonly delivery: number;
}

export interface TakeOptions {
  /** Tasks wanted, at least 1. */
  readonly max: number;
  /** How long to wait for the first one, milliseconds. */
  readonly waitMs: number;
  /** Ends the wait; the answer is then empty. */
  readonly signal?: AbortSignal;
}

/** Null: no limit. */
export interface QueueLimits {
  /** Tasks taken at the same time, over all workers. */
  readonly concurrency: number | null;
  /** Tasks begun per second, over all workers. */
  readonly ratePerS: number | null;
  /** Tasks that may begin at once after a silence. Default: what a second allows, at least 1. */
  readonly burst: number | null;
}

export const noQueueLimits: QueueLimits = { concurrency: null, ratePerS: null, burst: null };

export interface QueueInfo {
  readonly queue: string;
  /** Tasks that wait. */
  readonly depth: number;
  /** Tasks that are taken, or released and not due yet. */
  readonly inFlight: number;
  /** Milliseconds since the oldest waiting task was published; null when none waits. */
  readonly oldestAgeMs: number | null;
  readonly deadLetters: number;
  readonly limits: QueueLimits;
}

export interface Heartbeat {
  /** Of the attempt that sent it. */
  readonly token: string;
  readonly details: unknown;
}

/** What a heartbeat is filed under: a step of a run, so that the next attempt finds the details of the last one. */
export interface HeartbeatKey {
  readonly workflowId: string;
  readonly run: number;
  readonly name: string;
  readonly occurrence: number;
}

/** A task that failed for good. */
export interface DeadLetter {
  readonly task: TaskMessage;
  readonly reason: string;
  readonly attempts: number;
}

export interface StoredDeadLetter extends DeadLetter {
  /** Position in the list: give it as `after` to go on. */
  readonly sequence: number;
  /** Milliseconds since 1970. */
  readonly at: number;
}

export interface TaskQueues {
  /** How long a taken task is left alone without `extend`, milliseconds. */
  readonly leaseMs: number;

  /** Resolves when it is stored. Idempotent by token. Rejects with `unavailable`, `payload_too_large`, `log_full`. */
  publish(task: TaskMessage): Promise<void>;

  /** Takes up to `max` tasks, waiting for the first; pushed, not polled. Empty after `waitMs`. */
  take(queue: string, options: TakeOptions): Promise<readonly TakenTask[]>;
  /** Begins another lease. A handle that is not one of this namespace is `invalid_request`. */
  extend(handle: string): void;
  /** The task is done with, whatever came of it: nobody takes it again. */
  finish(handle: string): void;
  /** Gives it back: others may take it after `delayMs` (default 0). */
  release(handle: string, delayMs?: number): void;

  beat(key: HeartbeatKey, heartbeat: Heartbeat): Promise<void>;
  /** The last heartbeat of any attempt and the broker's time of it; null without one. */
  lastBeat(key: HeartbeatKey): Promise<(Heartbeat & { readonly at: number }) | null>;

  /** Idempotent by token. */
  bury(letter: DeadLetter): Promise<void>;
  /** Oldest first. */
  deadLetters(
    queue: string,
    page: { readonly after?: number; readonly limit: number },
  ): Promise<readonly StoredDeadLetter[]>;
  /** Null when there is none with this token. */
  deadLetter(queue: string, token: string): Promise<StoredDeadLetter | null>;
  /** True when it was there. */
  removeDeadLetter(queue: string, token: string): Promise<boolean>;

  /** Every queue that has tasks, dead letters, limits or once had a worker. */
  queues(): Promise<readonly QueueInfo[]>;
  limits(queue: string): Promise<QueueLimits>;
  /** Holds for all workers from now on; tasks that are taken stay so. */
  setLimits(queue: string, limits: QueueLimits): Promise<void>;
}
