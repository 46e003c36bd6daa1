import {
  assertAttributes,
  assertWorkflowType,
  MillraceError,
  scheduleDefaults,
  ScheduleRequest,
  type ScheduleSpec,
} from "@millrace/schemas";
import * as v from "valibot";
import { ticksOf } from "./schedule-ticks.ts";

/** Two attributes of each run are the schedule's own. */
export const ownAttributes = ["schedule", "scheduledAt"] as const;

/**
 * A request as it is stored: complete and checked. Throws `invalid_request` that names the field, `invalid_id` (the
 * workflow type), `limit_exceeded` (attributes).
 */
export function parseSchedule(id: string, request: unknown): ScheduleSpec {
  const result = v.safeParse(ScheduleRequest, request);
  if (!result.success) {
    const [issue] = result.issues;
    throw refused(id, v.getDotPath(issue) ?? "the top", issue.message);
  }
  const { cron, timeZone, everyMs, startAt, endAt, workflow, ...rest } = result.output;
  if ((cron === undefined) === (everyMs === undefined))
    throw refused(id, "cron", "give either cron or everyMs, not both and not neither");
  if (timeZone !== undefined && cron === undefined)
    throw refused(id, "timeZone", "an interval has no time zone; leave it out, or give cron");
  assertWorkflowType(workflow.type);
  const attributes = workflow.attributes ?? {};
  const own = ownAttributes.find((key) => Object.hasOwn(attributes, key));
  if (own !== undefined)
    throw refused(id, "workflow.attributes", `${own} is set by the schedule itself; choose another key`);
  assertAttributes({ ...attributes, schedule: id, scheduledAt: id }, `Schedule ${id}`);
  const spec: ScheduleSpec = {
    cron: cron ?? null,
    timeZone: timeZone ?? scheduleDefaults.timeZone,
    everyMs: everyMs ?? null,
    startAt: startAt === undefined ? null : parseTime(id, "startAt", startAt),
    endAt: endAt === undefined ? null : parseTime(id, "endAt", endAt),
    jitterMs: rest.jitterMs ?? scheduleDefaults.jitterMs,
    overlap: rest.overlap ?? scheduleDefaults.overlap,
    catchUpWindowMs: rest.catchUpWindowMs ?? scheduleDefaults.catchUpWindowMs,
    workflow: {
      type: workflow.type,
      input: workflow.input ?? null,
      attributes,
      timeoutMs: workflow.timeoutMs ?? null,
    },
    note: rest.note ?? null,
  };
  if (spec.startAt !== null && spec.endAt !== null && spec.endAt < spec.startAt)
    throw refused(id, "endAt", "it is before startAt");
  // Finds out whether cron and time zone can be read.
  ticksOf(spec);
  return spec;
}

/** An ISO 8601 time with its zone, as ms since 1970; `invalid_request` names the field. */
export function parseTime(id: string, field: string, text: string): number {
  const ms = Date.parse(text);
  if (Number.isFinite(ms) && /(?:Z|[+-]\d{2}:?\d{2})$/i.test(text)) return ms;
  throw refused(
    id,
    field,
    `${JSON.stringify(text.slice(0, 80))} is no time with a zone, e.g. 2026-11-25T03:00:00Z`,
  );
}

function refused(id: string, at: string, why: string): MillraceError {
  return new MillraceError("invalid_request", `Schedule ${id} refused at ${at}: ${why}.`, {
    details: { at },
  });
}
