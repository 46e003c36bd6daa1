import type { ScheduleRow } from "@millrace/schemas";

/** Beyond this, a tick that is due is late for a reason: a worker fires within milliseconds. */
const lateMs = 5_000;

/** In one line why a schedule starts nothing; null when it does, or will. */
export function whyNotFiring(row: ScheduleRow, now: number): string | null {
  if (row.paused !== null) {
    const { since, reason, by } = row.paused;
    return `paused since ${since}${by === null ? "" : ` by ${by}`}${reason === null ? "" : `: ${reason}`}`;
  }
  if (row.nextDueAt === null) {
    return row.endAt === null ? "no tick is left" : `no tick is left before its end at ${row.endAt}`;
  }
  const overdueMs = now - Date.parse(row.nextDueAt);
  if (overdueMs > lateMs) {
    return `its tick is due since ${row.nextDueAt}: no worker that hosts ${row.workflow.type} fires it; start one`;
  }
  const [waiting] = row.waitingRuns;
  const [open] = row.openRuns;
  if (waiting !== undefined && open !== undefined)
    return `${waiting.workflowId} waits for the end of ${open.workflowId} (overlap ${row.overlap})`;
  if (row.failure !== null && row.failure.at >= (row.recentRuns[0]?.at ?? ""))
    return `the last tick could not start its run: ${row.failure.message}`;
  return null;
}
