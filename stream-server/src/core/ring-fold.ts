/**
 * A small fold over runs, as it stands around each commit: for filters that ask for attributes or statuses.
 *
 * Owns: what was found out, for as long as its commit is in memory. Does not own: the read model, the ring.
 *
 * I1 An answer is the fold over the run's whole history: equal to what the projection says.
 * I2 Nothing is guessed: when neither read model nor ring reach, the answer is null, and the caller waits.
 * I3 Nobody asks, nothing is read: a server without such filters pays nothing.
 *
 * Tested by `run-attributes.prop.test.ts` against a fold of the whole history, and by `seam.sim.test.ts`.
 */
import type { CommitRing } from "./commit-ring.ts";
import type { RunCommit } from "./run-commit.ts";

export interface Around<T> {
  readonly before: T;
  readonly after: T;
}

export interface Fold<T> {
  /** Before the first commit of a run. */
  readonly initial: T;
  after(before: T, commit: RunCommit): T;
  /** The read model: everything of this run up to here is in it. */
  checkpointSequence(workflowId: string): number;
  /** From the read model, as of a sequence that the checkpoint has reached, or the latest. */
  asOf(workflowId: string, sequence: number): T;
}

export class RingFold<T extends object> {
  readonly #fold: Fold<T>;
  readonly #ring: CommitRing;
  readonly #known = new WeakMap<RunCommit, Around<T>>();

  constructor(fold: Fold<T>, ring: CommitRing) {
    this.#fold = fold;
    this.#ring = ring;
  }

  /** For commits that the read model gave together with what is around them. */
  note(commit: RunCommit, around: Around<T>): void {
    this.#known.set(commit, around);
  }

  /** Of a commit that is in the ring or was noted; null when it cannot be told yet. */
  around(commit: RunCommit): Around<T> | null {
    const known = this.#known.get(commit);
    if (known !== undefined) return known;
    const unknown = [commit];
    let first = commit;
    let before: T | null = null;
    for (;;) {
      const previous = this.#ring.previousOf(first);
      if (previous === null) break;
      before = this.#known.get(previous)?.after ?? null;
      if (before !== null) break;
      unknown.push(previous);
      first = previous;
    }
    before ??= this.#beforeRing(first);
    if (before === null) return null;
    let around: Around<T> = { before, after: before };
    for (const each of unknown.reverse()) {
      around = { before: around.after, after: this.#fold.after(around.after, each) };
      this.#known.set(each, around);
    }
    return around;
  }

  /** Before the run's first commit in the ring. */
  #beforeRing(first: RunCommit): T | null {
    if (first.events[0]?.type === "WorkflowStarted") return this.#fold.initial;
    // What the ring does not have of this run lies before the ring.
    const wanted = Math.min(first.sequence, this.#ring.from) - 1;
    if (this.#fold.checkpointSequence(first.workflowId) < wanted) return null;
    return this.#fold.asOf(first.workflowId, first.sequence - 1);
  }
}
