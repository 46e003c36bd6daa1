/** Frames as docs/protocol.md describes them, read from outside: nothing here comes from our own schemas. */

export type Entry = readonly [
  sequence: number,
  type: string,
  workflowId: string,
  at: string,
  data: Readonly<Record<string, unknown>>,
];
export type Row = Readonly<Record<string, unknown>> & { readonly id: string; readonly sequence: number };

/** Any frame of the server. Which fields a kind has is checked by {@link malformed}. */
export interface Frame {
  readonly t: string;
  readonly i?: number;
  readonly f?: number;
  readonly p?: number;
  readonly s?: number;
  readonly d?: readonly Entry[];
  readonly e?: string;
  readonly first?: number;
  readonly head?: number;
  readonly hb?: number;
  readonly limits?: { readonly subs: number; readonly frame: number };
  readonly mode?: string;
  readonly resumed?: boolean;
  readonly rows?: readonly Row[];
  readonly more?: boolean;
  readonly l?: readonly (readonly [f: number, last: number])[];
  readonly w?: readonly (readonly [f: number, sent: number])[];
  readonly why?: string;
  readonly code?: string | number;
  readonly msg?: string;
  readonly retry?: boolean;
  readonly after?: number;
  readonly min?: number;
  readonly max?: number;
  readonly n?: number;
}

const fields: Readonly<Record<string, readonly string[]>> = {
  welcome: ["v", "node", "e", "first", "head", "hb", "limits"],
  subbed: ["i", "f", "mode", "s", "head", "resumed"],
  snap: ["i", "rows", "more"],
  snapend: ["i", "e", "s"],
  ev: ["f", "p", "s", "d"],
  bm: ["f", "p", "s"],
  live: ["i", "s"],
  behind: ["i", "s", "head", "why"],
  hb: ["s", "l"],
  end: ["i", "s"],
  gone: ["i", "why", "e", "first", "head"],
  err: ["code", "msg", "retry", "after"],
  bye: ["code", "min", "max"],
  pong: [],
};
const sequences = ["p", "s", "head", "first"] as const;

/** What is wrong with a frame by itself, or null. Kinds that are not in the document are let through. */
export function malformed(frame: Frame): string | null {
  const wanted = fields[frame.t];
  if (wanted === undefined) return null;
  const missing = wanted.filter((name) => !Object.hasOwn(frame, name));
  if (missing.length > 0) return `has no ${missing.join(", ")}`;
  for (const name of sequences) {
    const value = frame[name];
    if (value !== undefined && !(Number.isSafeInteger(value) && value >= 0))
      return `${name} is no sequence: ${JSON.stringify(value)}`;
  }
  if (frame.t !== "ev") return null;
  if (frame.d === undefined || frame.d.length === 0) return "d is empty";
  const entry = frame.d.find(
    (each) =>
      !Array.isArray(each) ||
      each.length !== 5 ||
      !Number.isSafeInteger(each[0]) ||
      typeof each[1] !== "string",
  );
  return entry === undefined ? null : `an entry is none: ${JSON.stringify(entry).slice(0, 200)}`;
}

export function shown(frame: unknown): string {
  const text = JSON.stringify(frame);
  return text.length > 300 ? `${text.slice(0, 300)}…` : text;
}
