import * as v from "valibot";
import { StoredScheduleSpec } from "./schedule-spec.ts";

const operator = { reason: v.optional(v.string()), by: v.optional(v.string()) };

/** Why a run was started: its tick came, somebody asked for one now, or for a span of the past. */
const TriggerKind = v.picklist(["tick", "manual", "backfill"]);
export type TriggerKind = v.InferOutput<typeof TriggerKind>;

/** A run of a schedule. `tick` is the time that it stands for, without jitter. */
const ScheduledRun = v.object({ tick: v.number(), id: v.string(), kind: TriggerKind });
export type ScheduledRun = v.InferOutput<typeof ScheduledRun>;

/** Ticks that start nothing. `count` stops at a limit: `from` and `to` are then the whole span. */
const SkippedTicks = v.object({
  /** `overlap`: a run was open. `missed`: nobody could fire it within the catch-up window. */
  reason: v.picklist(["overlap", "missed"]),
  from: v.number(),
  to: v.number(),
  count: v.number(),
});
export type SkippedTicks = v.InferOutput<typeof SkippedTicks>;

/**
 * What a schedule is after its event, but for the spec. Every event carries it, so that an owner takes a schedule over
 * by reading its last commit, however many ticks it has had.
 */
const ScheduleMemo = v.object({
  /** Sequence of the commit that has the spec; null: this one. */
  specSequence: v.nullable(v.number()),
  createdAt: v.number(),
  /** Commits of the schedule so far, this one included. */
  commits: v.number(),
  paused: v.nullable(
    v.object({ since: v.number(), reason: v.nullable(v.string()), by: v.nullable(v.string()) }),
  ),
  /** Ticks up to here are decided. */
  through: v.number(),
  /** The next tick and when it is due (with jitter); null when none is left. */
  nextTickAt: v.nullable(v.number()),
  nextDueAt: v.nullable(v.number()),
  /** Runs started and not known to be closed, oldest first. */
  open: v.array(ScheduledRun),
  /** Ticks that start when the open runs have closed, oldest first. */
  waiting: v.array(ScheduledRun),
  /** Spans of the past whose ticks are still to be started: after `after`, up to `to`. */
  backfills: v.array(v.object({ after: v.number(), to: v.number() })),
  counts: v.object({ triggered: v.number(), skipped: v.number(), missed: v.number() }),
  /** Runs started last, newest first. */
  recent: v.array(v.object({ ...ScheduledRun.entries, at: v.number() })),
  failure: v.nullable(v.object({ id: v.string(), tick: v.number(), message: v.string(), at: v.number() })),
});
export type ScheduleMemo = v.InferOutput<typeof ScheduleMemo>;

const specified = { ...operator, spec: StoredScheduleSpec, input: v.optional(v.unknown()) };

/** Events of schedules. They stand in a subject of the schedule's own, never in a run's history. */
export const scheduleEventSchemas = {
  ScheduleCreated: v.object({ ...specified, memo: ScheduleMemo }),
  ScheduleUpdated: v.object({ ...specified, memo: ScheduleMemo }),
  SchedulePaused: v.object({ ...operator, memo: ScheduleMemo }),
  ScheduleResumed: v.object({ ...operator, memo: ScheduleMemo }),
  /** Decided before it is done: `runs` are started after this is in the log. */
  ScheduleTriggered: v.object({
    by: v.optional(v.string()),
    runs: v.array(ScheduledRun),
    skipped: v.array(SkippedTicks),
    /** Asked for now, and waiting for its turn. */
    waiting: v.optional(v.array(ScheduledRun)),
    backfill: v.optional(v.object({ from: v.number(), to: v.number() })),
    memo: ScheduleMemo,
  }),
  /** A run that was decided could not be started, and will not be: its input does not fit, for instance. */
  ScheduleStartFailed: v.object({ run: ScheduledRun, error: v.string(), memo: ScheduleMemo }),
  ScheduleDeleted: v.object({ ...operator, memo: ScheduleMemo }),
} as const;
