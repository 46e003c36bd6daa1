/** What follows a failed attempt: pure, so that live runs, drivers and tests decide alike. */
import type { ErrorInfo, StepRef, WorkflowEvent } from "@millrace/schemas";
import type { RetryPolicy } from "../retry.ts";

export const retryDefaults = {
  maxAttempts: 3,
  initialDelayMs: 100,
  factor: 2,
  maxDelayMs: 30_000,
  jitter: "full",
} as const;

/**
 * Milliseconds before the attempt after `attempt`. `random` in [0, 1).
 * Source of full jitter: Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
 */
export function retryDelayMs(policy: RetryPolicy, attempt: number, random: number): number {
  const factor = policy.factor ?? retryDefaults.factor;
  const initialDelayMs = policy.initialDelayMs ?? retryDefaults.initialDelayMs;
  const ceiling = Math.min(
    policy.maxDelayMs ?? retryDefaults.maxDelayMs,
    initialDelayMs * factor ** (attempt - 1),
  );
  const delayMs = (policy.jitter ?? retryDefaults.jitter) === "full" ? ceiling * random : ceiling;
  // A policy is user data too: a time that is not a number can neither be stored nor waited for.
  return isDelay(delayMs) ? Math.round(delayMs) : retryDefaults.maxDelayMs;
}

function isDelay(ms: number): boolean {
  return Number.isFinite(ms) && ms >= 0;
}

export interface FailedAttempt extends StepRef {
  readonly attempt: number;
  readonly error: ErrorInfo;
  /** False: no further attempt. */
  readonly retryable: boolean;
  readonly timedOut: boolean;
  /** A delay that the step asked for instead of the policy's; not followed when it is negative or no number. */
  readonly retryAfterMs: number | null;
}

/** `StepRetryScheduled` while attempts are left, else the final `StepFailed` or `StepTimedOut`. */
export function afterFailedAttempt(
  failed: FailedAttempt,
  policy: RetryPolicy,
  now: number,
  random: number,
): Extract<WorkflowEvent, { type: "StepRetryScheduled" | "StepFailed" | "StepTimedOut" }> {
  const { name, occurrence, attempt, error } = failed;
  if (failed.retryable && attempt < (policy.maxAttempts ?? retryDefaults.maxAttempts)) {
    const asked = failed.retryAfterMs;
    const delayMs = asked !== null && isDelay(asked) ? asked : retryDelayMs(policy, attempt, random);
    return {
      type: "StepRetryScheduled",
      data: { name, occurrence, attempt, error, nextAttemptAt: now + delayMs },
    };
  }
  return {
    type: failed.timedOut ? "StepTimedOut" : "StepFailed",
    data: { name, occurrence, attempt, error },
  };
}
