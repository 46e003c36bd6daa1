/**
 * One attempt of a step's function in this process, from its slot to its outcome as an event.
 *
 * Owns: the attempt's time limit and abort signal. Does not own: recording the outcome (the run does that).
 * S1 An attempt has exactly one outcome; what the function does after it is ignored.
 * S2 The outcome is an event that can be appended: output as stored, error as data.
 */
import { MillraceError, type StepRef, type WorkflowEvent } from "@millrace/schemas";
import { asStored } from "./as-stored.ts";
import { afterFailedAttempt } from "./core/attempt.ts";
import type { Clock, DueTimers } from "./due-timers.ts";
import { NonRetryableError, RetryAfterError, toErrorInfo } from "./failures.ts";
import type { Interceptors } from "./interceptors.ts";
import type { Logger } from "./logger.ts";
import type { StepContext } from "./context.ts";
import type { Payloads } from "./payloads/payloads.ts";
import type { StepRequest } from "./requests.ts";
import { createRunLogger, type RunLogger } from "./run-logger.ts";

export type StepOutcome = Extract<
  WorkflowEvent,
  {
    type:
      | "StepCompleted"
      | "StepRetryScheduled"
      | "StepFailed"
      | "StepTimedOut"
      | "CompensationCompleted"
      | "CompensationFailed";
  }
>;

export interface StepExecutionDeps {
  readonly clock: Clock;
  readonly timers: DueTimers;
  /** In [0, 1): jitter. */
  readonly random: () => number;
  readonly logger: Logger;
  readonly interceptors: Interceptors;
  readonly payloads: Payloads;
}

/** The run that an attempt belongs to. */
export interface AttemptOf {
  readonly id: string;
  readonly type: string;
  readonly run: number;
  readonly traceparent: string | null;
}

export class StepExecution {
  readonly request: StepRequest;
  readonly #deps: StepExecutionDeps;
  readonly #of: AttemptOf;
  readonly #attempt: number;
  readonly #onOutcome: (outcome: StepOutcome) => void;
  /** Made on first use: most steps never look at their signal. */
  #controller: AbortController | null = null;
  #abortReason: Error | null = null;
  #settled = false;

  constructor(
    deps: StepExecutionDeps,
    of: AttemptOf,
    request: StepRequest,
    attempt: number,
    onOutcome: (outcome: StepOutcome) => void,
  ) {
    this.#deps = deps;
    this.#of = of;
    this.request = request;
    this.#attempt = attempt;
    this.#onOutcome = onOutcome;
  }

  /** Resolves when the attempt has its outcome or was abandoned; never rejects. */
  run(): Promise<void> {
    if (this.#settled) return Promise.resolve();
    const { timeoutMs } = this.request.options;
    return new Promise((resolve) => {
      let cancelTimer = (): void => undefined;
      const settle = (outcome: (() => StepOutcome) | null): void => {
        cancelTimer();
        resolve();
        if (this.#settled) return;
        this.#settled = true;
        if (outcome !== null) this.#onOutcome(outcome());
      };
      this.#abandon = () => settle(null);
      if (timeoutMs !== undefined) {
        cancelTimer = this.#deps.timers.add(this.#deps.clock.now() + timeoutMs, () => {
          const error = new MillraceError(
            "step_timeout",
            `Attempt ${this.#attempt} of step ${this.request.key} of ${this.#of.id} ran into its time limit of ${timeoutMs} ms.`,
          );
          settle(() => this.#failed(error));
          this.#abortWith(error);
        });
      }
      this.#call().then(
        (output) => settle(() => this.#completed(output)),
        (error: unknown) => settle(() => this.#failed(error)),
      );
    });
  }

  /** Tells the function to stop and drops its outcome. */
  abandon(reason: Error): void {
    this.#abandon();
    this.#abortWith(reason);
  }

  #abandon = (): void => {
    this.#settled = true;
  };

  async #call(): Promise<unknown> {
    const { name, occurrence, fn } = this.request;
    const controller = (): AbortController => {
      this.#controller ??= new AbortController();
      if (this.#abortReason !== null) this.#controller.abort(this.#abortReason);
      return this.#controller;
    };
    const log = (): RunLogger => this.#log;
    const step: StepContext = {
      idempotencyKey: `${this.#of.id}/${this.#of.run}/${name}#${occurrence}`,
      attempt: this.#attempt,
      get signal() {
        return controller().signal;
      },
      get log() {
        return log();
      },
    };
    if (!this.#deps.interceptors.aroundSteps) return fn(step);
    const { id: workflowId, type, run, traceparent } = this.#of;
    const { idempotencyKey, attempt } = step;
    const call = { workflowId, type, run, step: name, occurrence, attempt, idempotencyKey, traceparent };
    const around = { ...call, kind: this.request.kind, signal: step.signal };
    return this.#deps.interceptors.step(around, async () => fn(step));
  }

  get #log(): RunLogger {
    const { id: workflowId, type, run } = this.#of;
    const { name: step, occurrence } = this.request;
    const fields = { workflowId, type, run, step, occurrence, attempt: this.#attempt };
    return createRunLogger((level, own, message) => this.#deps.logger[level]({ ...own, ...fields }, message));
  }

  #abortWith(reason: Error): void {
    this.#abortReason ??= reason;
    this.#controller?.abort(reason);
  }

  #completed(output: unknown): StepOutcome {
    try {
      const stored = asStored(output, `output of step ${this.request.key}`, this.#deps.payloads.bytesMax);
      const type = this.request.kind === "compensation" ? "CompensationCompleted" : "StepCompleted";
      return { type, data: { ...this.#ref(), attempt: this.#attempt, output: stored } };
    } catch (error) {
      // The function did its work: running it again would do it twice and could not be stored either.
      return this.#final(error);
    }
  }

  /** No further attempt. */
  #final(error: unknown): StepOutcome {
    const type = this.request.kind === "compensation" ? "CompensationFailed" : "StepFailed";
    return { type, data: { ...this.#ref(), attempt: this.#attempt, error: toErrorInfo(error) } };
  }

  #failed(error: unknown): StepOutcome {
    const policy = this.request.options.retry ?? {};
    let retryable = !(error instanceof NonRetryableError);
    try {
      retryable = retryable && policy.nonRetryable?.(error) !== true;
    } catch (predicateError) {
      // Without an answer, stopping is what loses nothing: an operator can run it again.
      return this.#final(predicateError);
    }
    const outcome = afterFailedAttempt(
      {
        ...this.#ref(),
        attempt: this.#attempt,
        error: toErrorInfo(error),
        retryable,
        timedOut: error instanceof MillraceError && error.code === "step_timeout",
        retryAfterMs: error instanceof RetryAfterError ? error.afterMs : null,
      },
      policy,
      this.#deps.clock.now(),
      this.#deps.random(),
    );
    if (this.request.kind === "compensation" && outcome.type !== "StepRetryScheduled")
      return { type: "CompensationFailed", data: outcome.data };
    return outcome;
  }

  #ref(): StepRef {
    return { name: this.request.name, occurrence: this.request.occurrence };
  }
}
