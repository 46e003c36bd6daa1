import { limits, MillraceError } from "@millrace/schemas";
import * as v from "valibot";
import type { HttpRequest } from "./message.ts";

const utf8 = new TextDecoder("utf-8", { fatal: true });

/** Reads the body as JSON of a shape. An empty body is `{}`. `invalid_json`, `invalid_request`, `body_too_large`. */
export async function parseBody<Schema extends v.GenericSchema>(
  request: HttpRequest,
  schema: Schema,
): Promise<v.InferOutput<Schema>> {
  const body = await request.body();
  let value: unknown;
  try {
    value = body.length === 0 ? {} : JSON.parse(utf8.decode(body));
  } catch (cause) {
    throw new MillraceError(
      "invalid_json",
      `The body of ${request.method} ${request.path} is not JSON: ${cause instanceof Error ? cause.message : String(cause)}. ` +
        "Send UTF-8 JSON with Content-Type: application/json.",
      { cause },
    );
  }
  if (Array.isArray(value)) {
    // valibot takes an array for an object without fields.
    throw new MillraceError(
      "invalid_request",
      `${request.method} ${request.path} refused at the body: expected an object but received an array.`,
      { details: { at: "the body" } },
    );
  }
  const depth = depthOf(value);
  if (depth > limits.jsonDepth) {
    throw new MillraceError(
      "limit_exceeded",
      `${request.method} ${request.path} refused: its JSON is ${depth} levels deep, the limit is ${limits.jsonDepth}. ` +
        "Flatten it, or send it as a string.",
      { details: { limit: limits.jsonDepth, actual: depth } },
    );
  }
  const result = v.safeParse(schema, value);
  if (result.success) return result.output;
  const [issue] = result.issues;
  const where = v.getDotPath(issue) ?? "the body";
  throw new MillraceError(
    "invalid_request",
    `${request.method} ${request.path} refused at ${where}: ${issue.message}.`,
    {
      details: { at: where },
    },
  );
}

/** Levels of arrays and objects, counted without recursion: the value may be too deep for that. */
function depthOf(value: unknown): number {
  let deepest = 0;
  const open = [{ value, depth: 1 }];
  for (let each = open.pop(); each !== undefined; each = open.pop()) {
    const { depth } = each;
    if (typeof each.value !== "object" || each.value === null) continue;
    deepest = Math.max(deepest, depth);
    for (const inner of Object.values(each.value) as unknown[]) {
      if (typeof inner === "object") open.push({ value: inner, depth: depth + 1 });
    }
  }
  return deepest;
}

/** A query parameter; `invalid_request` when it is given more than once, since all but one would be ignored. */
export function singleParam(query: URLSearchParams, name: string): string | undefined {
  const [text, ...more] = query.getAll(name);
  if (more.length === 0) return text;
  throw new MillraceError(
    "invalid_request",
    `${name.slice(0, 80)} is given ${more.length + 1} times in the query. Give it once.`,
  );
}

/** A query parameter that is a sequence. `invalid_request` when it is none. */
export function sequenceParam(query: URLSearchParams, name: string): number | undefined {
  const text = singleParam(query, name);
  if (text === undefined) return undefined;
  const value = Number(text);
  if (/^[0-9]{1,16}$/.test(text) && Number.isSafeInteger(value)) return value;
  throw new MillraceError(
    "invalid_request",
    `${name}=${text.slice(0, 80)} is not a sequence: expected digits, e.g. ${name}=174.`,
  );
}

/** `limit=` of a list: 1 to `max`. */
export function limitParam(query: URLSearchParams, max: number): number | undefined {
  const text = singleParam(query, "limit");
  if (text === undefined) return undefined;
  const value = Number(text);
  if (/^[0-9]{1,9}$/.test(text) && value >= 1 && value <= max) return value;
  throw new MillraceError("invalid_request", `limit=${text.slice(0, 80)} is not 1 to ${max}.`, {
    details: { limit: max, actual: text.slice(0, 80) },
  });
}
