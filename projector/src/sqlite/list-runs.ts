import { textsOf } from "@millrace/schemas";
import { sql, type ExpressionBuilder } from "kysely";
import type { RunFilter } from "../projection.ts";
import { buildQuery } from "./build-query.ts";
import type { PreparedQueries } from "./prepared-queries.ts";
import { selectRuns } from "./run-reader.ts";
import type { RunRecord } from "./run-record.ts";
import { stillHolds, type ProjectionTables } from "./tables.ts";

export const shown = selectRuns.where("workflows.started_sequence", ">", 0);
export type Runs = typeof shown;

/** Runs newest first, before the key `before`, at most `limit`. The key is the table's own, so no page sorts. */
export function listRuns(
  queries: PreparedQueries,
  options: RunFilter,
  before: number | null,
  limit: number,
): RunRecord[] {
  const query = matchingFilter(options, before, limit);
  return query === null ? [] : queries.all<RunRecord>(query);
}

/** How many there are, counted up to `max`. */
export function countRuns(queries: PreparedQueries, options: RunFilter, max: number): number {
  const query = matchingFilter(options, null, max);
  if (query === null) return 0;
  const counted = buildQuery
    .selectFrom(query.as("runs"))
    .select((row) => row.fn.countAll<number>().as("count"));
  return queries.all<{ count: number }>(counted)[0]?.count ?? 0;
}

/** Null when nothing can match. */
function matchingFilter(options: RunFilter, before: number | null, limit: number): Runs | null {
  const attributes = Object.entries(options.attributes ?? {});
  const [first, ...others] = attributes;
  const narrowed = (runs: Runs): Runs => {
    let query = runs;
    if (options.workflow !== undefined) query = query.where("workflows.id", "in", [...options.workflow]);
    if (options.type !== undefined) query = query.where("workflows.type", "=", options.type);
    if (options.status !== undefined) query = query.where("workflows.status", "in", [options.status].flat());
    if (before !== null) query = query.where("workflows.run", "<", before);
    if (options.waits !== undefined) query = withWait(query, options.waits);
    for (const [key, wanted] of others) query = withAttribute(query, key, textsOf(wanted));
    for (const [key, range] of Object.entries(options.ranges ?? {})) {
      if (range.min !== undefined) query = withBound(query, key, ">=", range.min);
      if (range.max !== undefined) query = withBound(query, key, "<=", range.max);
    }
    return query;
  };
  if (first === undefined) return narrowed(shown).orderBy("workflows.run", "desc").limit(limit);
  // The first attribute's index leads, one arm per value: a page costs what matches and not what is there.
  const [key, wanted] = first;
  const [one, ...more] = [...new Set(textsOf(wanted))].map((text) => narrowed(holding(key, text)));
  if (one === undefined) return null;
  const query = more.reduce((union, arm) => union.unionAll(arm), one);
  return query.orderBy(sql.ref("position"), "desc").limit(limit);
}

/** Runs that have the value now, in the order of keys, after a key. */
export function holdingAfter(key: string, text: string, after: number): Runs {
  return holders(key, text).where("attributes.run", ">", after).orderBy("attributes.run");
}

/** Runs that have the value now. `position` is their key as the index has it: only by that name it gives the order. */
function holding(key: string, text: string): Runs {
  return holders(key, text);
}

function holders(key: string, text: string) {
  return shown
    .innerJoin("attributes", "attributes.run", "workflows.run")
    .select("attributes.run as position")
    .where("attributes.key", "=", key)
    .where("attributes.text", "=", text)
    .where("attributes.until", "=", stillHolds);
}

export function withAttribute(query: Runs, key: string, texts: readonly string[]): Runs {
  return query.where((row) => row.exists(held(row, key).where("attributes.text", "in", [...texts])));
}

function withWait(query: Runs, { kind, name }: NonNullable<RunFilter["waits"]>): Runs {
  return query.where((row) => {
    const waits = row
      .selectFrom("waits")
      .select("waits.run")
      .whereRef("waits.run", "=", "workflows.run")
      .where("waits.kind", "=", kind);
    return row.exists(name === undefined ? waits : waits.where("waits.name", "=", name));
  });
}

function withBound(query: Runs, key: string, operator: ">=" | "<=", bound: number | string): Runs {
  return query.where((row) =>
    row.exists(
      typeof bound === "number"
        ? held(row, key).where("attributes.number", operator, bound)
        : held(row, key).where("attributes.number", "is", null).where("attributes.text", operator, bound),
    ),
  );
}

function held(row: ExpressionBuilder<ProjectionTables, "workflows" | "starts">, key: string) {
  return row
    .selectFrom("attributes")
    .select("attributes.run")
    .whereRef("attributes.run", "=", "workflows.run")
    .where("attributes.key", "=", key)
    .where("attributes.until", "=", stillHolds);
}
