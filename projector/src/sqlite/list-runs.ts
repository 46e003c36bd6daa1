import type { Filter } from "@millrace/schemas";
import type { ListOptions } from "../projection.ts";
import type { PreparedQueries } from "./prepared-queries.ts";
import { selectRuns } from "./run-reader.ts";
import type { RunRecord } from "./run-record.ts";

const shown = selectRuns.where("workflows.started_sequence", ">", 0);

/** Runs newest first, before the key `before`, at most `limit`. The key is the table's own, so no page sorts. */
export function listRuns(
  queries: PreparedQueries,
  options: Pick<ListOptions, "type" | "status" | "attributes">,
  before: number | null,
  limit: number,
): RunRecord[] {
  let query = shown.orderBy("workflows.run", "desc").limit(limit);
  if (options.type !== undefined) query = query.where("workflows.type", "=", options.type);
  if (options.status !== undefined) query = query.where("workflows.status", "=", options.status);
  if (before !== null) query = query.where("workflows.run", "<", before);
  for (const [key, value] of Object.entries(options.attributes ?? {})) {
    query = query.where((row) =>
      row.exists(
        row
          .selectFrom("attributes")
          .select("attributes.run")
          .where("attributes.key", "=", key)
          .where("attributes.value", "=", value)
          .whereRef("attributes.run", "=", "workflows.run"),
      ),
    );
  }
  return queries.all<RunRecord>(query);
}

/** Runs that a filter can match, at most `limit` of them, in no particular order. */
export function matchingRuns(queries: PreparedQueries, filter: Filter, limit: number): RunRecord[] {
  if (filter.workflow === undefined && filter.type === undefined)
    return queries.all<RunRecord>(shown.limit(limit));
  const types = filter.type === undefined ? null : new Set(filter.type);
  if (filter.workflow !== undefined) {
    return [...new Set(filter.workflow)]
      .flatMap((id) => queries.all<RunRecord>(shown.where("workflows.id", "=", id)))
      .filter((record) => types === null || types.has(record.type))
      .slice(0, limit);
  }
  const records: RunRecord[] = [];
  for (const type of types ?? []) {
    records.push(
      ...queries.all<RunRecord>(shown.where("workflows.type", "=", type).limit(limit - records.length)),
    );
  }
  return records;
}
