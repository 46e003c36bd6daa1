import { useMemo } from "react";
import { canonicalFilter, type WorkflowRow } from "@millrace/schemas";
import type { RowFilter, RowStatus } from "../workflow-store.ts";
import { useRows } from "./use-rows.ts";

export interface WorkflowsView {
  /** Newest start first. Rows that did not change are the same objects as before. */
  readonly rows: readonly WorkflowRow[];
  /** The first complete list is there. */
  readonly loaded: boolean;
  readonly status: RowStatus;
  /** Milliseconds since `rows` was last known to be up to date; 0 while live, null before that. */
  readonly lag: number | null;
  /** Why it was given up; null while it goes on. */
  readonly error: unknown;
}

/**
 * All runs that match a filter, up to date: they come in and leave as they begin and cease to match. `{}` is all of
 * them; more than 10,000 end it with `limit_exceeded`. The filter may be written in place: equal ones are the same.
 *
 * @example
 * ```tsx
 * const { rows } = useWorkflows({ type: ["order"], attr: { customer: "7" } });
 * ```
 */
export function useWorkflows(filter: RowFilter | null): WorkflowsView {
  const key = filter === null ? null : canonicalFilter(filter);
  // By what it means, not by identity: a filter is a new object at each rendering.
  const kept = useMemo(() => (key === null ? null : (JSON.parse(key) as RowFilter)), [key]);
  return useRows(kept);
}
