/** Errors that workflow code and step functions throw and see, and how an error becomes data in the log. */
import { limits, MillraceError, type ErrorInfo, type EventData } from "@millrace/schemas";

/** Thrown by a step or by workflow code: there is no further attempt. */
export class NonRetryableError extends Error {
  override readonly name: string = "NonRetryableError";
}

/** Thrown by a step: the next attempt is due after this delay, whatever the policy says (its `maxAttempts` holds). */
export class RetryAfterError extends Error {
  override readonly name: string = "RetryAfterError";
  readonly afterMs: number;

  constructor(message: string, afterMs: number, options?: ErrorOptions) {
    super(message, options);
    this.afterMs = afterMs;
  }
}

/** What `ctx.step` rejects with after the last attempt; `details` has step, occurrence and attempts. */
export class StepFailedError extends MillraceError {
  override readonly name: string = "StepFailedError";
  /** The error of the last attempt, as stored. */
  readonly error: ErrorInfo;

  constructor(data: EventData<"StepFailed">, timedOut: boolean) {
    super(
      timedOut ? "step_timeout" : "step_failed",
      `Step ${data.name} failed after ${data.attempt} ${data.attempt === 1 ? "attempt" : "attempts"}: ${data.error.message}`,
      { details: { step: data.name, occurrence: data.occurrence, attempts: data.attempt }, retryable: false },
    );
    this.error = data.error;
  }
}

/** What `ctx.child` rejects with when the child did not complete; `details` has child and status. */
export class ChildFailedError extends MillraceError {
  override readonly name: string = "ChildFailedError";
  /** How the child closed; `refused`: it could not be started. */
  readonly status: EventData<"ChildWorkflowClosed">["status"];
  /** The child's error, as stored; null when it was cancelled or terminated. */
  readonly error: ErrorInfo | null;

  constructor(data: EventData<"ChildWorkflowClosed">) {
    const why = data.error === undefined ? "" : `: ${data.error.message}`;
    const how = data.status === "timed_out" ? "timed out" : data.status;
    super("child_failed", `Child workflow ${data.child} ${how}${why}`, {
      details: { child: data.child, status: data.status },
      retryable: false,
    });
    this.status = data.status;
    this.error = data.error ?? null;
  }
}

/** What pending `ctx` calls reject with after a cancel request; let it pass to end the run as cancelled. */
export class CancelledError extends MillraceError {
  override readonly name: string = "CancelledError";

  readonly reason: string | null;

  constructor(reason: string | null) {
    super(
      "cancelled",
      reason === null ? "The run was asked to cancel." : `The run was asked to cancel: ${reason}`,
    );
    this.reason = reason;
  }
}

export interface NonDeterminism {
  readonly workflowId: string;
  readonly version: string;
  readonly sequence: number;
  /** Type of the recorded event. */
  readonly recorded: string;
  readonly step?: string;
  /** Timer, wait, child or patch that the recorded event is about. */
  readonly subject?: string;
  /** What the code did at that point instead; absent: nothing. */
  readonly decided?: string;
}

/** The history holds what the code did not ask for. Fails the turn, never the run: mend the code or pin the version. */
export class NonDeterminismError extends MillraceError {
  override readonly name: string = "NonDeterminismError";

  constructor(what: NonDeterminism) {
    const about = what.step === undefined ? what.subject : `step ${what.step}`;
    const subject = about === undefined ? what.recorded : `${what.recorded} of ${about}`;
    const instead = what.decided === undefined ? "did not ask for it" : `asked for ${what.decided}`;
    super(
      "non_determinism",
      `Replay of ${what.workflowId} diverged: sequence ${what.sequence} recorded ${subject}, but the code of version ` +
        `${what.version} ${instead}. Deploy code that fits the history, or terminate the run.`,
      { details: { ...what } },
    );
  }
}

/** Workflow code called what a replay cannot answer in the same way; `details` has `call` and `instead`. Fails the turn. */
export class NonDeterministicCallError extends MillraceError {
  override readonly name: string = "NonDeterministicCallError";

  constructor(workflowId: string, call: string, instead: string) {
    super(
      "non_deterministic_call",
      `Workflow code of ${workflowId} called ${call}, which answers differently in a replay. Call ${instead} instead, ` +
        "or do it inside of ctx.step.",
      { details: { workflowId, call, instead } },
    );
  }
}

/** Turns whatever was thrown into data, cut to the stored limits. */
export function toErrorInfo(error: unknown): ErrorInfo {
  if (!(error instanceof Error)) return { message: textOf(() => error, limits.messageChars) ?? "" };
  const name = textOf(() => error.name, limits.stepNameChars);
  const code = textOf(() => ("code" in error ? error.code : undefined), limits.stepNameChars);
  const stack = textOf(() => error.stack, limits.stackChars);
  return {
    message: textOf(() => error.message, limits.messageChars) ?? "",
    ...(name === undefined ? {} : { name }),
    ...(code === undefined ? {} : { code }),
    ...(stack === undefined ? {} : { stack }),
  };
}

/** Anything can be thrown, with getters and `toString` that throw in their turn: an outcome must not get lost by that. */
function textOf(read: () => unknown, chars: number): string | undefined {
  try {
    const value = read();
    // oxlint-disable-next-line no-base-to-string -- "[object Object]" is what such an error says of itself
    return value === undefined ? undefined : cut(String(value), chars);
  } catch {
    return "(an error that cannot be read)";
  }
}

/** The error that a caller of `result()` gets for a stored one. */
export function fromErrorInfo(info: ErrorInfo): Error {
  const error = new Error(info.message);
  error.name = info.name ?? "Error";
  return error;
}

/** Errors that only a mistake in the program throws: they fail the turn, so that a deploy can mend the run. */
export function isProgramError(error: unknown): boolean {
  return (
    error instanceof TypeError ||
    error instanceof ReferenceError ||
    error instanceof RangeError ||
    error instanceof SyntaxError
  );
}

function cut(text: string, chars: number): string {
  return text.length <= chars ? text : `${text.slice(0, chars - 1)}…`;
}
