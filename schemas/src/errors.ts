/**
 * The closed set of error codes. A code says what happens next; the class of an error never does, since an
 * error may have crossed a process or come from another copy of this package.
 */
const codes = {
  // The request is wrong: mend it.
  invalid_json: { retryable: false },
  invalid_request: { retryable: false },
  invalid_id: { retryable: false },
  invalid_input: { retryable: false },
  filter_invalid: { retryable: false },
  body_too_large: { retryable: false },
  frame_too_large: { retryable: false },
  payload_too_large: { retryable: false },
  limit_exceeded: { retryable: false },
  route_unknown: { retryable: false },
  method_not_allowed: { retryable: false },
  // The run says no.
  workflow_not_found: { retryable: false },
  workflow_type_unknown: { retryable: false },
  workflow_version_unknown: { retryable: false },
  workflow_type_claimed: { retryable: false },
  workflow_exists: { retryable: false },
  workflow_closed: { retryable: false },
  workflow_not_external: { retryable: false },
  workflow_not_failed: { retryable: false },
  reset_unsafe: { retryable: false },
  step_not_begun: { retryable: false },
  attempt_superseded: { retryable: false },
  schedule_not_found: { retryable: false },
  schedule_exists: { retryable: false },
  query_unknown: { retryable: false },
  update_unknown: { retryable: false },
  update_refused: { retryable: false },
  // The cursor or the subscription.
  cursor_malformed: { retryable: false },
  cursor_expired: { retryable: false },
  cursor_future: { retryable: false },
  cursor_epoch: { retryable: false },
  subprotocol_missing: { retryable: false },
  protocol_version: { retryable: false },
  hello_missing: { retryable: false },
  subscription_unknown: { retryable: false },
  subscription_exists: { retryable: false },
  subscription_limit: { retryable: false },
  unauthenticated: { retryable: false },
  forbidden: { retryable: false },
  // Somebody was faster, or nobody answers: try again.
  conflict: { retryable: true },
  append_in_doubt: { retryable: true },
  unavailable: { retryable: true },
  overloaded: { retryable: true },
  draining: { retryable: true },
  timeout: { retryable: true },
  projector_behind: { retryable: true },
  // This node cannot, another kind of node can.
  projection_missing: { retryable: false },
  log_full: { retryable: true },
  // The machine or the installation.
  port_in_use: { retryable: false },
  data_folder_in_use: { retryable: false },
  data_folder_not_writable: { retryable: false },
  broker_not_found: { retryable: false },
  broker_version_unsupported: { retryable: false },
  broker_start_failed: { retryable: false },
  broker_auth_failed: { retryable: false },
  native_module_unsupported: { retryable: false },
  // Stop and say so.
  commit_malformed: { retryable: false },
  event_type_unknown: { retryable: false },
  checkpoint_mismatch: { retryable: false },
  log_recreated: { retryable: false },
  payload_missing: { retryable: false },
  payload_corrupt: { retryable: false },
  payload_sealed: { retryable: false },
  // User code.
  non_determinism: { retryable: false },
  non_deterministic_call: { retryable: false },
  step_failed: { retryable: false },
  step_timeout: { retryable: true },
  child_failed: { retryable: false },
  update_failed: { retryable: false },
  query_failed: { retryable: false },
  workflow_failed: { retryable: false },
  cancelled: { retryable: false },
  terminated: { retryable: false },
  workflow_timed_out: { retryable: false },
  internal: { retryable: false },
} as const satisfies Record<string, { retryable: boolean }>;

export type ErrorCode = keyof typeof codes;

export interface MillraceErrorOptions {
  readonly cause?: unknown;
  /** Overrides the default of the code. */
  readonly retryable?: boolean;
  /** Facts for machines: limit and actual, expected and actual sequence, ids. JSON values only. */
  readonly details?: Readonly<Record<string, unknown>>;
}

/**
 * The one base class of Millrace's errors. `message` says what was attempted, on which id, expected and
 * actual, and the next step. Recognise it with {@link isMillraceError} and `code`, never by its message.
 */
export class MillraceError extends Error {
  override readonly name: string = "MillraceError";
  readonly code: ErrorCode;
  readonly retryable: boolean;
  readonly details: Readonly<Record<string, unknown>>;

  constructor(code: ErrorCode, message: string, options: MillraceErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.retryable = options.retryable ?? codes[code].retryable;
    this.details = options.details ?? {};
  }
}

/** True for an error of ours, also one from another copy of this package. */
export function isMillraceError(error: unknown, code?: ErrorCode): error is MillraceError {
  if (!(error instanceof Error) || !("code" in error) || typeof error.code !== "string") return false;
  return code === undefined ? Object.hasOwn(codes, error.code) && "retryable" in error : error.code === code;
}

/** Narrows a string from the wire to a code; an unknown one becomes `internal`. */
export function errorCodeOf(value: unknown): ErrorCode {
  return typeof value === "string" && Object.hasOwn(codes, value) ? (value as ErrorCode) : "internal";
}
