import { useMemo } from "react";
import type { WorkflowRow } from "@millrace/schemas";
import type { RowStatus } from "../workflow-store.ts";
import { useRows } from "./use-rows.ts";

export interface UseWorkflowOptions {
  /** Shown until the stream has brought a row: what a server has rendered the page with. */
  readonly initialState?: WorkflowRow | null;
}

export interface WorkflowView {
  /** The projected row; null while it is not known, and when there is no such run (yet): see `loaded`. */
  readonly state: WorkflowRow | null;
  /** The server has answered: a `state` of null means that there is no such run now. */
  readonly loaded: boolean;
  readonly status: RowStatus;
  /** Milliseconds since `state` was last known to be up to date; 0 while live, null before that. */
  readonly lag: number | null;
  /** Why it was given up (`forbidden`, `protocol_version`, …); null while it goes on. */
  readonly error: unknown;
}

/**
 * One run, up to date: rendered again with each of its commits. A run that does not exist yet is waited for. With
 * `null` for an id nothing is followed.
 *
 * @example
 * ```tsx
 * function Order({ id }: { id: string }) {
 *   const { state, status } = useWorkflow(id);
 *   if (state === null) return <p>Loading</p>;
 *   return <p aria-busy={status !== "live"}>{state.message} ({state.currentStep} of {state.totalSteps})</p>;
 * }
 * ```
 */
export function useWorkflow(id: string | null, options: UseWorkflowOptions = {}): WorkflowView {
  const filter = useMemo(() => (id === null ? null : { workflow: [id] }), [id]);
  const snapshot = useRows(filter);
  const initial = options.initialState ?? null;
  return useMemo(() => {
    const { rows, loaded, status, lag, error } = snapshot;
    const state = rows[0] ?? (loaded || initial?.id !== id ? null : initial);
    return { state, loaded, status, lag, error };
  }, [snapshot, initial, id]);
}
