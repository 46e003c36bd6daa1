import type { ErrorCode } from "@millrace/schemas";

/** What a caller in a script can do about the end of a command. Part of the command's contract: never renumber. */
export const exitCodes = {
  ok: 0,
  failed: 1,
  usage: 2,
  notFound: 3,
  refused: 4,
  unavailable: 5,
  machine: 6,
  runFailed: 7,
} as const;
export type ExitCode = (typeof exitCodes)[keyof typeof exitCodes];

const { failed, usage, notFound, refused, unavailable, machine, runFailed } = exitCodes;

/** Exhaustive: a new error code does not compile before somebody has decided here. */
const byErrorCode: Readonly<Record<ErrorCode, ExitCode>> = {
  invalid_json: usage,
  invalid_request: usage,
  invalid_id: usage,
  invalid_input: usage,
  filter_invalid: usage,
  body_too_large: usage,
  frame_too_large: usage,
  payload_too_large: usage,
  limit_exceeded: usage,
  cursor_malformed: usage,

  workflow_not_found: notFound,
  workflow_type_unknown: notFound,
  workflow_version_unknown: notFound,
  schedule_not_found: notFound,
  route_unknown: notFound,
  subscription_unknown: notFound,

  workflow_type_claimed: refused,
  workflow_exists: refused,
  schedule_exists: refused,
  workflow_closed: refused,
  workflow_not_external: refused,
  workflow_not_failed: refused,
  reset_unsafe: refused,
  step_not_begun: refused,
  attempt_superseded: refused,
  query_unknown: notFound,
  update_unknown: notFound,
  update_refused: refused,
  method_not_allowed: refused,
  cursor_expired: refused,
  cursor_future: refused,
  cursor_epoch: refused,
  subprotocol_missing: refused,
  protocol_version: refused,
  hello_missing: refused,
  subscription_exists: refused,
  subscription_limit: refused,
  unauthenticated: refused,
  forbidden: refused,
  conflict: refused,

  append_in_doubt: unavailable,
  unavailable,
  overloaded: unavailable,
  draining: unavailable,
  timeout: unavailable,
  projector_behind: unavailable,
  projection_missing: exitCodes.failed,
  log_full: unavailable,

  port_in_use: machine,
  data_folder_in_use: machine,
  data_folder_not_writable: machine,
  broker_not_found: machine,
  broker_version_unsupported: machine,
  broker_start_failed: machine,
  broker_auth_failed: machine,
  native_module_unsupported: machine,

  workflow_failed: runFailed,
  cancelled: runFailed,
  terminated: runFailed,
  workflow_timed_out: runFailed,

  commit_malformed: failed,
  event_type_unknown: failed,
  checkpoint_mismatch: failed,
  log_recreated: failed,
  payload_missing: failed,
  payload_corrupt: failed,
  payload_sealed: failed,
  non_determinism: failed,
  non_deterministic_call: failed,
  step_failed: failed,
  child_failed: failed,
  update_failed: failed,
  query_failed: failed,
  step_timeout: failed,
  internal: failed,
};

export function exitCodeOf(code: ErrorCode): ExitCode {
  return byErrorCode[code];
}

/** For `--help` and the README: the code and what it means, in order. */
export const exitCodeMeanings: readonly (readonly [code: string, meaning: string])[] = [
  ["0", "done; a server that was asked to stop has drained"],
  ["1", "failed for a reason that is not below (a defect, or data that cannot be read)"],
  ["2", "wrong usage: an option, id, input, filter or cursor that is not valid"],
  ["3", "not found: no such run, or nobody has registered the workflow type"],
  ["4", "refused: the id is taken by a different start, the run is closed, the cursor cannot be resumed"],
  ["5", "unavailable: no server at the address, or it is overloaded or draining; try again"],
  [
    "6",
    "cannot run here: port or data folder in use, no broker, native module does not load; doctor: a check failed",
  ],
  ["7", "start --wait: the run ended as failed, cancelled, terminated or timed_out"],
  ["129, 130, 143", "ended at once by SIGHUP, SIGINT, SIGTERM: before it was ready, or by a second one"],
];
