import { commitHeaders, MillraceError, parseRunSubject, type RunCondition } from "@millrace/schemas";
import type { JsMsg } from "@nats-io/jetstream";
import { headers, type MsgHdrs } from "nats";
import type { AppendRequest, CommitHead } from "../event-log.ts";
import type { Expectation } from "../settle-append.ts";

const expectedSequenceHeader = "Nats-Expected-Last-Subject-Sequence";
const expectedSubjectHeader = "Nats-Expected-Last-Subject-Sequence-Subject";

/** Headers of a commit: its own, and the expectation under which the broker stores it. */
export function headersOf(request: AppendRequest, expectation: Expectation, idSubject: string): MsgHdrs {
  const result = headers();
  result.set(expectedSequenceHeader, String(expectation.sequence));
  if (expectation.anyType) result.set(expectedSubjectHeader, idSubject);
  result.set(commitHeaders.commitId, request.commitId);
  if (request.writer !== undefined) result.set(commitHeaders.writer, request.writer);
  if (request.condition !== undefined) result.set(commitHeaders.condition, request.condition);
  if (request.dueAt !== undefined) result.set(commitHeaders.dueAt, String(request.dueAt));
  if (request.parent !== undefined) result.set(commitHeaders.parent, request.parent);
  if (request.traceparent !== undefined) result.set(commitHeaders.traceparent, request.traceparent);
  return result;
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
  const commitId = stored?.get(commitHeaders.commitId) ?? "";
  if (run === null || commitId === "") {
    throw new MillraceError(
      "commit_malformed",
      `The message at sequence ${sequence} on ${subject} is not a commit of ours. Look for a foreign writer on the log.`,
      { details: { sequence, subject } },
    );
  }
  const writer = stored?.get(commitHeaders.writer) ?? "";
  const condition = stored?.get(commitHeaders.condition) ?? "";
  const dueAt = stored?.get(commitHeaders.dueAt) ?? "";
  return {
    sequence,
    workflowId: run.workflowId,
    type: run.type,
    at,
    commitId,
    writer: writer === "" ? null : writer,
    condition: conditions.has(condition) ? (condition as RunCondition) : null,
    dueAt: dueAt === "" ? null : Number(dueAt),
    parent: stored?.get(commitHeaders.parent) || null,
    traceparent: stored?.get(commitHeaders.traceparent) || null,
  };
}

/** Milliseconds since 1970 of a delivered message. The library's number of nanoseconds does not fit a double, and a
 * commit must have one time however it is read. */
export function timeOf(message: JsMsg): number {
  return Number(message.timestampNanos / 1_000_000n);
}
