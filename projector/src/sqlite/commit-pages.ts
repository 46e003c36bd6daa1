/** Deep replay: pages of the history for a filter, read through an index whatever the filter is. */
import type { Filter } from "@millrace/schemas";
import { sql } from "kysely";
import type { CommitPage, CommitRow } from "../projection.ts";
import { selectCommits } from "./history.ts";
import type { PreparedQueries } from "./prepared-queries.ts";

export interface PageRequest {
  readonly filter: Filter;
  /** Exclusive. */
  readonly after: number;
  readonly maxCommits: number;
  /** Of bodies; one commit is given however large it is. */
  readonly maxBytes: number;
  readonly checkpoint: number;
}

/** One page, within the caller's read transaction, in which `checkpoint` was read too. */
export function readCommitPage(queries: PreparedQueries, request: PageRequest): CommitPage {
  const { filter, after, maxCommits, maxBytes, checkpoint } = request;
  const types = filter.type === undefined ? null : new Set(filter.type);
  const commits: CommitRow[] = [];
  let bytes = 0;
  for (const commit of matching(queries, filter, after)) {
    if (commit.sequence > checkpoint) break;
    if (types !== null && !types.has(commit.type)) continue;
    bytes += commit.body.length;
    const full = commits.length >= maxCommits || (commits.length > 0 && bytes > maxBytes);
    // There is more that matches: the page speaks for no more than what it holds.
    if (full) return { commits, upTo: commits.at(-1)?.sequence ?? after };
    commits.push(commit);
  }
  return { commits, upTo: checkpoint };
}

/** Commits after a sequence that can match, in order, lazily. */
function matching(queries: PreparedQueries, filter: Filter, after: number): Iterable<CommitRow> {
  if (filter.workflow !== undefined) {
    const runs = [...new Set(filter.workflow)].map((id) => queries.runOf(id)).filter((run) => run !== null);
    return runs.length === 0 ? [] : queries.iterate<CommitRow>(merged("run", runs, after));
  }
  if (filter.type !== undefined)
    return queries.iterate<CommitRow>(merged("type", [...new Set(filter.type)], after));
  return queries.iterate<CommitRow>(afterSequence(after).orderBy("sequence"));
}

/**
 * One arm per value, each read through its index in the order of sequences, and merged: SQLite runs them as
 * coroutines, so a page costs its own length. An `in (…)` would read and sort everything that is left.
 */
function merged(column: "run" | "type", values: readonly (string | number)[], after: number) {
  const arm = (value: string | number) => afterSequence(after).where(column, "=", value as never);
  const [first, ...others] = values;
  const arms = others.reduce((union, value) => union.unionAll(arm(value)), arm(first as string | number));
  return arms.orderBy(sql.ref("sequence"));
}

function afterSequence(after: number) {
  return selectCommits.where("sequence", ">", after);
}
