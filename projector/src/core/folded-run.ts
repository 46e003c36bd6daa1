import { initialRunState, stepKey, type RunState, type WorkflowEvent } from "@millrace/schemas";

/** A run in the projector's memory: its state, and what of it the tables do not have yet. */
export interface FoldedRun {
  /** Key of the run's rows: sequence of its first commit, so that the rows of one time lie side by side. */
  readonly run: number;
  readonly state: RunState;
  /** Place of each step, by step key: the order in which they were begun. */
  readonly positions: Map<string, number>;
  /** Sequence of the commit that stopped this row; null while it goes on. */
  quarantinedSequence: number | null;
  /** `state.startedSequence` as the tables have it; null when the run has no row yet. */
  storedStart: number | null;
  /** Keys of the steps whose rows are out of date. */
  readonly changedSteps: Set<string>;
  /** A new run number began: the steps in the tables are those of an earlier one. */
  stepsReplaced: boolean;
  /** About how much memory this takes: bytes of the bodies folded in. */
  bytes: number;
}

export function beginFoldedRun(run: number, id: string, type: string): FoldedRun {
  return {
    run,
    state: initialRunState(id, type),
    positions: new Map(),
    quarantinedSequence: null,
    storedStart: null,
    changedSteps: new Set(),
    stepsReplaced: false,
    bytes: 0,
  };
}

/** Notes which steps an event touched, after it was folded in. Steps are numbered as `evolve` adds them. */
export function noteStep(run: FoldedRun, event: WorkflowEvent): void {
  if (event.type === "WorkflowReset" || event.type === "WorkflowContinuedAsNew") {
    run.positions.clear();
    run.changedSteps.clear();
    run.stepsReplaced = true;
    return;
  }
  if (!("occurrence" in event.data)) return;
  const key = stepKey(event.data.name, event.data.occurrence);
  // A closed run takes no step.
  if (!run.state.steps.has(key)) return;
  if (!run.positions.has(key)) run.positions.set(key, run.positions.size);
  run.changedSteps.add(key);
}
