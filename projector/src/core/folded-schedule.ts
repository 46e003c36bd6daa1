import type { ScheduleState } from "@millrace/schemas";

/** A schedule in the projector's memory, for one batch. */
export interface FoldedSchedule {
  /** Key of its row and of its commits: sequence of its first commit. */
  readonly run: number;
  readonly id: string;
  /** Null before a commit that creates it. */
  state: ScheduleState | null;
  /** Sequence of the commit that stopped this row; null while it goes on. */
  quarantinedSequence: number | null;
}
