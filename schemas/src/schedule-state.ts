/**
 * A schedule, folded from its commits.
 *
 * I1 Folding the commit that has the spec and the last commit gives the same as folding all of them: each event
 *    carries what the schedule is after it (`memo`), so that a schedule of a million ticks is loaded in two reads.
 * I2 `evolveSchedule` is total: events of runs are ignored; commits at or below `sequence` change nothing.
 */
import type { WorkflowEvent } from "./events.ts";
import type { ScheduleMemo } from "./schedule-events.ts";
import type { ScheduleSpec } from "./schedule-spec.ts";

export type ScheduleStatus = "active" | "paused" | "deleted";

export interface ScheduleState extends Omit<ScheduleMemo, "specSequence"> {
  readonly id: string;
  readonly status: ScheduleStatus;
  readonly spec: ScheduleSpec;
  /** Sequence of the commit that has the spec. */
  readonly specSequence: number;
  readonly updatedAt: number;
  /** Sequence of the last commit folded in. */
  readonly sequence: number;
}

export interface ScheduleCommit {
  readonly workflowId: string;
  readonly sequence: number;
  /** The broker's time, milliseconds since 1970. */
  readonly at: number;
  readonly events: readonly WorkflowEvent[];
}

/** Null before `ScheduleCreated`, which also begins a deleted schedule anew. Gives a new object. */
export function evolveSchedule(state: ScheduleState | null, commit: ScheduleCommit): ScheduleState | null {
  if (state !== null && commit.sequence <= state.sequence) return state;
  let folded = state;
  for (const event of commit.events) folded = evolve(folded, event, commit);
  return folded;
}

function evolve(
  state: ScheduleState | null,
  event: WorkflowEvent,
  { workflowId, sequence, at }: ScheduleCommit,
): ScheduleState | null {
  switch (event.type) {
    case "ScheduleCreated":
    case "ScheduleUpdated": {
      const { spec, input, memo } = event.data;
      return {
        ...memo,
        id: workflowId,
        status: memo.paused === null ? "active" : "paused",
        spec: { ...spec, workflow: { ...spec.workflow, input: input ?? null } },
        specSequence: sequence,
        updatedAt: at,
        sequence,
      };
    }
    case "SchedulePaused":
    case "ScheduleResumed":
    case "ScheduleTriggered":
    case "ScheduleStartFailed":
    case "ScheduleDeleted": {
      if (state === null) return null;
      const { memo } = event.data;
      const status =
        event.type === "ScheduleDeleted" || state.status === "deleted"
          ? "deleted"
          : memo.paused === null
            ? "active"
            : "paused";
      return { ...state, ...memo, status, specSequence: state.specSequence, updatedAt: at, sequence };
    }
    default:
      return state;
  }
}

/**
 * Where the spec of a schedule stands, as its last commit says: that commit itself (`sequence`), or an earlier one.
 * Null for a commit that is none of a schedule's.
 */
export function specSequenceOf(commit: ScheduleCommit): number | null {
  const data = commit.events.at(-1)?.data;
  if (data === undefined || !("memo" in data)) return null;
  return data.memo.specSequence ?? commit.sequence;
}
