import * as v from "valibot";
import type { ErrorCode } from "./errors.ts";
import { AttributeValue, type ErrorInfo } from "./events.ts";
import { ScheduleRequest } from "./schedule-spec.ts";

/** valibot takes an array for a record with the keys 0, 1, ... */
const attributes = v.pipe(
  v.unknown(),
  v.check((value) => !Array.isArray(value), "Invalid type: Expected Object but received Array"),
  v.record(v.string(), AttributeValue),
);

/** Body of `POST /v1/workflows`. */
export const StartRequest = v.strictObject({
  type: v.string(),
  id: v.optional(v.string()),
  input: v.optional(v.unknown()),
  version: v.optional(v.pipe(v.string(), v.minLength(1), v.maxLength(64))),
  driver: v.optional(v.picklist(["code", "external"])),
  steps: v.optional(v.pipe(v.array(v.string()), v.maxLength(1_000))),
  attributes: v.optional(attributes),
  allowUnregistered: v.optional(v.boolean()),
  /** Time limit of the run. */
  timeoutMs: v.optional(v.pipe(v.number(), v.minValue(1))),
  /** Signal-with-start: the run gets it whether it is new or not. `id`: it comes once. */
  signal: v.optional(
    v.strictObject({ name: v.string(), payload: v.optional(v.unknown()), id: v.optional(v.string()) }),
  ),
});
export type StartRequest = v.InferOutput<typeof StartRequest>;

export const StepCompleteRequest = v.strictObject({ token: v.string(), output: v.optional(v.unknown()) });
export const StepFailRequest = v.strictObject({
  token: v.string(),
  error: v.object({
    message: v.string(),
    name: v.optional(v.string()),
    code: v.optional(v.string()),
    retryable: v.optional(v.boolean()),
  }),
});
export const StepBeginRequest = v.strictObject({
  /** Attempts in all, default 3. */
  maxAttempts: v.optional(v.pipe(v.number(), v.integer(), v.minValue(1), v.maxValue(1_000))),
});
export const RunCompleteRequest = v.strictObject({ output: v.optional(v.unknown()) });
export const RunFailRequest = v.strictObject({
  error: v.object({ message: v.string(), name: v.optional(v.string()), code: v.optional(v.string()) }),
});

/** Body of `POST /v1/schedules`. */
export const ScheduleCreateRequest = v.strictObject({
  id: v.string(),
  ...ScheduleRequest.entries,
  allowUnregistered: v.optional(v.boolean()),
});
/** Body of `PUT /v1/schedules/{id}`: the whole schedule. */
export const ScheduleUpdateRequest = v.strictObject({
  ...ScheduleRequest.entries,
  allowUnregistered: v.optional(v.boolean()),
});
export const ScheduleTriggerRequest = v.strictObject({
  by: v.optional(v.pipe(v.string(), v.maxLength(256))),
});
/** Times are ISO 8601, both inclusive. */
export const ScheduleBackfillRequest = v.strictObject({
  from: v.string(),
  to: v.string(),
  by: v.optional(v.pipe(v.string(), v.maxLength(256))),
});

/** Answer of `begin`: what the driver does now. */
export type BeginOutcome =
  | {
      readonly outcome: "execute";
      readonly token: string;
      readonly attempt: number;
      readonly idempotencyKey: string;
      readonly sequence: number;
    }
  | { readonly outcome: "completed"; readonly output: unknown; readonly sequence: number }
  | { readonly outcome: "failed"; readonly error: ErrorInfo; readonly sequence: number }
  | { readonly outcome: "wait"; readonly until: string; readonly sequence: number };

/** RFC 9457 problem details with our stable code. */
export interface Problem {
  readonly type: string;
  readonly title: string;
  readonly status: number;
  readonly detail: string;
  readonly code: ErrorCode;
  readonly [extension: string]: unknown;
}

/** One event of a history over HTTP. */
export interface EventRow {
  readonly sequence: number;
  readonly index: number;
  readonly type: string;
  readonly at: string;
  readonly data: unknown;
  /** Of its commit. That of a run's first one is where its `ctx.random` comes from: a replay elsewhere needs it. */
  readonly commitId: string;
}

export interface Page<T> {
  readonly items: readonly T[];
  /** Give as `after` for the next page; null at the end. */
  readonly next: string | null;
}
