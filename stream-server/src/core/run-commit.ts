import {
  scheduleType,
  isClosingEvent,
  matchesEvent,
  matchesRun,
  type Filter,
  type RunCondition,
  type StreamShape,
  type WorkflowEvent,
} from "@millrace/schemas";

/** A commit as the stream server carries it: decoded, without the body's text. */
export interface RunCommit {
  readonly sequence: number;
  readonly workflowId: string;
  readonly type: string;
  /** The broker's time, milliseconds since 1970. */
  readonly at: number;
  /** What the run's owner declared with it; null for a fact from outside. */
  readonly condition: RunCondition | null;
  readonly events: readonly WorkflowEvent[];
  /** Size of the stored body, for budgets. */
  readonly bytes: number;
}

/**
 * Whether a subscriber of the filter is to see this commit, but for its run's attributes and status: its run matches,
 * and one of its events at least.
 */
export function matchesCommit(filter: Filter, commit: RunCommit): boolean {
  if (!matchesRun(filter, commit.workflowId, commit.type)) return false;
  // A schedule has no status of a run.
  if (filter.status !== undefined && !hasRow(commit)) return false;
  return filter.event === undefined || commit.events.some((event) => matchesEvent(filter, event.type));
}

/** A schedule has events and no row of a run: subscribers of states alone see nothing of its commits. */
export function hasShape(shape: StreamShape | "update", commit: RunCommit): boolean {
  return shape === "events" || shape === "both" || hasRow(commit);
}

/** Whether there is a row of a run after this commit. */
export function hasRow({ type }: RunCommit): boolean {
  return type !== scheduleType;
}

/** Whether the run is closed after this commit (it may have been closed before). */
export function closesRun(commit: RunCommit): boolean {
  return commit.events.some(isClosingEvent);
}
