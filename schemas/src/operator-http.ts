/** Bodies and answers of what operators do over HTTP. */
import * as v from "valibot";
import { AttributeFilterSchema } from "./filter.ts";
import { limits } from "./limits.ts";
import { runStatuses } from "./run-state.ts";
import { waitKinds } from "./waits.ts";

const operator = {
  reason: v.optional(v.pipe(v.string(), v.maxLength(2_000))),
  by: v.optional(v.pipe(v.string(), v.maxLength(256))),
};
const version = v.pipe(v.string(), v.minLength(1), v.maxLength(64));

/** Body of cancel, terminate, pause and resume. */
export const ReasonRequest = v.strictObject(operator);
export const RetryRequest = v.strictObject({
  ...operator,
  version: v.optional(version),
  force: v.optional(v.boolean()),
});
export const ResetRequest = v.strictObject({
  ...operator,
  step: v.optional(v.string()),
  version: v.optional(version),
  force: v.optional(v.boolean()),
});
export const ForkRequest = v.strictObject({
  ...operator,
  step: v.optional(v.string()),
  version: v.optional(version),
  id: v.optional(v.string()),
});
export const MigrateRequest = v.strictObject({ ...operator, toVersion: version });
export const SignalRequest = v.strictObject({ payload: v.optional(v.unknown()), by: operator.by });
export const QueryRequest = v.strictObject({ input: v.optional(v.unknown()) });
export const UpdateRequest = v.strictObject({ input: v.optional(v.unknown()) });

const bound = v.union([v.number(), v.string()]);
const bounds = v.record(v.string(), bound);

/** Which runs a bulk command is for: all that is given must match. */
export const BulkFilter = v.strictObject({
  workflow: v.optional(v.pipe(v.array(v.string()), v.minLength(1), v.maxLength(limits.filterValues))),
  type: v.optional(v.string()),
  status: v.optional(v.picklist(runStatuses)),
  attr: v.optional(AttributeFilterSchema),
  attrMin: v.optional(bounds),
  attrMax: v.optional(bounds),
  waits: v.optional(v.strictObject({ kind: v.picklist(waitKinds), name: v.optional(v.string()) })),
});
export type BulkFilter = v.InferOutput<typeof BulkFilter>;

export const BulkCommand = v.variant("kind", [
  v.strictObject({ kind: v.picklist(["cancel", "terminate", "pause", "resume"]), ...operator }),
  v.strictObject({ kind: v.literal("retry"), ...RetryRequest.entries }),
  v.strictObject({ kind: v.literal("reset"), ...ResetRequest.entries }),
  v.strictObject({ kind: v.literal("migrate"), ...MigrateRequest.entries }),
  v.strictObject({ kind: v.literal("signal"), name: v.string(), ...SignalRequest.entries }),
]);
export type BulkCommand = v.InferOutput<typeof BulkCommand>;

/** Body of `POST /v1/workflows/bulk`: one page of runs, newest first; `after` is `next` of the answer before. */
export const BulkRequest = v.strictObject({
  filter: BulkFilter,
  command: BulkCommand,
  dryRun: v.optional(v.boolean()),
  limit: v.optional(v.pipe(v.number(), v.integer(), v.minValue(1), v.maxValue(limits.bulkRuns))),
  after: v.optional(v.string()),
});
export type BulkRequest = v.InferOutput<typeof BulkRequest>;

/** Answer to a dry run. */
export interface BulkPreview {
  /** Runs that match now, counted up to `limits.bulkCounted`. */
  readonly count: number;
  /** False: there are more than were counted. */
  readonly exact: boolean;
  /** The first of them, newest first. */
  readonly ids: readonly string[];
}

/** Answer to one page. */
export interface BulkAnswer {
  /** Runs for which the command was carried out, or was so before. */
  readonly done: number;
  readonly failed: readonly { readonly id: string; readonly code: string; readonly message: string }[];
  /** Give as `after` for the next page; null at the end. */
  readonly next: string | null;
  /** Highest sequence that was written; 0 for none. */
  readonly sequence: number;
}
