import { isMillraceError, MillraceError, type ErrorCode, type Problem } from "@millrace/schemas";
import type { HttpAnswer } from "./message.ts";

/** Every code's HTTP status; a new code does not compile without one. */
export const statusOf: Readonly<Record<ErrorCode, number>> = {
  invalid_json: 400,
  invalid_request: 400,
  invalid_id: 400,
  invalid_input: 400,
  filter_invalid: 400,
  body_too_large: 413,
  frame_too_large: 413,
  payload_too_large: 413,
  limit_exceeded: 422,
  route_unknown: 404,
  method_not_allowed: 405,
  workflow_not_found: 404,
  workflow_type_unknown: 404,
  workflow_version_unknown: 404,
  workflow_type_claimed: 409,
  workflow_exists: 409,
  workflow_closed: 409,
  workflow_not_external: 409,
  workflow_not_failed: 409,
  reset_unsafe: 409,
  step_not_begun: 409,
  attempt_superseded: 409,
  schedule_not_found: 404,
  schedule_exists: 409,
  query_unknown: 404,
  update_unknown: 404,
  update_refused: 422,
  cursor_malformed: 400,
  cursor_expired: 410,
  cursor_future: 400,
  cursor_epoch: 410,
  subprotocol_missing: 400,
  protocol_version: 400,
  hello_missing: 400,
  subscription_unknown: 404,
  subscription_exists: 409,
  subscription_limit: 429,
  unauthenticated: 401,
  forbidden: 403,
  conflict: 409,
  append_in_doubt: 503,
  unavailable: 503,
  overloaded: 503,
  draining: 503,
  timeout: 504,
  projector_behind: 503,
  projection_missing: 501,
  log_full: 507,
  port_in_use: 500,
  data_folder_in_use: 500,
  data_folder_not_writable: 500,
  broker_not_found: 503,
  broker_version_unsupported: 503,
  broker_start_failed: 503,
  broker_auth_failed: 503,
  native_module_unsupported: 500,
  commit_malformed: 500,
  event_type_unknown: 500,
  checkpoint_mismatch: 500,
  log_recreated: 503,
  payload_missing: 404,
  payload_corrupt: 500,
  payload_sealed: 409,
  non_determinism: 500,
  non_deterministic_call: 500,
  step_failed: 500,
  child_failed: 500,
  update_failed: 422,
  query_failed: 422,
  step_timeout: 500,
  workflow_failed: 500,
  // Over HTTP, the client that went away: nobody reads it, and it is no failure of ours.
  cancelled: 499,
  terminated: 500,
  workflow_timed_out: 500,
  internal: 500,
};

const retryAfterSeconds = 1;

/**
 * An error as problem details (RFC 9457): `code`, the message, and the error's details (limit and actual, expected
 * and actual sequence). What is not ours becomes `internal` without a word of its message.
 */
export function problemAnswer(error: unknown): HttpAnswer {
  const known = isMillraceError(error)
    ? error
    : new MillraceError(
        "internal",
        "The server failed on this request; its log says why. Try again, then report it.",
      );
  const status = statusOf[known.code];
  const problem: Problem = {
    ...known.details,
    type: `urn:millrace:error:${known.code}`,
    title: known.code.replaceAll("_", " "),
    status,
    detail: known.message,
    code: known.code,
    retryable: known.retryable,
  };
  return {
    status,
    headers: status === 503 ? { "Retry-After": String(retryAfterSeconds) } : {},
    body: JSON.stringify(problem),
    contentType: "application/problem+json",
  };
}
