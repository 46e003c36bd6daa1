import type { AttributeValue } from "@millrace/schemas";
import type { AnyWorkflowDefinition, WorkflowDefinition } from "./definition.ts";
import type { ChildOptions } from "./requests.ts";
import type { RetryPolicy } from "./retry.ts";
import type { RunLogger } from "./run-logger.ts";

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
  /** Writes at once, with `workflowId`, `type`, `run`, `step`, `occurrence` and `attempt`. */
  readonly log: RunLogger;
}

export interface TaskOptions {
  /** Subject token: `[A-Za-z0-9_-]{1,64}`. */
  readonly queue: string;
  /** Applied by whoever ends an attempt, so it is data: `nonRetryable` of a step's policy is not for tasks. */
  readonly retry?: Omit<RetryPolicy, "nonRetryable">;
  /** 0 to 2, highest first. Default 1. */
  readonly priority?: 0 | 1 | 2;
  /** Longest time in the queue, milliseconds. Default: none. */
  readonly scheduleToStartMs?: number;
  /** Time limit of one attempt, milliseconds. Default: none. */
  readonly startToCloseMs?: number;
  /** Longest time between two heartbeats of an attempt, milliseconds. Default: none are expected. */
  readonly heartbeatMs?: number;
}

export interface WaitOptions {
  /** Milliseconds; `undefined` is what the wait gives then. Default: none. */
  readonly timeoutMs?: number;
}

export interface SleepOptions {
  /** How the timer is called in the history. Default "sleep". */
  readonly name?: string;
}

export interface UpdateOptions<Input> {
  /** Throws to refuse; nothing is recorded then. Reads only: it must not call `ctx`. */
  readonly validate?: (input: Input) => void;
}

/** A part of the run that can be cancelled by itself. */
export interface ScopeContext extends WorkflowContext {
  /** Rejects what this scope waits for with a `CancelledError`. Idempotent. */
  cancel(reason?: string): void;
}

/** What workflow code is given: all that it may do that is not plain computation. */
export interface WorkflowContext {
  readonly workflowId: string;
  readonly type: string;
  readonly version: string;
  /** Counts how often the run was continued as new or reset, from 1. */
  readonly run: number;
  /** Aborted when a cancel was requested, or this scope is cancelled. */
  readonly signal: AbortSignal;
  /**
   * Lines with `workflowId`, `type`, `version` and `run`, silent in a replay. A line is written once what the code did in
   * the same turn is in the log, so a turn that is decided again writes it once; a process that dies in the instant
   * between does not write it.
   */
  readonly log: RunLogger;
  /** Events of this run number so far. */
  readonly historyLength: number;
  /** True once the history is long: a good moment for `continueAsNew`. */
  readonly continueAsNewSuggested: boolean;

  /** Runs `fn` at least once, records its outcome exactly once. Rejects with `StepFailedError` or `CancelledError`. */
  step<T>(name: string, fn: (step: StepContext) => T | Promise<T>, options?: StepOptions): Promise<T>;
  /** A step that is done by a worker of a queue, in any language. Its key is shared with steps: name and occurrence. */
  task<T = unknown>(name: string, input: unknown, options: TaskOptions): Promise<T>;
  /** A durable timer: milliseconds from now, or until a moment. It holds no worker and survives any crash. */
  sleep(until: number | Date, options?: SleepOptions): Promise<void>;
  /**
   * The oldest signal of this name that no wait has taken; signals that came early are kept. `undefined` after the
   * time-out. A signal that races the time-out is decided once, by the log.
   */
  waitForSignal<T = unknown>(name: string, options?: WaitOptions): Promise<T | undefined>;
  /** Waits until the predicate holds; it is asked after each event. False after the time-out. It only reads. */
  waitUntil(predicate: () => boolean, options?: WaitOptions): Promise<boolean>;
  /** Starts another workflow as a child and awaits its output. Rejects with `ChildFailedError` or `CancelledError`. */
  child<Input, Output>(
    definition: WorkflowDefinition<Input, Output>,
    input: Input,
    options?: ChildOptions,
  ): Promise<Output>;
  child<Output = unknown>(type: string, input: unknown, options?: ChildOptions): Promise<Output>;
  /**
   * As `Promise.race`, and what lost is cancelled: timers and waits of the others end, their tasks and steps too.
   * Only promises that `ctx` gave are cancelled.
   */
  race<Contestants extends readonly unknown[] | []>(
    contestants: Contestants,
  ): Promise<Awaited<Contestants[number]>>;

  /**
   * Registers what undoes the work so far. When the run fails or is cancelled, the compensations run one after the
   * other, last registered first, each recorded and retried (10 attempts by default); a cancel does not reach them.
   */
  compensate(name: string, fn: (step: StepContext) => unknown, options?: StepOptions): void;
  /** Runs `fn` with a context that a cancel does not reach: for clean-up. */
  shield<T>(fn: (ctx: WorkflowContext) => Promise<T>): Promise<T>;
  /** Runs `fn` with a context of its own that can be cancelled, by itself or after a time. */
  scope<T>(fn: (ctx: ScopeContext) => Promise<T>, options?: { readonly timeoutMs?: number }): Promise<T>;

  /** Answers `handle.query(name)` from the code's variables. Reads only; may be set anew at any time. */
  onQuery<Input = unknown>(name: string, handler: (input: Input) => unknown): void;
  /** Takes in `handle.update(name)`: validated, recorded, answered with what the handler returns. */
  onUpdate<Input = unknown>(
    name: string,
    handler: (input: Input) => unknown,
    options?: UpdateOptions<Input>,
  ): void;

  /**
   * Ends this run number and begins the next one under the same id with a short history. Signals that no wait has
   * taken, attributes and children go along. Throw away nothing: `return ctx.continueAsNew(input)`.
   */
  continueAsNew(input: unknown, options?: { readonly version?: string }): never;
  /**
   * True when the run may take the new way: it has not passed this point with the code of before. The answer is
   * recorded, so that a replay gets the same.
   */
  patched(id: string): boolean;
  /** Sets search attributes; null removes one. */
  setAttributes(attributes: Readonly<Record<string, AttributeValue | null>>): void;
  /** Overrides `currentStep`, `totalSteps` and `message` of the run's progress. */
  progress(progress: { readonly current?: number; readonly total?: number; readonly message?: string }): void;
  /** Milliseconds since 1970; recorded, so a replay gets the same. */
  now(): number;
  /** In [0, 1); derived from the run, so a replay gets the same. */
  random(): number;
  /** A version 4 UUID; derived from the run, so a replay gets the same. */
  uuid(): string;
}

/** How a child is named: its definition, or its type alone. */
export type ChildTarget = AnyWorkflowDefinition | string;
