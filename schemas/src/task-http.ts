/** Shapes of task queues over HTTP. Times are ISO 8601 with milliseconds, UTC. */
import * as v from "valibot";
import { limits } from "./limits.ts";

/** A task as its worker is given it: an item of the answer of `POST /v1/queues/{queue}/poll`. */
export interface TaskRow {
  /** For complete, fail and heartbeat. Opaque. */
  readonly token: string;
  readonly name: string;
  readonly workflowId: string;
  readonly queue: string;
  readonly input: unknown;
  /** From 1. */
  readonly attempt: number;
  /** `<workflowId>/<run>/<name>#<occurrence>`: the same for every attempt of this task. */
  readonly idempotencyKey: string;
  /** A worker that is silent for longer, in milliseconds, loses the task to another one: send a heartbeat before. */
  readonly leaseMs: number;
  /** The task's own limits, milliseconds; null: none. */
  readonly startToCloseMs: number | null;
  readonly heartbeatMs: number | null;
  /** Details of the last heartbeat of earlier attempts; null without one. */
  readonly lastDetails: unknown;
}

/** An item of `GET /v1/queues`. */
export interface QueueRow {
  readonly queue: string;
  /** Tasks that wait. */
  readonly depth: number;
  /** Tasks that are taken, or wait for a delay to pass. */
  readonly inFlight: number;
  /** Milliseconds since the oldest waiting task was published; null when none waits. */
  readonly oldestAgeMs: number | null;
  readonly deadLetters: number;
  readonly limits: QueueLimitsRow;
}

/** Null: no limit. */
export interface QueueLimitsRow {
  /** Tasks that run at the same time, over all workers. */
  readonly concurrency: number | null;
  /** Tasks that begin in a second, over all workers. */
  readonly ratePerS: number | null;
  /** Tasks that may begin at once after a silence; null: what a second allows. */
  readonly burst: number | null;
}

/** A task that failed for good: an item of `GET /v1/queues/{queue}/dead`. */
export interface DeadLetterRow {
  readonly token: string;
  readonly workflowId: string;
  readonly type: string;
  /** `name` or `name#occurrence`. */
  readonly step: string;
  readonly input: unknown;
  readonly attempts: number;
  readonly reason: string;
  readonly at: string;
}

/** Answer of `POST /v1/queues/{queue}/dead/redrive`. */
export interface RedriveRow {
  readonly redriven: readonly { readonly token: string; readonly workflowId: string }[];
  readonly skipped: readonly {
    readonly token: string;
    readonly workflowId: string;
    readonly reason: string;
  }[];
}

export const TaskCompleteRequest = v.strictObject({ output: v.optional(v.unknown()) });
export const TaskFailRequest = v.strictObject({
  error: v.object({
    message: v.string(),
    name: v.optional(v.string()),
    code: v.optional(v.string()),
    /** False: there is no further attempt. */
    retryable: v.optional(v.boolean()),
  }),
  /** Instead of the delay of the task's policy. */
  retryAfterMs: v.optional(v.pipe(v.number(), v.minValue(0))),
});
export const TaskHeartbeatRequest = v.strictObject({ details: v.optional(v.unknown()) });
/** What is left out is no limit. */
export const QueueLimitsRequest = v.strictObject({
  concurrency: v.optional(v.nullable(v.number()), null),
  ratePerS: v.optional(v.nullable(v.number()), null),
  burst: v.optional(v.nullable(v.number()), null),
});
export const RedriveRequest = v.strictObject({
  tokens: v.optional(v.pipe(v.array(v.string()), v.maxLength(limits.pageItems))),
  limit: v.optional(v.pipe(v.number(), v.integer(), v.minValue(1), v.maxValue(limits.pageItems))),
  discard: v.optional(v.boolean()),
  reason: v.optional(v.pipe(v.string(), v.maxLength(2_000))),
  by: v.optional(v.pipe(v.string(), v.maxLength(256))),
});
