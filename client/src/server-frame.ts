import type { ServerFrame } from "@millrace/schemas";

const isSequence = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0;
const isText = (value: unknown): value is string => typeof value === "string";
const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);

type Fields = Record<string, unknown>;

function isChained(frame: Fields): boolean {
  return (
    isSequence(frame["f"]) && isSequence(frame["p"]) && isSequence(frame["s"]) && frame["p"] <= frame["s"]
  );
}

/** Entries in log order, all in `(p, s]`: else the frame's promise is void. */
function areEntries(entries: unknown, p: number, s: number): boolean {
  if (!Array.isArray(entries)) return false;
  let least = p + 1;
  for (const entry of entries as unknown[]) {
    if (!Array.isArray(entry) || entry.length < 5) return false;
    const [sequence, type, workflowId, at] = entry as unknown[];
    if (!isSequence(sequence) || sequence < least || sequence > s) return false;
    if (!isText(type) || !isText(workflowId) || !isText(at)) return false;
    if (type === "state" && !isObject(entry[4])) return false;
    least = sequence;
  }
  return true;
}

function arePairs(value: unknown): boolean {
  return (
    Array.isArray(value) &&
    value.every((pair: unknown) => Array.isArray(pair) && isSequence(pair[0]) && isSequence(pair[1]))
  );
}

// A hand-written check: a schema library would be larger than the whole client.
const checks: { readonly [T in ServerFrame["t"]]: (frame: Fields) => boolean } = {
  welcome: (f) => isText(f["e"]) && isSequence(f["hb"]) && f["hb"] > 0 && isSequence(f["head"]),
  subbed: (f) =>
    isSequence(f["i"]) &&
    isSequence(f["f"]) &&
    isSequence(f["s"]) &&
    (f["mode"] === "catchup" || f["mode"] === "snapshot" || f["mode"] === "live"),
  snap: (f) => isSequence(f["i"]) && Array.isArray(f["rows"]) && f["rows"].every(isObject),
  snapend: (f) => isSequence(f["i"]) && isText(f["e"]) && isSequence(f["s"]),
  ev: (f) => isChained(f) && areEntries(f["d"], f["p"] as number, f["s"] as number),
  bm: isChained,
  live: (f) => isSequence(f["i"]),
  behind: (f) => isSequence(f["i"]) && isText(f["why"]),
  hb: (f) => isSequence(f["s"]) && arePairs(f["l"]) && (f["w"] === undefined || arePairs(f["w"])),
  end: (f) => isSequence(f["i"]) && isSequence(f["s"]),
  gone: (f) => isSequence(f["i"]) && isText(f["why"]),
  err: (f) => (f["i"] === undefined || isSequence(f["i"])) && isText(f["code"]) && isText(f["msg"]),
  bye: (f) => isSequence(f["code"]) && isSequence(f["min"]) && isSequence(f["max"]),
  pong: () => true,
};

/**
 * Reads one message of the server. `unknown` is a frame type of a newer server, to be skipped; `malformed` means
 * that the chain can no longer be trusted on this connection.
 */
export function parseServerFrame(message: unknown): ServerFrame | "unknown" | "malformed" {
  if (typeof message !== "string") return "malformed";
  let value: unknown;
  try {
    value = JSON.parse(message);
  } catch {
    return "malformed";
  }
  return checkServerFrame(value);
}

/** The same for a value that was parsed already. */
export function checkServerFrame(value: unknown): ServerFrame | "unknown" | "malformed" {
  if (!isObject(value) || !isText(value["t"])) return "malformed";
  if (!Object.hasOwn(checks, value["t"])) return "unknown";
  return checks[value["t"] as ServerFrame["t"]](value) ? (value as unknown as ServerFrame) : "malformed";
}
