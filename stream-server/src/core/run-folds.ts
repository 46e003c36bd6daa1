/**
 * The state of runs as of each commit, for `shape: "state"` and the plain updates.
 *
 * Owns: folded states of runs that live subscribers watch, exact at the ring's head; the states that a catching-up
 * subscription carries, exact at its position. Does not own: the read model, the ring.
 *
 * I1 A row handed out for a commit is the run folded exactly up to that commit: equal to `projection.stateAt`.
 * I2 Nothing is guessed: when neither read model nor ring reach, the answer is null, and the caller waits.
 *
 * Tested by `run-folds.prop.test.ts` against a fold of the whole history.
 */
import {
  evolveCommit,
  initialRunState,
  isClosed,
  toRow,
  type RunState,
  type WorkflowRow,
} from "@millrace/schemas";
import type { CommitRing } from "./commit-ring.ts";
import type { RunCommit } from "./run-commit.ts";

/** The read model, as far as folding goes. Every state handed out is the caller's own copy. */
export interface StateSource {
  /** Everything up to here is in it. */
  checkpointSequence(): number;
  state(workflowId: string): RunState | null;
  stateAt(workflowId: string, sequence: number): RunState | null;
}

/** States of one catching-up subscription, least recently used first. */
export type CarriedStates = Map<string, RunState>;

/** Carried by all catching-up subscriptions together, and what each may carry at least. */
const carriedMax = 50_000;
const carriedEachMin = 64;

export class RunFolds {
  readonly #source: StateSource;
  readonly #ring: CommitRing;
  readonly #statesMax: number;
  /** Least recently used first. */
  readonly #states = new Map<string, RunState>();
  readonly #carriers = new Set<CarriedStates>();
  #batch: readonly RunCommit[] = [];
  readonly #rows = new Map<number, WorkflowRow>();

  constructor(source: StateSource, ring: CommitRing, statesMax = 2_000) {
    this.#source = source;
    this.#ring = ring;
    this.#statesMax = statesMax;
  }

  get count(): number {
    return this.#states.size;
  }

  /** Brackets what the tail brings in one turn: `rowAt` answers only inside, for these commits. */
  duringBatch(commits: readonly RunCommit[], dispatch: () => void): void {
    this.#batch = commits;
    try {
      dispatch();
    } finally {
      for (const commit of commits) {
        const state = this.#states.get(commit.workflowId);
        if (state === undefined) continue;
        evolveCommit(state, commit);
        if (isClosed(state.status)) this.#states.delete(commit.workflowId);
      }
      this.#batch = [];
      this.#rows.clear();
    }
  }

  forget(): void {
    this.#states.clear();
  }

  /** The row exactly at a commit of the current batch. */
  rowAt(commit: RunCommit): WorkflowRow | null {
    const known = this.#rows.get(commit.sequence);
    if (known !== undefined) return known;
    const { workflowId } = commit;
    const commits = this.#batch.filter((other) => other.workflowId === workflowId);
    const state = this.#states.get(workflowId) ?? this.#before(commits[0] ?? commit);
    if (state === null) return null;
    this.#states.delete(workflowId);
    this.#states.set(workflowId, state);
    for (const oldest of this.#states.keys()) {
      if (this.#states.size <= this.#statesMax) break;
      this.#states.delete(oldest);
    }
    try {
      for (const each of commits) this.#rows.set(each.sequence, toRow(evolveCommit(state, each)));
    } catch (error) {
      // Half folded, it would give later rows for earlier commits.
      this.#states.delete(workflowId);
      throw error;
    }
    return this.#rows.get(commit.sequence) ?? null;
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

  /** The next row of a catching-up subscription; its commits must be asked for in order, none left out. */
  nextRow(carried: CarriedStates, commit: RunCommit): WorkflowRow | null {
    const state = carried.get(commit.workflowId) ?? this.#before(commit);
    if (state === null) return null;
    carried.delete(commit.workflowId);
    carried.set(commit.workflowId, state);
    const eachMax = Math.max(carriedEachMin, carriedMax / this.#carriers.size);
    for (const oldest of carried.keys()) {
      if (carried.size <= eachMax) break;
      carried.delete(oldest);
    }
    return toRow(evolveCommit(state, commit));
  }

  #before(commit: RunCommit): RunState | null {
    if (commit.events[0]?.type === "WorkflowStarted") return initialRunState(commit.workflowId, commit.type);
    return this.asOf(commit.workflowId, commit.type, commit.sequence - 1);
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
    const checkpoint = this.#source.checkpointSequence();
    if (checkpoint < sequence && checkpoint < this.#ring.from - 1) return null;
    let state = this.#source.state(workflowId);
    // The read model may be ahead of what is asked for, or have moved since its checkpoint was read.
    if (state !== null && state.sequence > sequence) state = this.#source.stateAt(workflowId, sequence);
    state ??= initialRunState(workflowId, type);
    for (const commit of this.#ring.ofRun(workflowId, state.sequence, sequence)) evolveCommit(state, commit);
    return state;
  }
}
