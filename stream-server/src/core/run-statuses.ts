import {
  initialRunPhase,
  phaseAfter,
  runPhaseOf,
  type RunPhase,
  type RunState,
  type StatusAround,
} from "@millrace/schemas";
import type { CommitRing } from "./commit-ring.ts";
import { RingFold } from "./ring-fold.ts";
import type { RunCommit } from "./run-commit.ts";
import type { StateSource } from "./run-folds.ts";

/** The status of runs around each commit, for filters that ask for it. */
export class RunStatuses {
  readonly #phases: RingFold<RunPhase>;

  constructor(source: StateSource, ring: CommitRing) {
    this.#phases = new RingFold(
      {
        initial: initialRunPhase,
        after: (before, commit) => phaseAfter(before, commit),
        checkpointSequence: (id) => source.checkpointSequence(id),
        asOf(id, sequence) {
          let state = source.state(id);
          // The read model may be ahead of what is asked for.
          if (state !== null && state.sequence > sequence) state = source.stateAt(id, sequence);
          return state === null ? initialRunPhase : runPhaseOf(state);
        },
      },
      ring,
    );
  }

  /** Of a commit that is in the ring; null when it cannot be told yet. */
  around(commit: RunCommit): StatusAround | null {
    const around = this.#phases.around(commit);
    return around === null ? null : { before: statusOf(around.before), after: around.after.status };
  }
}

/** Null: there is no run yet. */
export function statusOf({ begun, status }: RunPhase): RunState["status"] | null {
  return begun === "no" ? null : status;
}
