import type { RunCommit } from "./run-commit.ts";
import type { Marks } from "./send-window.ts";
import type { StateStep } from "./state-step.ts";
import type { Payload } from "./subscription.ts";

/** A commit that a topic's subscribers are to see. */
export interface Entry {
  readonly commit: RunCommit;
  /** Entries of `d` that it gives. */
  readonly count: number;
  /** What it does to the run's row; null where no row is sent. */
  readonly step: StateStep | null;
}

/** Payloads which together say "all that matches in (p, s]". */
export interface EncodedFrame {
  readonly s: number;
  readonly payloads: readonly Payload[];
  readonly marks: Marks;
  /** Sum of the counts in `marks`. */
  readonly count: number;
}

/** Of these entries, those whose row a subscription that began at `began` has not had: they are sent whole. */
export function isWhole({ step }: Entry, began: number): boolean {
  return step !== null && step.base <= began;
}
