import { limits, MillraceError } from "@millrace/schemas";

/** What travels between processes as one message of the broker: queries, updates and their answers. */
export const messageBytesMax = limits.commitBytes - 1_000;

/**
 * A value as a reader of the log will see it: live code must not get more than a replay can give it.
 * `payload_too_large` beyond the limit of a payload.
 */
export function asStored(value: unknown, what: string, bytesMax: number): unknown {
  if (value === undefined || value === null || typeof value === "boolean") return value ?? null;
  if (typeof value === "string" && value.length < 10_000 && value.length * 6 < bytesMax) return value;
  const text = JSON.stringify(value) as string | undefined;
  if (text === undefined) {
    throw new TypeError(`The ${what} is a ${typeof value}, which JSON cannot hold. Return plain data.`);
  }
  const actual = text.length > bytesMax / 3 ? Buffer.byteLength(text) : text.length;
  if (actual > bytesMax) {
    throw new MillraceError(
      "payload_too_large",
      `The ${what} has ${actual} bytes of JSON, the limit is ${bytesMax}. Store the data elsewhere and return a reference.`,
      { details: { limit: bytesMax, actual } },
    );
  }
  return JSON.parse(text) as unknown;
}
