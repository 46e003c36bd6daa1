import type { RunLogger } from "../run-logger.ts";

/** What a task's function is given. */
export interface TaskContext<Input = unknown> {
  /** As `ctx.task` was called with. */
  readonly input: Input;
  /** Name of the task. */
  readonly name: string;
  readonly workflowId: string;
  readonly queue: string;
  /** From 1. */
  readonly attempt: number;
  /** `<workflowId>/<run>/<name>#<occurrence>`: the same for every attempt of this task. */
  readonly idempotencyKey: string;
  /** Aborted when the run was asked to cancel or does not wait for the task any more, at a time limit, and when the worker stops. */
  readonly signal: AbortSignal;
  /** Writes at once, with `workflowId`, `type`, `run`, `step`, `occurrence`, `attempt` and `queue`. */
  readonly log: RunLogger;
  /**
   * A sign of life with what the next attempt may need to go on from here (JSON, at most 64 KiB). May be called often: at
   * most four are sent in each `heartbeatMs`, or one a second, always with the last details.
   */
  readonly heartbeat: (details?: unknown) => void;
  /** The details of the last heartbeat of this task's earlier attempts; null when there was none. */
  readonly lastDetails: () => Promise<unknown>;
}

/** Its result is the task's output (JSON). To throw is to fail the attempt; see `NonRetryableError`, `RetryAfterError`. */
// oxlint-disable-next-line no-explicit-any -- each function has its own input, and only its author knows which
export type TaskFunction = (task: TaskContext<any>) => unknown;
