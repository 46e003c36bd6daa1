/**
 * All runs that a filter matches, one after the other, each through an index whatever the filter is: nothing is
 * sorted and nothing is held, so a list of millions costs what one row costs, over and over.
 */
import { textsOf, type Filter } from "@millrace/schemas";
import { holdingAfter, shown, withAttribute, type Runs } from "./list-runs.ts";
import type { PreparedQueries } from "./prepared-queries.ts";
import type { RunRecord } from "./run-record.ts";

/** Rows that one statement gives: the next one goes on after the last key. */
const pageRows = 200;

/** One part of the answer: in the order of keys, after a key. Parts have no run in common. */
type Arm = (after: number) => Runs;

/** Lazily, within the caller's read transaction. */
export function* matchingRuns(queries: PreparedQueries, filter: Filter): Generator<RunRecord> {
  for (const arm of armsOf(filter)) {
    for (let after = 0; ;) {
      const page = queries.all<RunRecord>(arm(after).limit(pageRows));
      yield* page;
      if (page.length < pageRows) break;
      after = page.at(-1)?.run ?? after;
    }
  }
}

function armsOf(filter: Filter): readonly Arm[] {
  const { workflow, type, status, attr } = filter;
  const [first, ...others] = Object.entries(attr ?? {});
  const narrowed = (runs: Runs): Runs =>
    others.reduce((query, [key, wanted]) => withAttribute(query, key, textsOf(wanted)), runs);
  const statuses = status === undefined ? null : [...new Set(status)];
  const types = type === undefined ? null : [...new Set(type)];
  const among = (runs: Runs): Runs => {
    const typed = types === null ? runs : runs.where("workflows.type", "in", types);
    return statuses === null ? typed : typed.where("workflows.status", "in", statuses);
  };
  if (workflow !== undefined) {
    const all = (runs: Runs): Runs =>
      among(first === undefined ? runs : narrowed(withAttribute(runs, first[0], textsOf(first[1]))));
    return [...new Set(workflow)].map(
      (id) => (after) => all(shown).where("workflows.id", "=", id).where("workflows.run", ">", after),
    );
  }
  if (first !== undefined) {
    const [key, wanted] = first;
    return [...new Set(textsOf(wanted))].map(
      (text) => (after) => among(narrowed(holdingAfter(key, text, after))),
    );
  }
  // An index on type, status or both ends with the table's key: one arm for each pair is read in its order.
  return (types ?? [null]).flatMap((one) =>
    (statuses ?? [null]).map((state) => (after: number) => {
      const typed = one === null ? shown : shown.where("workflows.type", "=", one);
      const runs = state === null ? typed : typed.where("workflows.status", "=", state);
      return runs.where("workflows.run", ">", after).orderBy("workflows.run");
    }),
  );
}
