import type { AttributeRange, ListOptions } from "@millrace/projector";
import { assertWorkflowType, limits, MillraceError, runStatuses, type RunStatus } from "@millrace/schemas";
import { singleParam } from "./parse-body.ts";

export type RunFilter = Pick<ListOptions, "type" | "status" | "attributes" | "ranges">;

/**
 * Which runs a query asks for: `type=`, `status=`, `attr.K=V` (several times: one of them), `attr-min.K=` and
 * `attr-max.K=` (inclusive; a number is compared with numbers, else texts by code point). `invalid_request` says where.
 */
export function runFilterParams(query: URLSearchParams): RunFilter {
  const attributes: Record<string, readonly string[]> = {};
  const ranges: Record<string, AttributeRange> = {};
  for (const name of new Set(query.keys())) {
    const [kind, key] = splitAt(name, ".");
    if (kind === "attr") {
      const values = query.getAll(name);
      if (values.length > limits.filterValues) throw tooMany(name, values.length, limits.filterValues);
      attributes[key] = values;
    } else if (kind === "attr-min") {
      ranges[key] = { ...ranges[key], min: boundOf(singleParam(query, name) ?? "") };
    } else if (kind === "attr-max") {
      ranges[key] = { ...ranges[key], max: boundOf(singleParam(query, name) ?? "") };
    }
  }
  for (const [name, fields] of Object.entries({ attr: attributes, "attr-min or attr-max": ranges })) {
    const count = Object.keys(fields).length;
    if (count > limits.attributes) throw tooMany(name, count, limits.attributes);
  }
  const type = singleParam(query, "type");
  if (type !== undefined) assertWorkflowType(type);
  const status = singleParam(query, "status");
  if (status !== undefined && !isRunStatus(status)) {
    throw new MillraceError(
      "invalid_request",
      `status=${status.slice(0, 80)} is none of ${runStatuses.join(", ")}.`,
    );
  }
  return {
    ...(type === undefined ? {} : { type }),
    ...(status === undefined ? {} : { status }),
    ...(Object.keys(attributes).length === 0 ? {} : { attributes }),
    ...(Object.keys(ranges).length === 0 ? {} : { ranges }),
  };
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
