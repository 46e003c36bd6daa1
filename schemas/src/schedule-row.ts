import type { Attributes } from "./attributes.ts";
import { isoTime } from "./row.ts";
import type { ScheduledRun, TriggerKind } from "./schedule-events.ts";
import type { OverlapPolicy } from "./schedule-spec.ts";
import type { ScheduleState, ScheduleStatus } from "./schedule-state.ts";

/** A run of a schedule as people see it. */
export interface ScheduledRunRow {
  readonly workflowId: string;
  /** The time that it stands for, without jitter. */
  readonly tick: string;
  readonly kind: TriggerKind;
}

/** A schedule as people see it: the answer of `GET /v1/schedules/{id}`. Times are ISO 8601 with milliseconds, UTC. */
export interface ScheduleRow {
  readonly id: string;
  readonly status: ScheduleStatus;
  readonly paused: {
    readonly since: string;
    readonly reason: string | null;
    readonly by: string | null;
  } | null;
  readonly cron: string | null;
  readonly timeZone: string;
  readonly everyMs: number | null;
  readonly startAt: string | null;
  readonly endAt: string | null;
  readonly jitterMs: number;
  readonly overlap: OverlapPolicy;
  readonly catchUpWindowMs: number;
  readonly workflow: {
    readonly type: string;
    readonly input: unknown;
    readonly attributes: Attributes;
    readonly timeoutMs: number | null;
  };
  readonly note: string | null;
  /** The next tick; in the past when nobody fires it. Null when paused, or when none is left. */
  readonly nextTickAt: string | null;
  /** The same with jitter. */
  readonly nextDueAt: string | null;
  /** Not known to be closed when the schedule was last touched. */
  readonly openRuns: readonly ScheduledRunRow[];
  readonly waitingRuns: readonly ScheduledRunRow[];
  readonly backfills: readonly { readonly after: string; readonly to: string }[];
  /** `skipped` for an open run, `missed` since nobody could fire them in time. */
  readonly counts: { readonly triggered: number; readonly skipped: number; readonly missed: number };
  /** Newest first. */
  readonly recentRuns: readonly (ScheduledRunRow & { readonly at: string })[];
  /** The last run that could not be started. */
  readonly failure: {
    readonly workflowId: string;
    readonly tick: string;
    readonly message: string;
    readonly at: string;
  } | null;
  /** Commits of its history; at `limits.scheduleCommits` it pauses itself. */
  readonly commits: number;
  readonly createdAt: string;
  readonly updatedAt: string;
  /** Sequence of the last commit that is in this row. */
  readonly sequence: number;
}

export function toScheduleRow(state: ScheduleState): ScheduleRow {
  const { spec, paused, failure } = state;
  const fires = state.status === "active";
  return {
    id: state.id,
    status: state.status,
    paused: paused === null ? null : { ...paused, since: isoTime(paused.since) },
    cron: spec.cron,
    timeZone: spec.timeZone,
    everyMs: spec.everyMs,
    startAt: isoOrNull(spec.startAt),
    endAt: isoOrNull(spec.endAt),
    jitterMs: spec.jitterMs,
    overlap: spec.overlap,
    catchUpWindowMs: spec.catchUpWindowMs,
    workflow: spec.workflow,
    note: spec.note,
    nextTickAt: fires ? isoOrNull(state.nextTickAt) : null,
    nextDueAt: fires ? isoOrNull(state.nextDueAt) : null,
    openRuns: state.open.map(toRunRow),
    waitingRuns: state.waiting.map(toRunRow),
    backfills: state.backfills.map(({ after, to }) => ({ after: isoTime(after), to: isoTime(to) })),
    counts: state.counts,
    recentRuns: state.recent.map((run) => ({ ...toRunRow(run), at: isoTime(run.at) })),
    failure:
      failure === null
        ? null
        : {
            workflowId: failure.id,
            tick: isoTime(failure.tick),
            message: failure.message,
            at: isoTime(failure.at),
          },
    commits: state.commits,
    createdAt: isoTime(state.createdAt),
    updatedAt: isoTime(state.updatedAt),
    sequence: state.sequence,
  };
}

function toRunRow({ id, tick, kind }: ScheduledRun): ScheduledRunRow {
  return { workflowId: id, tick: isoTime(tick), kind };
}

function isoOrNull(ms: number | null): string | null {
  return ms === null ? null : isoTime(ms);
}
