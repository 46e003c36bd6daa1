import { commitHeaders, MillraceError, parseRunSubject, type RunCondition } from "@millrace/schemas";
import type { JsMsg } from "@nats-io/jetstream";
import type { MsgHdrs } from "nats";
import type { AppendRequest, CommitHead } from "../event-log.ts";
import type { Expectation } from "../settle-append.ts";
import { encodeHeaders } from "./encode-headers.ts";

const expectedSequenceHeader = "Nats-Expected-Last-Subject-Sequence";
const expectedSubjectHeader = "Nats-Expected-Last-Subject-Sequence-Subject";

/** Headers of a commit: its own, and the expectation under which the broker stores it. */
export function headersOf(request: AppendRequest, expectation: Expectation, idSubject: string): Uint8Array {
  return encodeHeaders({
    [expectedSequenceHeader]: String(expectation.sequence),
    [expectedSubjectHeader]: expectation.anyType ? idSubject : undefined,
    [commitHeaders.commitId]: request.commitId,
    [commitHeaders.writer]: request.writer,
    [commitHeaders.condition]: request.condition,
    [commitHeaders.dueAt]: request.dueAt === undefined ? undefined : String(request.dueAt),
    [commitHeaders.parent]: request.parent,
    [commitHeaders.traceparent]: request.traceparent,
  });
}

const conditions: ReadonlySet<string> = new Set<RunCondition>(["running", "handed-off", "waiting", "closed"]);

/** The head of a stored message. `commit_malformed` when it is none of ours. */
export function headOf(
  subject: string,
  sequence: number,
  at: number,
  stored: MsgHdrs | undefined,
): CommitHead {
  const run = parseRunSubject(subject);
  let commitId = "";
  let writer: string | null = null;
  let condition: RunCondition | null = null;
  let dueAt: number | null = null;
  let parent: string | null = null;
  let traceparent: string | null = null;
  // In one pass: the library's `get` looks through all keys each time.
  for (const [name, [value = ""]] of stored ?? []) {
    if (value === "") continue;
    if (name === commitHeaders.commitId) commitId = value;
    else if (name === commitHeaders.writer) writer = value;
    else if (name === commitHeaders.condition)
      condition = conditions.has(value) ? (value as RunCondition) : null;
    else if (name === commitHeaders.dueAt) dueAt = Number(value);
    else if (name === commitHeaders.parent) parent = value;
    else if (name === commitHeaders.traceparent) traceparent = value;
  }
  if (run === null || commitId === "") {
    throw new MillraceError(
      "commit_malformed",
      `The message at sequence ${sequence} on ${subject} is not a commit of ours. Look for a foreign writer on the log.`,
      { details: { sequence, subject } },
    );
  }
  const { workflowId, type } = run;
  return { sequence, workflowId, type, at, commitId, writer, condition, dueAt, parent, traceparent };
}

/** Milliseconds since 1970 of a delivered message. The library's number of nanoseconds does not fit a double, and a
 * commit must have one time however it is read. */
export function timeOf(message: JsMsg): number {
  return Number(message.timestampNanos / 1_000_000n);
}
