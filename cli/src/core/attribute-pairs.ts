import { MillraceError, type AttributeValue } from "@millrace/schemas";

/**
 * Reads `key=value` pairs. A value that JSON reads as a number, boolean or string is that (`7`, `true`, `"7"`), any other
 * is its own text. A number that JSON would not write the same (`007`, `1e3`, too many digits) stays a text too.
 */
export function readAttributes(option: string, pairs: readonly string[]): Record<string, AttributeValue> {
  return Object.fromEntries(pairs.map((pair) => readPair(option, pair)));
}

/** As above, for filters: a key that is given several times wants one of its values. */
export function readWanted(option: string, pairs: readonly string[]): Record<string, AttributeValue[]> {
  const wanted = new Map<string, AttributeValue[]>();
  for (const pair of pairs) {
    const [key, value] = readPair(option, pair);
    wanted.set(key, [...(wanted.get(key) ?? []), value]);
  }
  return Object.fromEntries(wanted);
}

function readPair(option: string, pair: string): readonly [string, AttributeValue] {
  const at = pair.indexOf("=");
  if (at < 1) {
    throw new MillraceError(
      "invalid_request",
      `${option} ${JSON.stringify(pair.slice(0, 80))} is not key=value, e.g. ${option} customer=7.`,
    );
  }
  return [pair.slice(0, at), valueOf(pair.slice(at + 1))];
}

function valueOf(text: string): AttributeValue {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    // No JSON: the text is the value.
    return text;
  }
  if (typeof value === "string" || typeof value === "boolean") return value;
  return typeof value === "number" && String(value) === text ? value : text;
}
