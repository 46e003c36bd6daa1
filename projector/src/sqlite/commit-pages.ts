/** Deep replay: pages of the history for a filter, read through an index whatever the filter is. */
import { matchesAround, textsOf, type AttributesAround, type Filter } from "@millrace/schemas";
import { sql } from "kysely";
import type { CommitPage, CommitRow } from "../projection.ts";
import { selectCommits } from "./history.ts";
import { attributesAround, attributeSpans, type AttributeSpan } from "./attribute-history.ts";
import { buildQuery } from "./build-query.ts";
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

/** Candidates looked at for one page: where few of them match, it ends before it holds much. */
const candidatesMax = 5_000;
/** Runs with an attribute that are read one by one; beyond it, all commits are looked at. */
const attributeRunsMax = 100;

/** One page, within the caller's read transaction, in which `checkpoint` was read too. */
export function readCommitPage(queries: PreparedQueries, request: PageRequest): CommitPage {
  const { filter, after, maxCommits, maxBytes, checkpoint } = request;
  const types = filter.type === undefined ? null : new Set(filter.type);
  const around = filter.attr === undefined ? null : attributesReader(queries, after);
  const commits: CommitRow[] = [];
  let bytes = 0;
  let candidates = 0;
  let seen = after;
  for (const candidate of matching(queries, filter, after)) {
    if (candidate.sequence > checkpoint) break;
    if (candidates++ >= candidatesMax) return { commits, upTo: seen };
    const commit = around === null ? candidate : { ...candidate, attributes: around(candidate) };
    const wanted =
      (types === null || types.has(commit.type)) &&
      (commit.attributes === undefined || matchesAround(filter, commit.attributes));
    if (wanted) {
      bytes += commit.body.length;
      const full = commits.length >= maxCommits || (commits.length > 0 && bytes > maxBytes);
      // There is more that matches: the page speaks for no more than what was looked at.
      if (full) return { commits, upTo: seen };
      commits.push(commit);
    }
    seen = commit.sequence;
  }
  return { commits, upTo: checkpoint };
}

/** What runs had around their commits; each run is read once a page. */
function attributesReader(queries: PreparedQueries, after: number): (commit: CommitRow) => AttributesAround {
  const byRun = new Map<string, AttributeSpan[]>();
  return ({ workflowId, sequence }) => {
    let spans = byRun.get(workflowId);
    if (spans === undefined) {
      const run = queries.runOf(workflowId);
      spans = run === null ? [] : attributeSpans(queries, run, after + 1);
      byRun.set(workflowId, spans);
    }
    return attributesAround(spans, sequence);
  };
}

/** Commits after a sequence that can match, in order, lazily. */
function matching(queries: PreparedQueries, filter: Filter, after: number): Iterable<CommitRow> {
  if (filter.workflow !== undefined) {
    const runs = [...new Set(filter.workflow)].map((id) => queries.runOf(id)).filter((run) => run !== null);
    return runs.length === 0 ? [] : queries.iterate<CommitRow>(merged("run", runs, after));
  }
  const having = runsHaving(queries, filter, after);
  if (having !== null)
    return having.length === 0 ? [] : queries.iterate<CommitRow>(merged("run", having, after));
  if (filter.type !== undefined)
    return queries.iterate<CommitRow>(merged("type", [...new Set(filter.type)], after));
  return queries.iterate<CommitRow>(afterSequence(after).orderBy("sequence"));
}

/** Runs that have or had, at a commit after `after`, what the filter wants; null: not asked for, or they are many. */
function runsHaving(queries: PreparedQueries, { attr }: Filter, after: number): readonly number[] | null {
  const [first] = Object.entries(attr ?? {});
  if (first === undefined) return null;
  const [key, wanted] = first;
  const rows = queries.all<{ run: number }>(
    buildQuery
      .selectFrom("attributes")
      .select("run")
      .distinct()
      .where("key", "=", key)
      .where("text", "in", [...textsOf(wanted)])
      .where("until", ">", after)
      .limit(attributeRunsMax + 1),
  );
  return rows.length > attributeRunsMax ? null : rows.map(({ run }) => run);
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
