import type { AttributeRange, RunFilter } from "@millrace/projector";
import {
  assertWorkflowId,
  assertWorkflowType,
  limits,
  MillraceError,
  runStatuses,
  waitKinds,
  type BulkFilter,
  type RunStatus,
  type WaitKind,
} from "@millrace/schemas";
import { defined } from "./defined.ts";
import { singleParam } from "./parse-body.ts";

/** The filter of a bulk command's body. */
export function bulkRunFilter(filter: BulkFilter): RunFilter {
  const { workflow, type, status, attr, attrMin = {}, attrMax = {}, waits } = filter;
  for (const id of workflow ?? []) assertWorkflowId(id);
  if (type !== undefined) assertWorkflowType(type);
  const keys = [...new Set([...Object.keys(attrMin), ...Object.keys(attrMax)])];
  if (keys.length > limits.attributes) throw tooMany("attrMin or attrMax", keys.length, limits.attributes);
  const ranges = Object.fromEntries(
    keys.map((key) => [key, defined({ min: attrMin[key], max: attrMax[key] })] as const),
  );
  return defined({
    workflow,
    type,
    status,
    attributes: attr,
    ranges: keys.length === 0 ? undefined : ranges,
    waits: waits === undefined ? undefined : defined(waits),
  });
}

/**
 * Which runs a query asks for: `type=`, `status=`, `attr.K=V` (several times: one of them), `attr-min.K=` and
 * `attr-max.K=` (inclusive; a number is compared with numbers, else texts by code point), `waits=signal:approve` or
 * `waits=signal`. `invalid_request` says where.
 */
export function runFilterParams(query: URLSearchParams): RunFilter {
  // Maps, since a key may be any text, `__proto__` too.
  const attributes = new Map<string, readonly string[]>();
  const ranges = new Map<string, AttributeRange>();
  for (const name of new Set(query.keys())) {
    const [kind, key] = splitAt(name, ".");
    if (kind === "attr") {
      const values = query.getAll(name);
      if (values.length > limits.filterValues) throw tooMany(name, values.length, limits.filterValues);
      attributes.set(key, values);
    } else if (kind === "attr-min") {
      ranges.set(key, { ...ranges.get(key), min: boundOf(singleParam(query, name) ?? "") });
    } else if (kind === "attr-max") {
      ranges.set(key, { ...ranges.get(key), max: boundOf(singleParam(query, name) ?? "") });
    }
  }
  for (const [name, { size }] of Object.entries({ attr: attributes, "attr-min or attr-max": ranges }))
    if (size > limits.attributes) throw tooMany(name, size, limits.attributes);
  const type = singleParam(query, "type");
  if (type !== undefined) assertWorkflowType(type);
  const status = singleParam(query, "status");
  if (status !== undefined && !isRunStatus(status)) {
    throw new MillraceError(
      "invalid_request",
      `status=${status.slice(0, 80)} is none of ${runStatuses.join(", ")}.`,
    );
  }
  const waits = singleParam(query, "waits");
  return defined({
    type,
    status,
    attributes: attributes.size === 0 ? undefined : Object.fromEntries(attributes),
    ranges: ranges.size === 0 ? undefined : Object.fromEntries(ranges),
    waits: waits === undefined ? undefined : waitOf(waits),
  });
}

function waitOf(text: string): NonNullable<RunFilter["waits"]> {
  const [kind, name] = splitAt(text, ":");
  if (!isWaitKind(kind)) {
    throw new MillraceError(
      "invalid_request",
      `waits=${text.slice(0, 80)} is none of ${waitKinds.join(", ")}, optionally with a name behind a colon.`,
    );
  }
  return name === "" ? { kind } : { kind, name };
}

function isWaitKind(value: string): value is WaitKind {
  return (waitKinds as readonly string[]).includes(value);
}

function splitAt(text: string, separator: string): [string, string] {
  const at = text.indexOf(separator);
  return at === -1 ? [text, ""] : [text.slice(0, at), text.slice(at + 1)];
}

function boundOf(text: string): number | string {
  return /^-?\d+(\.\d+)?(e[+-]?\d+)?$/i.test(text) && Number.isFinite(Number(text)) ? Number(text) : text;
}

function isRunStatus(value: string): value is RunStatus {
  return (runStatuses as readonly string[]).includes(value);
}

function tooMany(name: string, actual: number, limit: number): MillraceError {
  return new MillraceError(
    "limit_exceeded",
    `${name.slice(0, 80)} is given ${actual} times in the query, the limit is ${limit}. Ask for fewer.`,
    { details: { limit, actual } },
  );
}
