/**
 * One attempt of a task's function in this process, from its begin to its outcome.
 *
 * Owns: the attempt's abort signal and heartbeats. Does not own: recording the outcome (`task-worker.ts`).
 */
import type { TakenTask } from "@millrace/event-log";
import { isMillraceError, limits, MillraceError } from "@millrace/schemas";
import { asStored } from "../as-stored.ts";
import type { Clock, DueTimers } from "../due-timers.ts";
import { NonRetryableError, RetryAfterError, toErrorInfo } from "../failures.ts";
import type { Interceptors } from "../interceptors.ts";
import type { Logger } from "../logger.ts";
import type { SealedLog } from "../payloads/sealed-log.ts";
import { createRunLogger } from "../run-logger.ts";
import type { TaskFunction } from "./task-function.ts";
import type { TaskCommands, TaskFailure } from "./task-commands.ts";
import type { TaskRef } from "./task-token.ts";

export interface TaskExecutionDeps {
  readonly log: SealedLog;
  readonly commands: TaskCommands;
  readonly clock: Clock;
  readonly timers: DueTimers;
  readonly logger: Logger;
  readonly interceptors: Interceptors;
}

export type TaskOutcome =
  { readonly kind: "completed"; readonly output: unknown } | ({ readonly kind: "failed" } & TaskFailure);

const heartbeatsPerLimit = 4;
const heartbeatIntervalMs = 1_000;

export class TaskExecution {
  readonly ref: TaskRef;
  readonly #deps: TaskExecutionDeps;
  readonly #taken: TakenTask;
  readonly #controller = new AbortController();
  readonly #beatMs: number;
  #details: { readonly value: unknown } | null = null;
  #beatTimer: (() => void) | null = null;
  #lastBeatAt = 0;
  #ended = false;

  constructor(deps: TaskExecutionDeps, taken: TakenTask, ref: TaskRef) {
    this.#deps = deps;
    this.#taken = taken;
    this.ref = ref;
    const { heartbeatMs } = taken.task;
    this.#beatMs = heartbeatMs === null ? heartbeatIntervalMs : heartbeatMs / heartbeatsPerLimit;
  }

  /** Resolves with the attempt's outcome; never rejects. What the function does after its time limit is ignored. */
  async run(fn: TaskFunction): Promise<TaskOutcome> {
    const { startToCloseMs } = this.#taken.task;
    const { clock, timers } = this.#deps;
    let cancelTimer = (): void => undefined;
    try {
      const called = this.#call(fn);
      if (startToCloseMs === null) return this.#completed(await called);
      const late = new Promise<never>((_resolve, reject) => {
        cancelTimer = timers.add(clock.now() + startToCloseMs, () =>
          reject(new MillraceError("step_timeout", this.#lateMessage(startToCloseMs))),
        );
      });
      return this.#completed(await Promise.race([called, late]));
    } catch (error) {
      const timedOut = isMillraceError(error, "step_timeout");
      if (timedOut) this.abort(error);
      return {
        kind: "failed",
        error: { ...toErrorInfo(error), ...(error instanceof NonRetryableError ? { retryable: false } : {}) },
        retryAfterMs: error instanceof RetryAfterError ? error.afterMs : null,
        timedOut,
      };
    } finally {
      cancelTimer();
      this.#ended = true;
      this.#beatTimer?.();
    }
  }

  #completed(output: unknown): TaskOutcome {
    try {
      return {
        kind: "completed",
        output: asStored(output, `output of task ${this.ref.name}`, this.#deps.log.payloads.bytesMax),
      };
    } catch (error) {
      // The function did its work: running it again would do it twice and could not be stored either.
      const info = { ...toErrorInfo(error), retryable: false };
      return { kind: "failed", error: info, retryAfterMs: null, timedOut: false };
    }
  }

  #lateMessage(limitMs: number): string {
    const { attempt, name, workflowId } = this.ref;
    return `Attempt ${attempt} of task ${name} of ${workflowId} ran into its start-to-close limit of ${limitMs} ms.`;
  }

  abort(reason: Error): void {
    this.#controller.abort(reason);
  }

  async #call(fn: TaskFunction): Promise<unknown> {
    const { workflowId, type, run, name, occurrence, queue, attempt } = this.ref;
    const idempotencyKey = `${workflowId}/${run}/${name}#${occurrence}`;
    const { signal } = this.#controller;
    const call = {
      ...{ workflowId, type, run, step: name, occurrence, attempt, queue, idempotencyKey, signal },
      input: this.#taken.task.input,
      traceparent: this.#taken.task.traceparent,
    };
    const fields = { workflowId, type, run, step: name, occurrence, attempt, queue };
    const log = createRunLogger((level, own, message) =>
      this.#deps.logger[level]({ ...own, ...fields }, message),
    );
    return await this.#deps.interceptors.task(call, async ({ input }) =>
      fn({
        ...{ input, name, workflowId, queue, attempt, idempotencyKey, signal, log },
        heartbeat: (details = null) => this.#heartbeat(details),
        lastDetails: async () => (await this.#deps.log.tasks.lastBeat(this.ref))?.details ?? null,
      }),
    );
  }

  #heartbeat(details: unknown): void {
    if (this.#ended) return;
    const stored = asStored(details, `heartbeat of task ${this.ref.name}`, limits.heartbeatBytes);
    this.#details = { value: stored };
    if (this.#beatTimer !== null) return;
    this.#beatTimer = this.#deps.timers.add(this.#lastBeatAt + this.#beatMs, () => {
      this.#beatTimer = null;
      this.#lastBeatAt = this.#deps.clock.now();
      void this.#send().catch((error: unknown) => {
        this.#deps.logger.warn(
          { workflowId: this.ref.workflowId, step: this.ref.name },
          `A heartbeat was not sent: ${error instanceof Error ? error.message : String(error)}`,
        );
      });
    });
  }

  async #send(): Promise<void> {
    const details = this.#details;
    this.#details = null;
    if (details === null) return;
    await this.#deps.commands.beat(this.ref, details.value);
    await this.check();
  }

  /** Asks the log whether the task is still wanted, and tells the function when it is not. */
  async check(): Promise<void> {
    if (this.#ended) return;
    try {
      if (await this.#deps.commands.isUnwanted(this.ref))
        this.abort(
          new MillraceError("cancelled", `Run ${this.ref.workflowId} does not want its task any more.`),
        );
    } catch (error) {
      if (!isMillraceError(error, "attempt_superseded") && !isMillraceError(error, "step_not_begun"))
        throw error;
      this.abort(error);
    }
  }
}
