import { JetStreamApiError, JetStreamError } from "@nats-io/jetstream";
import { errors } from "nats";
import { isMillraceError, MillraceError, type ErrorCode } from "@millrace/schemas";

/**
 * What each of JetStream's error codes (`err_code`) means to us: the one place where they are told apart.
 * Source: nats-server `server/errors.json`. A code that is not here is judged by its status, see {@link codeOf}.
 */
const byErrCode: Readonly<Record<number, ErrorCode>> = {
  10071: "conflict", // wrong last sequence: N
  10164: "conflict", // wrong last sequence; replicated only: another write to the subject is under way
  10163: "unavailable", // expected last sequence cannot be checked now
  10054: "payload_too_large", // message size exceeds maximum allowed
  10097: "payload_too_large", // header size exceeds maximum allowed of 64k
  10023: "log_full", // insufficient resources
  10028: "log_full", // resource limits exceeded for account
  10047: "log_full", // insufficient storage resources available
  10002: "log_full", // account resources exceeded
  10008: "unavailable", // JetStream system temporarily unavailable
  10009: "unavailable", // JetStream cluster is not active
  10005: "unavailable", // JetStream not in clustered mode
  10039: "broker_start_failed", // JetStream not enabled for account
  10076: "broker_start_failed", // JetStream not enabled
  10035: "broker_start_failed", // JetStream not enabled, by configuration
  10059: "unavailable", // stream not found
  10014: "unavailable", // consumer not found
  10109: "log_recreated", // sealed: nobody of ours does that
  10118: "unavailable", // stream is offline
};

/** `maximum messages per subject exceeded` and a full or broken store share this code; only the text differs. */
const storeFailedErrCode = 10077;

/** The code of ours for an error of JetStream's. `description` only decides where the broker has one code for two things. */
export function codeOf(errCode: number, status: number, description: string): ErrorCode {
  if (errCode === storeFailedErrCode)
    return description.includes("per subject") ? "limit_exceeded" : "log_full";
  const known = byErrCode[errCode];
  if (known !== undefined) return known;
  if (status === 429) return "overloaded";
  if (status === 503 || status === 408) return "unavailable";
  return "internal";
}

const nextStep: Partial<Record<ErrorCode, string>> = {
  unavailable: "Is the broker running? Try again.",
  overloaded: "The broker takes no more now: slow down and try again.",
  log_full: "Give the broker more disk or a higher limit.",
  limit_exceeded: "End the run, or raise the limit of commits per run.",
  payload_too_large: "Store large payloads elsewhere and keep a reference.",
  broker_start_failed: "Start nats-server with JetStream enabled.",
};

/** An error of the client library or of the broker as ours. `attempt` says what was tried, e.g. `Append to order-42`. */
export function toMillraceError(error: unknown, attempt: string): MillraceError {
  if (isMillraceError(error)) return error;
  const code = codeOfThrown(error);
  const reason = error instanceof Error ? error.message : String(error);
  const apiCode = error instanceof JetStreamApiError ? { details: { brokerCode: error.code } } : {};
  return new MillraceError(code, `${attempt} failed: ${reason}. ${nextStep[code] ?? ""}`.trimEnd(), {
    cause: error,
    ...apiCode,
  });
}

function codeOfThrown(error: unknown): ErrorCode {
  if (error instanceof JetStreamApiError) return codeOf(error.code, error.status, error.message);
  if (error instanceof errors.AuthorizationError || error instanceof errors.UserAuthenticationExpiredError) {
    return "broker_auth_failed";
  }
  if (error instanceof errors.PermissionViolationError) return "broker_auth_failed";
  if (error instanceof errors.InvalidArgumentError || error instanceof errors.InvalidSubjectError)
    return "internal";
  // Time-outs, no responders, lost and refused connections, and what the transport throws (ECONNREFUSED and the like).
  if (
    error instanceof errors.TimeoutError ||
    error instanceof errors.RequestError ||
    error instanceof errors.NoRespondersError ||
    error instanceof errors.ConnectionError ||
    error instanceof errors.ClosedConnectionError ||
    error instanceof errors.DrainingConnectionError ||
    error instanceof JetStreamError ||
    (error instanceof Error && "syscall" in error)
  ) {
    return "unavailable";
  }
  return "internal";
}

/** A question that was not answered: nobody listens, nobody answered in time, or the broker is away. */
export function toAskError(error: unknown, topic: string, timeoutMs: number): MillraceError {
  const nobody =
    error instanceof errors.NoRespondersError ||
    (error instanceof errors.RequestError && error.isNoResponders());
  if (nobody) {
    return new MillraceError("unavailable", `Nobody answers questions about ${topic} now. Start a worker.`, {
      cause: error,
      details: { listeners: 0 },
    });
  }
  if (
    error instanceof errors.TimeoutError ||
    (error instanceof errors.RequestError && error.cause instanceof errors.TimeoutError)
  ) {
    return new MillraceError(
      "timeout",
      `A question about ${topic} was not answered within ${timeoutMs} ms.`,
      {
        cause: error,
        details: { limit: timeoutMs },
      },
    );
  }
  return toMillraceError(error, `Asking about ${topic}`);
}
