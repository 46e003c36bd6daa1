import { attributesAfter, noAttributes, type Attributes } from "@millrace/schemas";
import type { CommitRing } from "./commit-ring.ts";
import { RingFold } from "./ring-fold.ts";

/** The read model, as far as attributes go. */
export interface AttributeSource {
  /** Everything of this run up to here is in it. */
  checkpointSequence(workflowId: string): number;
  /** As of a sequence that the checkpoint has reached, or the latest. */
  attributesAt(workflowId: string, sequence: number): Attributes;
}

/** The attributes of runs around each commit, for filters that ask for them. */
export class RunAttributes extends RingFold<Attributes> {
  constructor(source: AttributeSource, ring: CommitRing) {
    super(
      {
        initial: noAttributes,
        after: (before, { events }) => attributesAfter(before, events),
        checkpointSequence: (id) => source.checkpointSequence(id),
        asOf: (id, sequence) => source.attributesAt(id, sequence),
      },
      ring,
    );
  }
}
