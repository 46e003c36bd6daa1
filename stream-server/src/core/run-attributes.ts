/**
 * The attributes of runs around each commit, for filters that ask for them.
 *
 * Owns: what was found out, for as long as its commit is in memory. Does not own: the read model, the ring.
 *
 * I1 An answer is `evolveAttributes` over the run's whole history: equal to what the projection says.
 * I2 Nothing is guessed: when neither read model nor ring reach, the answer is null, and the caller waits.
 * I3 Nobody asks, nothing is read: a server without such filters pays nothing.
 *
 * Tested by `run-attributes.prop.test.ts` against a fold of the whole history, and by `seam.sim.test.ts`.
 */
import { attributesAfter, noAttributes, type Attributes, type AttributesAround } from "@millrace/schemas";
import type { CommitRing } from "./commit-ring.ts";
import type { RunCommit } from "./run-commit.ts";

/** The read model, as far as attributes go. */
export interface AttributeSource {
  /** Everything up to here is in it. */
  checkpointSequence(): number;
  /** As of a sequence that the checkpoint has reached, or the latest. */
  attributesAt(workflowId: string, sequence: number): Attributes;
}

export class RunAttributes {
  readonly #source: AttributeSource;
  readonly #ring: CommitRing;
  readonly #known = new WeakMap<RunCommit, AttributesAround>();

  constructor(source: AttributeSource, ring: CommitRing) {
    this.#source = source;
    this.#ring = ring;
  }

  /** For commits that the read model gave together with their attributes. */
  note(commit: RunCommit, around: AttributesAround): void {
    this.#known.set(commit, around);
  }

  /** Of a commit that is in the ring or was noted; null when it cannot be told yet. */
  around(commit: RunCommit): AttributesAround | null {
    const known = this.#known.get(commit);
    if (known !== undefined) return known;
    const unknown = [commit];
    let first = commit;
    let before: Attributes | null = null;
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
    let around: AttributesAround = { before, after: before };
    for (const each of unknown.reverse()) {
      around = { before: around.after, after: attributesAfter(around.after, each.events) };
      this.#known.set(each, around);
    }
    return around;
  }

  /** Before the run's first commit in the ring. */
  #beforeRing(first: RunCommit): Attributes | null {
    if (first.events[0]?.type === "WorkflowStarted") return noAttributes;
    // What the ring does not have of this run lies before the ring.
    const wanted = Math.min(first.sequence, this.#ring.from) - 1;
    if (this.#source.checkpointSequence() < wanted) return null;
    return this.#source.attributesAt(first.workflowId, first.sequence - 1);
  }
}
