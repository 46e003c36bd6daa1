import type { EventLog } from "@millrace/event-log";
import {
  evolveSchedule,
  MillraceError,
  scheduleType,
  specSequenceOf,
  type ScheduleState,
} from "@millrace/schemas";

import { storedLog } from "../payloads/sealed-log.ts";

/** What the log has under an id: a schedule, a run, or nothing. */
export type Found =
  | { readonly kind: "schedule"; readonly state: ScheduleState }
  | { readonly kind: "run"; readonly type: string }
  | { readonly kind: "nothing" };

/** Two reads from the leader, however many ticks the schedule has had. A deleted schedule is found too. */
export async function loadSchedule(log: EventLog, id: string): Promise<Found> {
  const last = await log.last(id);
  if (last === null) return { kind: "nothing" };
  if (last.type !== scheduleType) return { kind: "run", type: last.type };
  const specSequence = specSequenceOf(last);
  const spec = specSequence === last.sequence ? last : await log.read(specSequence ?? 0);
  const state = spec === null ? null : evolveSchedule(evolveSchedule(null, spec), last);
  if (state === null || spec?.workflowId !== id) {
    throw new MillraceError(
      "commit_malformed",
      `Commit at sequence ${last.sequence} of schedule ${id} says that its spec is at ${specSequence}, and it is not. ` +
        "Look for a foreign writer on the log.",
      { details: { sequence: last.sequence } },
    );
  }
  return { kind: "schedule", state };
}

export type RunPresence = "absent" | "open" | "closed";

/** Whether there is a run under an id, and whether it has closed; read from the leader. */
export async function runPresence(from: EventLog, id: string): Promise<RunPresence> {
  const log = storedLog(from);
  const last = await log.last(id);
  if (last === null) return "absent";
  if (last.condition !== null) return last.condition === "closed" ? "closed" : "open";
  // A fact from outside may stand behind the commit that closed the run.
  const history = await log.load(id);
  const declared = history.findLast(({ condition }) => condition !== null);
  return declared?.condition === "closed" ? "closed" : "open";
}
