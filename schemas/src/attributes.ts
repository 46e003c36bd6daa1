/**
 * Search attributes: a few typed facts of a run by which people find it. Set at start, changed by its code.
 *
 * A1 A filter compares by text: `7` and `"7"` are the same to it, so that no URL or shell has to say a type.
 * A2 A commit matches by the attributes of its run before or after it: who follows a filter sees the run come and
 *    sees it leave. Pure over the history, and so the same live, in replay, and on every node.
 */
import * as v from "valibot";
import { MillraceError } from "./errors.ts";
import { AttributeValue, type WorkflowEvent } from "./events.ts";
import { limits } from "./limits.ts";

export type Attributes = Readonly<Record<string, AttributeValue>>;
/** What `AttributesUpserted` says: null removes a key. */
export type AttributeChanges = Readonly<Record<string, AttributeValue | null>>;

/** What a run's attributes were before a commit and are after it. */
export interface AttributesAround {
  readonly before: Attributes;
  readonly after: Attributes;
}

/** Which attributes a run must have: all keys, of each key one of the values. */
export type AttributeFilter = Readonly<Record<string, AttributeValue | readonly AttributeValue[]>>;

export const noAttributes: Attributes = {};

/** The text by which a value is compared. */
export function attributeText(value: AttributeValue): string {
  return String(value);
}

/**
 * Checks attributes from outside; `what` begins the message ("Start"). `limit_exceeded` for too many, or for a key or
 * value that is too long; `invalid_request` for a value that is none.
 */
export function assertAttributes(attributes: AttributeChanges, what: string): void {
  const entries = Object.entries(attributes);
  if (entries.length > limits.attributes) throw tooMany(entries.length, what);
  for (const [key, value] of entries) {
    const shown = JSON.stringify(key.slice(0, 60));
    if (value !== null && !v.is(AttributeValue, value)) {
      throw new MillraceError(
        "invalid_request",
        `${what} refused: attribute ${shown} is ${typeof value === "number" ? String(value) : typeof value}, expected a string, ` +
          "a finite number or a boolean. Give dates as ISO 8601 strings.",
      );
    }
    const chars = Math.max(key.length, value === null ? 0 : attributeText(value).length);
    // valibot, and with it every reader, leaves out keys that are an object's own business.
    if (key.length >= 1 && chars <= limits.attributeChars && !(key in Object.prototype)) continue;
    throw new MillraceError(
      "limit_exceeded",
      `${what} refused: attribute ${shown} is longer than ${limits.attributeChars} characters (key or value), or has no ` +
        "usable key. Shorten it, or put it into the input.",
      { details: { limit: limits.attributeChars, actual: chars } },
    );
  }
}

/** The attributes after a change; `limit_exceeded` when they would be too many. */
export function changedAttributes(before: Attributes, changes: AttributeChanges, what: string): Attributes {
  assertAttributes(changes, what);
  const after = mergeAttributes(before, changes);
  const count = Object.keys(after).length;
  if (count > limits.attributes) throw tooMany(count, what);
  return after;
}

/** As the fold does it: no check, the same object when nothing changes. */
export function mergeAttributes(before: Attributes, changes: AttributeChanges): Attributes {
  const entries = Object.entries(changes);
  if (entries.every(([key, value]) => (Object.hasOwn(before, key) ? before[key] : null) === value))
    return before;
  const after = new Map<string, AttributeValue>(Object.entries(before));
  for (const [key, value] of entries) {
    if (value === null) after.delete(key);
    else after.set(key, value);
  }
  return Object.fromEntries(after);
}

/**
 * The attributes after an event, from its history alone: total, and cheap enough to be kept for runs whose whole
 * state is not. The same object when nothing changes.
 */
export function evolveAttributes(before: Attributes, event: WorkflowEvent): Attributes {
  switch (event.type) {
    case "WorkflowStarted":
      return event.data.attributes ?? noAttributes;
    case "AttributesUpserted":
      return mergeAttributes(before, event.data.attributes);
    default:
      return before;
  }
}

/** Over all events of a commit. */
export function attributesAfter(before: Attributes, events: readonly WorkflowEvent[]): Attributes {
  let after = before;
  for (const event of events) after = evolveAttributes(after, event);
  return after;
}

/** Whether a run with these attributes is wanted. */
export function hasAttributes(wanted: AttributeFilter, attributes: Attributes): boolean {
  for (const key of Object.keys(wanted)) {
    const value = Object.hasOwn(attributes, key) ? attributes[key] : undefined;
    if (value === undefined || !textsOf(wanted[key]).includes(attributeText(value))) return false;
  }
  return true;
}

/** A2: whether a commit is wanted. */
export function matchesAttributes(wanted: AttributeFilter, { before, after }: AttributesAround): boolean {
  return hasAttributes(wanted, after) || (before !== after && hasAttributes(wanted, before));
}

/** The texts that one key of a filter allows. */
export function textsOf(wanted: AttributeFilter[string] | undefined): readonly string[] {
  if (wanted === undefined) return [];
  return typeof wanted === "object" ? wanted.map(attributeText) : [attributeText(wanted)];
}

function tooMany(count: number, what: string): MillraceError {
  return new MillraceError(
    "limit_exceeded",
    `${what} refused: ${count} attributes, the limit is ${limits.attributes}. Put the rest into the input.`,
    { details: { limit: limits.attributes, actual: count } },
  );
}
