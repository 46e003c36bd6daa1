import * as v from "valibot";
import { MillraceError } from "./errors.ts";
import { eventSchemas, isEventType, type WorkflowEvent } from "./events.ts";
import { limits } from "./limits.ts";

/** Version of the commit's body. Older bodies are upcast when read. */
export const commitVersion = 1;

/** Headers of a commit in the log. */
export const commitHeaders = {
  /** ULID of the commit: how a writer recognises its own commit after a lost acknowledgement. */
  commitId: "Millrace-Commit",
  /** Session of the engine process that wrote it. */
  writer: "Millrace-Writer",
  /** {@link RunCondition}; absent when the writer does not own the run. */
  condition: "Millrace-Condition",
  /** Earliest timer due, milliseconds since 1970. */
  dueAt: "Millrace-Due",
  /** Id of the parent run, on every commit of a child's owner. */
  parent: "Millrace-Parent",
  traceparent: "traceparent",
} as const;

const traceparentPattern = /^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$/;

export function isTraceparent(value: string): boolean {
  return traceparentPattern.test(value);
}

/** `invalid_request` for what is no W3C trace context. */
export function assertTraceparent(value: string, attempt: string): void {
  if (isTraceparent(value)) return;
  throw new MillraceError(
    "invalid_request",
    `${attempt} refused: ${JSON.stringify(value.slice(0, 80))} is no traceparent (00-<32 hex>-<16 hex>-<2 hex>). Leave it out.`,
  );
}

/**
 * What the next owner of a shard must know about a run without reading its history. `running`: code of it runs, load
 * it. `handed-off`: it waits for others (tasks, children), load it to see that they were told. `waiting`: it may stay
 * where it is until something comes or the time in `Millrace-Due` passes.
 */
export type RunCondition = "running" | "handed-off" | "waiting" | "closed";

/** `{v, events:[{type, data}]}` as JSON. `limit_exceeded` for no events or too many; the append checks the bytes. */
export function encodeCommit(workflowId: string, events: readonly WorkflowEvent[]): string {
  if (events.length === 0 || events.length > limits.commitEvents) {
    throw new MillraceError(
      "limit_exceeded",
      `Commit to ${workflowId} refused: it has ${events.length} events, the limit is 1 to ${limits.commitEvents}. ` +
        "Spread the work over more turns.",
      { details: { limit: limits.commitEvents, actual: events.length } },
    );
  }
  return JSON.stringify({ v: commitVersion, events });
}

/**
 * Reads a commit's body. `commit_malformed` when it is not `{v, events}`; `event_type_unknown` when a newer
 * writer wrote it. Only the envelope and the event types are checked here, since this is on every hot path;
 * {@link validateEvent} checks data.
 */
export function decodeCommit(body: string, sequence: number): readonly WorkflowEvent[] {
  let parsed: unknown;
  try {
    parsed = JSON.parse(body);
  } catch (cause) {
    throw new MillraceError("commit_malformed", `Commit at sequence ${sequence} is not JSON.`, { cause });
  }
  const { v: version, events } = (parsed ?? {}) as { v?: unknown; events?: unknown };
  if (version !== commitVersion || !Array.isArray(events) || events.length === 0) {
    throw new MillraceError(
      "commit_malformed",
      `Commit at sequence ${sequence} has version ${JSON.stringify(version)} and no readable events; ` +
        `this reader knows version ${commitVersion}. Upgrade the reader, or look for a foreign writer on the log.`,
    );
  }
  for (const event of events as unknown[]) {
    const type = (event as { type?: unknown } | null)?.type;
    if (!isEventType(type)) {
      throw new MillraceError(
        "event_type_unknown",
        `Commit at sequence ${sequence} has an event of type ${JSON.stringify(type)}, which this reader does not know. ` +
          "Upgrade the reader before you go on.",
      );
    }
  }
  return events as WorkflowEvent[];
}

/** Checks an event's data against its schema; `commit_malformed` names the path. Not for hot paths. */
export function validateEvent(event: WorkflowEvent): void {
  const result = v.safeParse(eventSchemas[event.type], event.data);
  if (result.success) return;
  const issue = result.issues[0];
  throw new MillraceError(
    "commit_malformed",
    `${event.type}.${v.getDotPath(issue) ?? "data"}: ${issue.message}`,
  );
}
