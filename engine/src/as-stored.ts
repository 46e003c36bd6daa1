import { limits, MillraceError } from "@millrace/schemas";

/**
 * A value as a reader of the log will see it: live code must not get more than a replay can give it.
 * `payload_too_large` beyond what one commit can hold beside its envelope.
 */
export function asStored(value: unknown, what: string): unknown {
  if (value === undefined || value === null || typeof value === "boolean") return value ?? null;
  if (typeof value === "string" && value.length < 10_000) return value;
  const text = JSON.stringify(value) as string | undefined;
  if (text === undefined) {
    throw new TypeError(`The ${what} is a ${typeof value}, which JSON cannot hold. Return plain data.`);
  }
  const limit = limits.commitBytes - 1_000;
  const actual = text.length > limit / 3 ? Buffer.byteLength(text) : text.length;
  if (actual > limit) {
    throw new MillraceError(
      "payload_too_large",
      `The ${what} has ${actual} bytes of JSON, the limit is ${limit}. Store the data elsewhere and return a reference.`,
      { details: { limit, actual } },
    );
  }
  return JSON.parse(text) as unknown;
}
