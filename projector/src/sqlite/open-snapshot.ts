import type { Checkpoint } from "@millrace/event-log";
import type { Filter } from "@millrace/schemas";
import type { ProjectionSnapshot } from "../projection.ts";
import { matchingRuns } from "./matching-runs.ts";
import { openSnapshotFile } from "./read-handle.ts";
import { rowOf } from "./run-record.ts";
import { sqliteError } from "./sqlite-error.ts";

const empty: Checkpoint = { sequence: 0, commitId: "", streamCreated: "" };

/** Opens a handle of its own, whose one read transaction lasts until it is closed. */
export function openSnapshot(path: string, filter: Filter): ProjectionSnapshot {
  const file = openSnapshotFile(path);
  if (file === null) return { checkpoint: empty, next: () => null, close: () => undefined };
  const attempt = `Reading a snapshot from ${path}`;
  let open = true;
  const close = (): void => {
    if (!open) return;
    open = false;
    file.close();
  };
  try {
    // The first read fixes the moment for all that follow.
    const checkpoint = file.checkpoint();
    const records = matchingRuns(file.queries, filter);
    return {
      checkpoint,
      next() {
        if (!open) return null;
        try {
          const { done, value } = records.next();
          if (done !== true) return rowOf(file.runs.withSteps(value));
        } catch (error) {
          close();
          throw sqliteError(error, attempt);
        }
        close();
        return null;
      },
      close,
    };
  } catch (error) {
    close();
    throw sqliteError(error, attempt);
  }
}
