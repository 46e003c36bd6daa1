/**
 * The status of a run, folded by itself: all that a filter for statuses needs, cheap enough to be kept for every
 * commit in memory, where the whole state is not.
 *
 * R1 Over any history, `phaseAfter` gives the status that `evolveCommit` gives. Pure, total, never in place: the
 *    same object when nothing changes.
 *
 * Tested by `run-state.prop.test.ts` against the whole fold.
 */
import type { RunCondition } from "./commit.ts";
import { isOutsideEvent, type WorkflowEvent } from "./events.ts";
import { isClosed, type RunState, type RunStatus } from "./run-state.ts";

/** What decides over the next status. */
export interface RunPhase {
  readonly status: RunStatus;
  readonly driver: RunState["driver"];
  readonly held: boolean;
  /** `no`: not one commit yet. `again`: the next `WorkflowStarted` begins another run number. */
  readonly begun: "no" | "yes" | "again";
}

/** What a run's status was before a commit (null: there was no run) and is after it. */
export interface StatusAround {
  readonly before: RunStatus | null;
  readonly after: RunStatus;
}

/** A commit, as far as its run's status goes. */
export interface PhaseCommit {
  readonly events: readonly WorkflowEvent[];
  readonly condition: RunCondition | null;
}

export const initialRunPhase: RunPhase = { status: "running", driver: "code", held: false, begun: "no" };

/** For who goes on from a folded state. */
export function runPhaseOf(state: RunState): RunPhase {
  return {
    status: state.status,
    driver: state.driver,
    held: state.paused !== null,
    begun: state.startAwaited ? "again" : state.startedSequence === 0 ? "no" : "yes",
  };
}

export function phaseAfter(before: RunPhase, { events, condition }: PhaseCommit): RunPhase {
  let phase = before;
  for (const event of events) phase = afterEvent(phase, event);
  if (condition === null || phase.driver !== "code") return phase;
  if (phase.status !== "running" && phase.status !== "waiting") return phase;
  return withStatus(phase, condition === "running" ? "running" : "waiting");
}

function afterEvent(before: RunPhase, event: WorkflowEvent): RunPhase {
  if (isClosed(before.status) && event.type !== "WorkflowReset") return before;
  const phase = applied(before, event);
  if (before.status !== "stuck" || phase.status !== "stuck") return phase;
  return event.type === "WorkflowTurnFailed" || isOutsideEvent(event) ? phase : withStatus(phase, "running");
}

function applied(phase: RunPhase, event: WorkflowEvent): RunPhase {
  switch (event.type) {
    case "WorkflowStarted":
      return phase.begun === "yes" ? phase : { ...phase, driver: event.data.driver, begun: "yes" };
    case "WorkflowCompleted":
      return withStatus(phase, "completed");
    case "WorkflowFailed":
      return withStatus(phase, "failed");
    case "WorkflowTimedOut":
      return withStatus(phase, "timed_out");
    case "WorkflowCancelled":
      return withStatus(phase, "cancelled");
    case "WorkflowTerminated":
      return withStatus(phase, "terminated");
    case "WorkflowContinuedAsNew":
    case "WorkflowReset":
      return { ...initialRunPhase, begun: "again" };
    case "WorkflowPaused":
      return phase.held ? phase : { ...phase, status: "paused", held: true };
    case "WorkflowResumed":
      return phase.held ? { ...phase, status: "running", held: false } : phase;
    case "WorkflowTurnFailed":
      return withStatus(phase, "stuck");
    default:
      return phase;
  }
}

function withStatus(phase: RunPhase, status: RunStatus): RunPhase {
  return phase.status === status ? phase : { ...phase, status };
}
