import * as v from "valibot";
import { limits } from "./limits.ts";

/** What happens to a tick that comes while a run of the schedule is open. */
export const OverlapPolicy = v.picklist(["skip", "buffer-one", "allow", "cancel-previous"]);
export type OverlapPolicy = v.InferOutput<typeof OverlapPolicy>;

const durationMs = v.pipe(v.number(), v.safeInteger(), v.minValue(0));

/** As `AttributeValue` in `events.ts`, which imports this file. */
const attributeValue = v.union([v.string(), v.pipe(v.number(), v.finite()), v.boolean()]);
/** valibot takes an array for a record with the keys 0, 1, ... */
const attributes = v.pipe(
  v.unknown(),
  v.check((value) => !Array.isArray(value), "Invalid type: Expected Object but received Array"),
  v.record(v.string(), attributeValue),
);

/** The run that a tick starts. */
export const ScheduledWorkflow = v.strictObject({
  type: v.string(),
  input: v.optional(v.unknown()),
  attributes: v.optional(attributes),
  /** Time limit of each run, in milliseconds. Absent: its workflow's own. */
  timeoutMs: v.optional(v.pipe(v.number(), v.safeInteger(), v.minValue(1))),
});
export type ScheduledWorkflow = v.InferOutput<typeof ScheduledWorkflow>;

/**
 * A schedule as it is asked for: body of `POST /v1/schedules` (with `id`) and of `PUT /v1/schedules/{id}`. Exactly one
 * of `cron` and `everyMs`; times are ISO 8601.
 */
export const ScheduleRequest = v.strictObject({
  /** Five fields (minute first) or six (second first). */
  cron: v.optional(v.pipe(v.string(), v.maxLength(256))),
  /** IANA name; only with `cron`. Default `UTC`. */
  timeZone: v.optional(v.pipe(v.string(), v.maxLength(64))),
  /** An interval, counted from `startAt`, or from 1970. */
  everyMs: v.optional(v.pipe(v.number(), v.safeInteger(), v.minValue(limits.scheduleIntervalMsMin))),
  /** No tick before this. */
  startAt: v.optional(v.string()),
  /** No tick after this. */
  endAt: v.optional(v.string()),
  /** Each tick is late by a part of this that is the same for all who look, never so much that it meets the next one. */
  jitterMs: v.optional(durationMs),
  /** Default `skip`. */
  overlap: v.optional(OverlapPolicy),
  /** A tick that could not be fired for longer than this is given up. Default 3,600,000. */
  catchUpWindowMs: v.optional(durationMs),
  workflow: ScheduledWorkflow,
  note: v.optional(v.pipe(v.string(), v.maxLength(limits.messageChars))),
});
export type ScheduleRequest = v.InferOutput<typeof ScheduleRequest>;

/**
 * A schedule as it is stored: complete, so that a later default changes no old schedule. Times in ms since 1970. The
 * runs' input stands beside it in the event, as every payload does.
 */
export const StoredScheduleSpec = v.object({
  cron: v.nullable(v.string()),
  timeZone: v.string(),
  everyMs: v.nullable(v.number()),
  startAt: v.nullable(v.number()),
  endAt: v.nullable(v.number()),
  jitterMs: v.number(),
  overlap: OverlapPolicy,
  catchUpWindowMs: v.number(),
  workflow: v.object({
    type: v.string(),
    attributes: v.record(v.string(), attributeValue),
    timeoutMs: v.nullable(v.number()),
  }),
  note: v.nullable(v.string()),
});
export type StoredScheduleSpec = v.InferOutput<typeof StoredScheduleSpec>;

/** The same with the input of its runs. */
export interface ScheduleSpec extends Omit<StoredScheduleSpec, "workflow"> {
  readonly workflow: StoredScheduleSpec["workflow"] & { readonly input: unknown };
}

export const scheduleDefaults = {
  timeZone: "UTC",
  jitterMs: 0,
  overlap: "skip",
  // A deploy or a broker's restart loses no tick; a machine that slept over the weekend does not start two days of runs.
  catchUpWindowMs: 3_600_000,
} as const;
