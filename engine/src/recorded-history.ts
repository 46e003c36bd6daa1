/** Histories outside of the log: what `millrace history --json` and `GET /v1/workflows/{id}/events` give, and back. */
import type { StoredCommit } from "@millrace/event-log";
import {
  decodeCommit,
  encodeCommit,
  MillraceError,
  validateEvent,
  type WorkflowEvent,
} from "@millrace/schemas";
import { openRecorded } from "./payloads/payloads.ts";
import type { HistoryCommit } from "./replay.ts";

/** One event of a recorded history: a line of `millrace history --json`. */
export interface RecordedEvent {
  readonly sequence: number;
  readonly type: string;
  /** ISO 8601. */
  readonly at: string;
  readonly data: unknown;
  /** Where `ctx.random` and `ctx.uuid` of the run come from; absent: they give other values than they did. */
  readonly commitId?: string;
}

/** A run's history as plain JSON: to be kept in a file and replayed on later code. */
export interface RecordedHistory {
  readonly workflowId: string;
  readonly type: string;
  readonly events: readonly RecordedEvent[];
}

/** A history as it was loaded from the log, as plain JSON. `invalid_request` when it is empty. */
export function recordHistory(history: readonly StoredCommit[]): RecordedHistory {
  const first = history[0];
  if (first === undefined)
    throw new MillraceError("invalid_request", "There is no history to record: the run has no commit.");
  const events = history.flatMap(({ sequence, at, commitId, events: own }) =>
    own.map(({ type, data }) => ({ sequence, type, at: new Date(at).toISOString(), data, commitId })),
  );
  return { workflowId: first.workflowId, type: first.type, events };
}

/**
 * Reads a recorded history from text: what {@link recordHistory} gave, the body of `GET /v1/workflows/{id}/events`
 * (one page that holds all), or the lines of `millrace history --json`. The last two do not say whose it is.
 * `invalid_json` when it is none of them.
 */
export function parseHistory(
  text: string,
  run: { readonly workflowId: string; readonly type: string },
): RecordedHistory {
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch {
    parsed = null;
  }
  if (isRecorded(parsed)) return parsed;
  const page = typeof parsed === "object" && parsed !== null && "items" in parsed ? parsed.items : null;
  const events: unknown = page ?? linesOf(text);
  if (Array.isArray(events) && events.length > 0 && events.every(isEvent)) return { ...run, events };
  throw new MillraceError(
    "invalid_json",
    `The recorded history of ${run.workflowId} is neither the output of \`millrace history --json\`, nor a page of ` +
      "events, nor what recordHistory gives. Record it again.",
  );
}

/**
 * Its events by commit, checked and in their present shape. `commit_malformed`, `event_type_unknown`, `payload_sealed`.
 */
export function commitsOf({ workflowId, events }: RecordedHistory): HistoryCommit[] {
  const commits: { sequence: number; at: number; commitId: string; events: WorkflowEvent[] }[] = [];
  for (const { sequence, at, commitId, type, data } of events) {
    const last = commits.at(-1);
    const event = { type, data } as WorkflowEvent;
    if (last?.sequence === sequence) last.events.push(event);
    else commits.push({ sequence, at: Date.parse(at), commitId: commitId ?? "", events: [event] });
  }
  return commits.map((commit) => {
    // By the same door as commits of the log, so that old shapes are upcast and broken ones refused.
    const read = decodeCommit(encodeCommit(workflowId, commit.events), commit.sequence);
    for (const event of read) validateEvent(event);
    return { ...commit, condition: null, events: openRecorded(workflowId, read) };
  });
}

function linesOf(text: string): unknown {
  try {
    return text
      .split("\n")
      .filter((line) => line.trim() !== "")
      .map((line) => JSON.parse(line) as unknown);
  } catch {
    return null;
  }
}

function isRecorded(value: unknown): value is RecordedHistory {
  if (typeof value !== "object" || value === null) return false;
  const { workflowId, type, events } = value as Partial<Record<keyof RecordedHistory, unknown>>;
  return (
    typeof workflowId === "string" &&
    typeof type === "string" &&
    Array.isArray(events) &&
    events.length > 0 &&
    events.every(isEvent)
  );
}

function isEvent(value: unknown): value is RecordedEvent {
  if (typeof value !== "object" || value === null) return false;
  const { sequence, type, at } = value as Partial<Record<keyof RecordedEvent, unknown>>;
  return typeof sequence === "number" && typeof type === "string" && typeof at === "string";
}
