/** What a commit says in its headers for whoever owns the run next. Pure over the code's requests and the run's state. */
import { stepKey, type RunCondition, type RunState, type WorkflowEvent } from "@millrace/schemas";
import type { Request } from "../requests.ts";

/** What the code waits for once the events of a commit are recorded. */
export interface Waiting {
  /** Null: there is no code that waits, or its end is not recorded yet. */
  readonly pending: Iterable<Request> | null;
  readonly state: RunState;
  /** Of the commit. */
  readonly events: readonly WorkflowEvent[];
}

/** Whether code of this run works, or who or what it waits for. */
export function conditionAfter({ pending, state, events }: Waiting): RunCondition {
  // A deploy may mend what failed, so whoever takes over tries.
  const failed = events.at(-1)?.type === "WorkflowTurnFailed";
  if (failed || pending === null || state.paused !== null) return "running";
  let handedOff = state.open !== null && Object.keys(state.open.children).length > 0;
  for (const { kind, key } of pending) {
    if (kind === "task" || kind === "child") handedOff = true;
    else if ((kind === "step" || kind === "compensation") && !backsOff(key, state, events)) return "running";
  }
  return handedOff ? "handed-off" : "waiting";
}

/** Earliest time at which something is due, milliseconds since 1970; null for none. Tasks are loaded before theirs. */
export function dueAfter({ pending, state, events }: Waiting): number | null {
  let earliest = state.deadlineAt ?? Number.POSITIVE_INFINITY;
  const consider = (dueAt: number | null): void => {
    if (dueAt !== null && dueAt < earliest) earliest = dueAt;
  };
  for (const request of pending ?? [])
    if (request.kind === "timer" || request.kind === "wait") consider(request.dueAt);
  for (const event of events) if (event.type === "StepRetryScheduled") consider(event.data.nextAttemptAt);
  for (const step of state.steps.values()) if (step.status === "retrying") consider(step.nextAttemptAt);
  return Number.isFinite(earliest) ? earliest : null;
}

/** The attempt is over and the next one is not begun, once these events are recorded. */
function backsOff(key: string, state: RunState, events: readonly WorkflowEvent[]): boolean {
  const last = events.findLast(
    ({ data }) => "occurrence" in data && stepKey(data.name, data.occurrence) === key,
  );
  if (last !== undefined) return last.type === "StepRetryScheduled";
  return state.steps.get(key)?.status === "retrying";
}
