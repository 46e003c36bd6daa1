import type { Checkpoint, CheckpointVerdict } from "./event-log.ts";

/** What the log's leader says now: about itself, and about the checkpoint's sequence. */
export interface LogFacts {
  readonly created: string;
  /** Sequence of the first commit kept. */
  readonly firstSequence: number;
  readonly lastSequence: number;
  /** Commit id at the checkpoint's sequence; null when no commit is there. */
  readonly commitId: string | null;
}

/** Whether the log goes on from a checkpoint. See {@link CheckpointVerdict}. */
export function verdictOf(checkpoint: Checkpoint, log: LogFacts): CheckpointVerdict {
  if (checkpoint.streamCreated !== log.created) return "recreated";
  if (checkpoint.sequence === 0) return "ok";
  if (checkpoint.sequence > log.lastSequence) return "diverged";
  if (log.commitId !== null) return log.commitId === checkpoint.commitId ? "ok" : "diverged";
  // The commit itself was archived. What follows it is whole as long as the log still begins right after it.
  return log.firstSequence > checkpoint.sequence + 1 ? "expired" : "ok";
}
