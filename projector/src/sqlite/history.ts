import type { CommitRow, QuarantinedCommit } from "../projection.ts";
import { buildQuery } from "./build-query.ts";
import type { PreparedQueries } from "./prepared-queries.ts";

const quarantineShown = 100;

/** Commits with the columns of a {@link CommitRow}. */
export const selectCommits = buildQuery
  .selectFrom("commits")
  .select([
    "sequence",
    "workflow_id as workflowId",
    "type",
    "at",
    "commit_id as commitId",
    "condition",
    "body",
  ]);

/** A run's commits from a sequence on, in order, lazily. */
export function commitsOfRun(queries: PreparedQueries, run: number, from: number): Iterable<CommitRow> {
  return queries.iterate<CommitRow>(
    selectCommits.where("run", "=", run).where("sequence", ">=", from).orderBy("sequence"),
  );
}

/** Newest first. */
export function quarantineEntries(queries: PreparedQueries): QuarantinedCommit[] {
  return queries.all<QuarantinedCommit>(
    buildQuery
      .selectFrom("quarantine")
      .select(["sequence", "workflow_id as workflowId", "error"])
      .orderBy("sequence", "desc")
      .limit(quarantineShown),
  );
}
