import * as v from "valibot";
import { MillraceError } from "./errors.ts";
import { isEventType, type EventType } from "./events.ts";
import { limits } from "./limits.ts";

const values = v.pipe(
  v.array(v.pipe(v.string(), v.minLength(1), v.maxLength(256))),
  v.minLength(1),
  v.maxLength(limits.filterValues),
);

/** Which events a subscription gets: the fields are and-ed, the values of one field or-ed, `{}` is everything. */
export const FilterSchema = v.strictObject({
  workflow: v.optional(values),
  type: v.optional(values),
  event: v.optional(values),
});

export interface Filter {
  readonly workflow?: readonly string[];
  readonly type?: readonly string[];
  readonly event?: readonly EventType[];
}

/** Checks a filter from outside; `filter_invalid` names the field. Unknown event types are refused: they never match. */
export function parseFilter(input: unknown): Filter {
  if (Array.isArray(input)) {
    // It would pass as an object without fields, and so as "everything".
    throw new MillraceError(
      "filter_invalid",
      "Filter refused: it is an array. Send an object with workflow, type or event, or {} for everything.",
    );
  }
  const result = v.safeParse(FilterSchema, input ?? {});
  if (!result.success) {
    const issue = result.issues[0];
    throw new MillraceError(
      "filter_invalid",
      `Filter refused at ${v.getDotPath(issue) ?? "the top"}: ${issue.message}. Fields are workflow, type and event, ` +
        `each a list of 1 to ${limits.filterValues} strings.`,
      { details: { limit: limits.filterValues } },
    );
  }
  const { workflow, type, event } = result.output;
  const unknown = event?.find((name) => !isEventType(name));
  if (unknown !== undefined) {
    throw new MillraceError(
      "filter_invalid",
      `Filter refused: there is no event type ${JSON.stringify(unknown)}.`,
    );
  }
  return {
    ...(workflow === undefined ? {} : { workflow }),
    ...(type === undefined ? {} : { type }),
    ...(event === undefined ? {} : { event: event as EventType[] }),
  };
}

/** The same text for filters that mean the same: values sorted and distinct, fields in a fixed order. */
export function canonicalFilter(filter: Filter): string {
  const sorted = (list: readonly string[] | undefined) =>
    list === undefined ? undefined : [...new Set(list)].sort();
  return JSON.stringify({
    workflow: sorted(filter.workflow),
    type: sorted(filter.type),
    event: sorted(filter.event),
  });
}

/** Whether a run's commits can match at all (event types are looked at per event). */
export function matchesRun(filter: Filter, workflowId: string, type: string): boolean {
  return (
    (filter.workflow === undefined || filter.workflow.includes(workflowId)) &&
    (filter.type === undefined || filter.type.includes(type))
  );
}

export function matchesEvent(filter: Filter, event: EventType): boolean {
  return filter.event === undefined || filter.event.includes(event);
}
