/**
 * The state of runs as of each commit, for `shape: "state"` and `"both"`, the plain updates, and filters for statuses.
 *
 * Owns: folded states of runs that live subscribers watch, exact at the ring's head; the states that a catching-up
 * subscription carries, exact at its position. Does not own: the read model, the ring.
 *
 * I1 A row handed out for a commit is the run folded exactly up to that commit: equal to `projection.stateAt`.
 * I2 Nothing is guessed: when neither read model nor ring reach, the answer is null, and the caller waits.
 * I3 What a commit changed is told against the row exactly as of the run's commit before.
 *
 * Tested by `run-folds.prop.test.ts` against a fold of the whole history.
 */
import {
  evolveCommit,
  initialRunState,
  isClosed,
  runPhaseOf,
  toRow,
  type RunState,
  type StatusAround,
} from "@millrace/schemas";
import type { CommitRing } from "./commit-ring.ts";
import type { RunCommit } from "./run-commit.ts";
import { statusOf } from "./run-statuses.ts";
import { FoldedRow, StateStep } from "./state-step.ts";

/** The read model, as far as folding goes. Every state handed out is the caller's own copy. */
export interface StateSource {
  /** Everything of this run up to here is in it. */
  checkpointSequence(workflowId: string): number;
  state(workflowId: string): RunState | null;
  stateAt(workflowId: string, sequence: number): RunState | null;
}

/** A run, and its row if that was asked for at its last commit. */
interface HeldState {
  readonly state: RunState;
  row: FoldedRow | null;
}

/** States of one catching-up subscription, least recently used first. */
export type CarriedStates = Map<string, HeldState>;

/** Carried by all catching-up subscriptions together, and what each may carry at least. */
const carriedMax = 20_000;
const carriedEachMin = 64;

export class RunFolds {
  readonly #source: StateSource;
  readonly #ring: CommitRing;
  readonly #statesMax: number;
  /** Least recently used first. */
  readonly #states = new Map<string, HeldState>();
  readonly #carriers = new Set<CarriedStates>();
  #batch: readonly RunCommit[] = [];
  readonly #steps = new Map<number, StateStep>();

  constructor(source: StateSource, ring: CommitRing, statesMax = 2_000) {
    this.#source = source;
    this.#ring = ring;
    this.#statesMax = statesMax;
  }

  get count(): number {
    return this.#states.size;
  }

  /** Brackets what the tail brings in one turn: `stepAt` answers only inside, for these commits. */
  duringBatch(commits: readonly RunCommit[], dispatch: () => void): void {
    this.#batch = commits;
    try {
      dispatch();
    } finally {
      for (const commit of commits) {
        const state = this.#states.get(commit.workflowId)?.state;
        if (state === undefined) continue;
        evolveCommit(state, commit);
        if (isClosed(state.status)) this.#states.delete(commit.workflowId);
      }
      this.#batch = [];
      this.#steps.clear();
    }
  }

  forget(): void {
    this.#states.clear();
  }

  /** What a commit of the current batch does to its run. */
  stepAt(commit: RunCommit): StateStep | null {
    const known = this.#steps.get(commit.sequence);
    if (known !== undefined) return known;
    const { workflowId } = commit;
    const commits = this.#batch.filter((other) => other.workflowId === workflowId);
    const held = this.#states.get(workflowId) ?? this.#before(commits[0] ?? commit);
    if (held === null) return null;
    this.#states.delete(workflowId);
    this.#states.set(workflowId, held);
    for (const oldest of this.#states.keys()) {
      if (this.#states.size <= this.#statesMax) break;
      this.#states.delete(oldest);
    }
    try {
      for (const each of commits) this.#steps.set(each.sequence, takeStep(held, each));
    } catch (error) {
      // Half folded, it would give later rows for earlier commits.
      this.#states.delete(workflowId);
      throw error;
    }
    return this.#steps.get(commit.sequence) ?? null;
  }

  /** For a subscription that catches up; give it back to {@link release}. */
  carry(): CarriedStates {
    const carried: CarriedStates = new Map();
    this.#carriers.add(carried);
    return carried;
  }

  release(carried: CarriedStates): void {
    this.#carriers.delete(carried);
  }

  /** The next step of a catching-up subscription; its commits must be asked for in order, none left out. */
  nextStep(carried: CarriedStates, commit: RunCommit): StateStep | null {
    const held = this.#carriedState(carried, commit);
    return held === null ? null : takeStep(held, commit);
  }

  /** As {@link nextStep}, for who wants no row. */
  nextStatus(carried: CarriedStates, commit: RunCommit): StatusAround | null {
    const held = this.#carriedState(carried, commit);
    if (held === null) return null;
    const before = statusOf(runPhaseOf(held.state));
    return { before, after: evolveCommit(held.state, commit).status };
  }

  #carriedState(carried: CarriedStates, commit: RunCommit): HeldState | null {
    const held = carried.get(commit.workflowId) ?? this.#before(commit);
    if (held === null) return null;
    carried.delete(commit.workflowId);
    carried.set(commit.workflowId, held);
    const eachMax = Math.max(carriedEachMin, carriedMax / this.#carriers.size);
    for (const oldest of carried.keys()) {
      if (carried.size <= eachMax) break;
      carried.delete(oldest);
    }
    return held;
  }

  #before(commit: RunCommit): HeldState | null {
    const first = commit.events[0]?.type === "WorkflowStarted";
    const state = first
      ? initialRunState(commit.workflowId, commit.type)
      : this.asOf(commit.workflowId, commit.type, commit.sequence - 1);
    return state === null ? null : { state, row: null };
  }

  /** The run folded exactly up to a sequence; null when that cannot be had yet. */
  asOf(workflowId: string, type: string, sequence: number): RunState | null {
    const [first, ...rest] = this.#ring.ofRun(workflowId, 0, sequence);
    if (first?.events[0]?.type === "WorkflowStarted") {
      // All of it is in memory.
      const whole = evolveCommit(initialRunState(workflowId, type), first);
      for (const commit of rest) evolveCommit(whole, commit);
      return whole;
    }
    const checkpoint = this.#source.checkpointSequence(workflowId);
    if (checkpoint < sequence && checkpoint < this.#ring.from - 1) return null;
    let state = this.#source.state(workflowId);
    // The read model may be ahead of what is asked for, or have moved since its checkpoint was read.
    if (state !== null && state.sequence > sequence) state = this.#source.stateAt(workflowId, sequence);
    state ??= initialRunState(workflowId, type);
    for (const commit of this.#ring.ofRun(workflowId, state.sequence, sequence)) evolveCommit(state, commit);
    return state;
  }
}

/** Folds one commit in. I3: the row before is made anew when the one held is older than the state. */
function takeStep(held: HeldState, commit: RunCommit): StateStep {
  const { state } = held;
  let before = held.row;
  if (before?.row.sequence !== state.sequence)
    before = state.sequence === 0 ? null : new FoldedRow(toRow(state));
  const statusBefore = statusOf(runPhaseOf(state));
  const now = new FoldedRow(toRow(evolveCommit(state, commit)));
  held.row = now;
  return new StateStep(before, now, { before: statusBefore, after: state.status });
}
