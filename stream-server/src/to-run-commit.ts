import type { StoredCommit } from "@millrace/event-log";
import type { RunCommit } from "./core/run-commit.ts";
import type { StreamServerLogger } from "./logger.ts";

/** Decodes a commit; null, told and counted, when it cannot be: one bad commit must not stop the other runs. */
export function toRunCommit(
  commit: StoredCommit,
  logger: StreamServerLogger,
  onUndecodable: () => void,
): RunCommit | null {
  const { sequence, workflowId, type, at } = commit;
  try {
    const { condition, events, body } = commit;
    return { sequence, workflowId, type, at, condition, events, bytes: body.length };
  } catch (error) {
    onUndecodable();
    logger.error({ err: error, sequence, workflowId }, "Commit cannot be read: no subscriber gets it");
    return null;
  }
}
