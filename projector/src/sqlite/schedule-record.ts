import type { ScheduleState } from "@millrace/schemas";
import type { FoldedSchedule } from "../core/folded-schedule.ts";
import { buildQuery } from "./build-query.ts";
import type { PreparedQueries } from "./prepared-queries.ts";
import type { SchedulesTable } from "./tables.ts";

export function toScheduleRecord({ run, id, state, quarantinedSequence }: FoldedSchedule): SchedulesTable {
  return {
    run,
    id,
    status: state?.status ?? null,
    workflow_type: state?.spec.workflow.type ?? null,
    state: state === null ? null : JSON.stringify(state),
    quarantined_sequence: quarantinedSequence,
  };
}

export function toFoldedSchedule(record: SchedulesTable): FoldedSchedule {
  return {
    run: record.run,
    id: record.id,
    state: toScheduleState(record),
    quarantinedSequence: record.quarantined_sequence,
  };
}

export function toScheduleState({ state }: Pick<SchedulesTable, "state">): ScheduleState | null {
  return state === null ? null : (JSON.parse(state) as ScheduleState);
}

export interface ScheduleQuery {
  readonly status?: "active" | "paused";
  readonly type?: string;
  /** Exclusive. */
  readonly after: string;
  readonly limit: number;
}

/** Schedules that are not deleted, in the order of their ids. */
export function listSchedules(queries: PreparedQueries, options: ScheduleQuery): ScheduleState[] {
  const { status, type, after, limit } = options;
  let query = buildQuery
    .selectFrom("schedules")
    .select("state")
    .where("id", ">", after)
    .orderBy("id")
    .limit(limit);
  query =
    status === undefined
      ? query.where("status", "in", ["active", "paused"])
      : query.where("status", "=", status);
  if (type !== undefined) query = query.where("workflow_type", "=", type);
  return queries
    .all<Pick<SchedulesTable, "state">>(query)
    .map(toScheduleState)
    .filter((state) => state !== null);
}

/** A schedule that is not deleted; null when there is none. */
export function scheduleById(queries: PreparedQueries, id: string): ScheduleState | null {
  const [record] = queries.all<Pick<SchedulesTable, "state">>(
    buildQuery
      .selectFrom("schedules")
      .select("state")
      .where("id", "=", id)
      .where("status", "in", ["active", "paused"]),
  );
  return record === undefined ? null : toScheduleState(record);
}
