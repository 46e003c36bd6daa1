import { assertSubjectType, assertWorkflowId, encodeCommit, limits, MillraceError } from "@millrace/schemas";
import type { AppendRequest } from "./event-log.ts";

const utf8 = new TextEncoder();
const ulid = /^[0-7][0-9A-HJKMNP-TV-Z]{25}$/;

/**
 * Checks a request and encodes its body, so that nothing malformed reaches the log. `invalid_id`,
 * `invalid_request` (commit id, expectation), `limit_exceeded` (events), `payload_too_large` (bytes).
 */
export function encodeAppend(request: AppendRequest): Uint8Array {
  const { commitId, workflowId, type, expected } = request;
  assertWorkflowId(workflowId);
  assertSubjectType(type);
  if (!ulid.test(commitId)) {
    throw new MillraceError(
      "invalid_request",
      `Append to ${workflowId} refused: commit id ${JSON.stringify(commitId.slice(0, 80))} is not a ULID. Make one per commit.`,
    );
  }
  if (typeof expected === "number" && (!Number.isSafeInteger(expected) || expected < 1)) {
    throw new MillraceError(
      "invalid_request",
      `Append to ${workflowId} refused: expected sequence ${expected} is not a positive integer. ` +
        `Use the sequence of the run's last commit, or "new".`,
    );
  }
  const body = utf8.encode(encodeCommit(workflowId, request.events));
  if (body.byteLength > limits.commitBytes) {
    throw new MillraceError(
      "payload_too_large",
      `Commit to ${workflowId} refused: it has ${body.byteLength} bytes, the limit is ${limits.commitBytes}. ` +
        "Store large payloads elsewhere and keep a reference.",
      { details: { limit: limits.commitBytes, actual: body.byteLength } },
    );
  }
  return body;
}
