import * as v from "valibot";
import { matchesAttributes, textsOf, type AttributeFilter, type AttributesAround } from "./attributes.ts";
import { MillraceError } from "./errors.ts";
import { isEventType, type EventType } from "./events.ts";
import { limits } from "./limits.ts";
import type { StatusAround } from "./run-phase.ts";
import { runStatuses, type RunStatus } from "./run-state.ts";

const values = v.pipe(
  v.array(v.pipe(v.string(), v.minLength(1), v.maxLength(256))),
  v.minLength(1),
  v.maxLength(limits.filterValues),
);

/** By attribute, one value or several of which one must be had. */
export const AttributeFilterSchema = v.pipe(
  v.unknown(),
  // valibot takes an array for a record with the keys 0, 1, ...
  v.check((value) => !Array.isArray(value), "Invalid type: Expected Object but received Array"),
  v.record(
    v.pipe(v.string(), v.minLength(1), v.maxLength(limits.attributeChars)),
    // Written out, not built from `AttributeValue`: so a page's bundler sees that it needs none of this.
    v.union([
      v.string(),
      v.number(),
      v.boolean(),
      v.pipe(
        v.array(v.union([v.string(), v.number(), v.boolean()])),
        v.minLength(1),
        v.maxLength(limits.filterValues),
      ),
    ]),
  ),
  v.check((fields) => Object.keys(fields).length >= 1, "Invalid length: Expected at least one attribute"),
  v.check(
    (fields) => Object.keys(fields).length <= limits.attributes,
    `Invalid length: Expected at most ${limits.attributes} attributes`,
  ),
);

/** Which events a subscription gets: the fields are and-ed, the values of one field or-ed, `{}` is everything. */
export const FilterSchema = v.strictObject({
  workflow: v.optional(values),
  type: v.optional(values),
  status: v.optional(
    v.pipe(v.array(v.picklist(runStatuses)), v.minLength(1), v.maxLength(limits.filterValues)),
  ),
  event: v.optional(values),
  attr: v.optional(AttributeFilterSchema),
});

export interface Filter {
  readonly workflow?: readonly string[];
  readonly type?: readonly string[];
  /** By the run's status before or after the commit, so that a reader sees a run come and sees it leave. */
  readonly status?: readonly RunStatus[];
  readonly event?: readonly EventType[];
  /** By the run's attributes before or after the commit (A2); values compare by text (A1). */
  readonly attr?: AttributeFilter;
}

/** Checks a filter from outside; `filter_invalid` names the field. Unknown event types are refused: they never match. */
export function parseFilter(input: unknown): Filter {
  if (Array.isArray(input)) {
    // It would pass as an object without fields, and so as "everything".
    throw new MillraceError(
      "filter_invalid",
      "Filter refused: it is an array. Send an object with workflow, type, status, event or attr, or {} for everything.",
    );
  }
  const result = v.safeParse(FilterSchema, input ?? {});
  if (!result.success) {
    const issue = result.issues[0];
    throw new MillraceError(
      "filter_invalid",
      `Filter refused at ${v.getDotPath(issue) ?? "the top"}: ${issue.message}. Fields are workflow, type, status and event, ` +
        `each a list of 1 to ${limits.filterValues} strings, and attr, an object with a value or a list of values by attribute.`,
      { details: { limit: limits.filterValues } },
    );
  }
  const { workflow, type, status, event, attr } = result.output;
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
    ...(status === undefined ? {} : { status }),
    ...(event === undefined ? {} : { event: event as EventType[] }),
    ...(attr === undefined ? {} : { attr }),
  };
}

/** The same text for filters that mean the same: values sorted and distinct, fields in a fixed order. */
export function canonicalFilter(filter: Filter): string {
  const sorted = (list: readonly string[] | undefined) =>
    list === undefined ? undefined : [...new Set(list)].sort();
  return JSON.stringify({
    workflow: sorted(filter.workflow),
    type: sorted(filter.type),
    status: sorted(filter.status),
    event: sorted(filter.event),
    attr:
      filter.attr === undefined
        ? undefined
        : Object.fromEntries(
            Object.entries(filter.attr)
              .map(([key, wanted]) => [key, sorted(textsOf(wanted))] as const)
              .sort(([a], [b]) => (a < b ? -1 : 1)),
          ),
  });
}

/** Whether a run's commits can match at all, by id and type (the rest is looked at per commit). */
export function matchesRun(filter: Filter, workflowId: string, type: string): boolean {
  return (
    (filter.workflow === undefined || filter.workflow.includes(workflowId)) &&
    (filter.type === undefined || filter.type.includes(type))
  );
}

export function matchesEvent(filter: Filter, event: EventType): boolean {
  return filter.event === undefined || filter.event.includes(event);
}

/** Whether a commit of a run that can match does, by the run's attributes around it. */
export function matchesAround(filter: Filter, around: AttributesAround): boolean {
  return filter.attr === undefined || matchesAttributes(filter.attr, around);
}

/** Whether a commit of a run that can match does, by the run's status around it. */
export function matchesStatus({ status }: Filter, { before, after }: StatusAround): boolean {
  return status === undefined || status.includes(after) || (before !== null && status.includes(before));
}
