import { MillraceError } from "./errors.ts";
import { fnv1a } from "./ids.ts";

/** What a client keeps: every event up to and including `sequence` that matches its filter was processed. */
export interface Cursor {
  readonly epoch: string;
  readonly sequence: number;
}

/** `epoch.sequence`, e.g. `9f3a01bc.174`. */
export function formatCursor(epoch: string, sequence: number): string {
  return `${epoch}.${sequence}`;
}

/** Reads `epoch.sequence`; else `cursor_malformed`. */
export function parseCursor(text: unknown): Cursor {
  const match = typeof text === "string" ? /^([0-9a-f]{4,16})\.(0|[1-9][0-9]{0,15})$/.exec(text) : null;
  const sequence = Number(match?.[2] ?? Number.NaN);
  if (match?.[1] === undefined || !Number.isSafeInteger(sequence)) {
    const shown = typeof text === "string" ? JSON.stringify(text.slice(0, 80)) : String(text);
    throw new MillraceError(
      "cursor_malformed",
      `Cursor ${shown} is malformed: expected "<epoch>.<sequence>", e.g. "9f3a01bc.174". ` +
        `Use a cursor that a frame gave you, or "start", "now" or "snapshot".`,
    );
  }
  return { epoch: match[1], sequence };
}

/**
 * Identity of one log: it changes when the log is created anew, so that an old cursor is refused and never
 * misread. Eight hex digits over stream name, creation time and a configured generation.
 */
export function epochOf(stream: string, created: string, generation: string): string {
  return fnv1a(`${stream}\n${created}\n${generation}`).toString(16).padStart(8, "0");
}
