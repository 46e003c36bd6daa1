import type { Database } from "better-sqlite3";
import { buildQuery } from "./build-query.ts";
import type { RunRecord } from "./run-record.ts";
import type { StepsTable } from "./tables.ts";

export interface StoredRun {
  readonly record: RunRecord;
  readonly steps: readonly StepsTable[];
}

/** Columns of a {@link RunRecord}: for queries that choose the runs themselves. */
export const selectRuns = buildQuery
  .selectFrom("workflows")
  .innerJoin("starts", "starts.run", "workflows.run")
  .selectAll("workflows")
  .select(["starts.input", "starts.plan"]);

const byId = selectRuns.where("workflows.id", "=", "?").compile();
const stepsOf = buildQuery.selectFrom("steps").selectAll().where("run", "=", 0).orderBy("position").compile();

export type RunReader = ReturnType<typeof createRunReader>;

/** Reads runs with their steps, on the caller's handle and within the caller's transaction. */
export function createRunReader(database: Database) {
  const findRecord = database.prepare<[string], RunRecord>(byId.sql);
  const findSteps = database.prepare<[number], StepsTable>(stepsOf.sql);
  const withSteps = (record: RunRecord): StoredRun => ({ record, steps: findSteps.all(record.run) });
  return {
    withSteps,
    byId(workflowId: string): StoredRun | null {
      const record = findRecord.get(workflowId);
      return record === undefined ? null : withSteps(record);
    },
  };
}
