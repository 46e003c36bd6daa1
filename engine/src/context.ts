import type { RetryPolicy } from "./retry.ts";

export interface StepOptions {
  readonly retry?: RetryPolicy;
  /** Time limit of one attempt, milliseconds. Default: none. */
  readonly timeoutMs?: number;
}

/** What a step's function is given. */
export interface StepContext {
  /** `<workflowId>/<run>/<step>#<occurrence>`: the same for every attempt. Give it to the provider. */
  readonly idempotencyKey: string;
  readonly attempt: number;
  /** Aborted on the attempt's time limit, cancel, terminate, and drain past its deadline. */
  readonly signal: AbortSignal;
}

/** What workflow code is given: all that it may do that is not plain computation. */
export interface WorkflowContext {
  readonly workflowId: string;
  readonly type: string;
  readonly version: string;
  /** Aborted when a cancel was requested. */
  readonly signal: AbortSignal;
  /** Runs `fn` at least once, records its outcome exactly once. */
  step<T>(name: string, fn: (step: StepContext) => T | Promise<T>, options?: StepOptions): Promise<T>;
  /** Overrides `currentStep`, `totalSteps` and `message` of the run's progress. */
  progress(progress: { readonly current?: number; readonly total?: number; readonly message?: string }): void;
  /** Milliseconds since 1970; recorded, so a replay gets the same. */
  now(): number;
  /** In [0, 1); derived from the run, so a replay gets the same. */
  random(): number;
  /** A version 4 UUID; derived from the run, so a replay gets the same. */
  uuid(): string;
}
