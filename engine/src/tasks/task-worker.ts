/**
 * Takes tasks from queues and runs their functions.
 *
 * Owns: the tasks under way in this process. Does not own: what a queue gives (`TaskQueues`), what stands in the log
 * (`task-commands.ts`).
 *
 * W1 At most `concurrency` tasks of one queue run here; no task is taken that could not run at once.
 * W2 A task under way is extended, and asked for whether it is wanted, three times within its lease.
 * W3 An outcome is kept until the log has it or refuses it, also while the broker is away.
 * W4 `drain` takes nothing new, lets running tasks end, then gives the others back.
 */
import type { TakenTask } from "@millrace/event-log";
import { assertQueueName, isMillraceError, MillraceError } from "@millrace/schemas";
import { retryDelayMs } from "../core/attempt.ts";
import { wakeDelayMaxMs } from "../due-timers.ts";
import { assertOpenedPayload } from "../payloads/payloads.ts";
import { TaskExecution, type TaskExecutionDeps, type TaskOutcome } from "./task-execution.ts";
import type { TaskFunction } from "./task-function.ts";
import type { TaskCommands } from "./task-commands.ts";

export interface TaskWorkerOptions {
  readonly tasks: Readonly<Record<string, TaskFunction>>;
  readonly queues: readonly string[];
  /** Tasks of one queue that run here at the same time. */
  readonly concurrency: number;
  /** How the worker calls itself in the history. */
  readonly name: string;
}

export interface TaskWorkerDeps extends TaskExecutionDeps {
  readonly commands: TaskCommands;
  readonly random: () => number;
}

/** While the broker is away, between tries. */
const retryPolicy = { initialDelayMs: 100, maxDelayMs: 5_000 };
/** A task that this worker has no function or no key for goes back, for another worker of the queue. */
const notHostedPolicy = { initialDelayMs: 100, maxDelayMs: 30_000 };
/** One request for tasks; it ends early when there are some. */
const takeWaitMs = 300_000;
const extensionsPerLease = 3;

export class TaskWorker {
  readonly #deps: TaskWorkerDeps;
  readonly #options: TaskWorkerOptions;
  /** By the token of the queue's message. */
  readonly #running = new Map<string, Running>();
  readonly #perQueue = new Map<string, number>();
  readonly #stop = new AbortController();
  readonly #loops: Promise<void>[] = [];
  #wakers = new Set<() => void>();
  #cancelExtending: () => void = () => undefined;
  #draining: Promise<void> | null = null;

  /** Throws `invalid_request` for tasks without queues or the other way round, `invalid_id` for a queue's name. */
  constructor(deps: TaskWorkerDeps, options: TaskWorkerOptions) {
    const { tasks, queues, concurrency } = options;
    for (const queue of queues) assertQueueName(queue);
    if (queues.length === 0 || Object.keys(tasks).length === 0) {
      throw new MillraceError(
        "invalid_request",
        "A worker of tasks needs both: the functions and the queues to take from. Pass { tasks: { name: fn }, queues: [queue] }.",
      );
    }
    if (!Number.isInteger(concurrency) || concurrency < 1) {
      throw new MillraceError(
        "invalid_request",
        `taskConcurrency ${concurrency} refused: expected a whole number from 1 on.`,
      );
    }
    this.#deps = deps;
    this.#options = options;
  }

  get running(): number {
    return this.#running.size;
  }

  start(): void {
    for (const queue of new Set(this.#options.queues)) this.#loops.push(this.#serve(queue));
    this.#keepExtending();
  }

  drain(deadlineMs: number): Promise<void> {
    this.#draining ??= this.#drain(deadlineMs);
    return this.#draining;
  }

  async #drain(deadlineMs: number): Promise<void> {
    this.#stop.abort();
    const ended = async (): Promise<void> => {
      while (this.#running.size > 0) await new Promise<void>((resolve) => this.#wakers.add(resolve));
    };
    await this.#within(deadlineMs, Promise.all([...this.#loops, ended()]));
    this.#cancelExtending();
    const reason = new MillraceError(
      "draining",
      "The worker is being drained; the task goes to another one.",
    );
    for (const { taken, execution } of this.#running.values()) {
      execution?.abort(reason);
      this.#deps.log.tasks.release(taken.handle);
    }
    this.#running.clear();
    this.#wake();
  }

  async #within(limitMs: number, work: Promise<unknown>): Promise<void> {
    let cancel = (): void => undefined;
    const limit = new Promise<void>((resolve) => {
      cancel = this.#deps.clock.wake(Math.min(limitMs, wakeDelayMaxMs), resolve);
    });
    await Promise.race([work, limit]);
    cancel();
  }

  async #serve(queue: string): Promise<void> {
    const { signal } = this.#stop;
    const { concurrency } = this.#options;
    for (let failures = 0; !signal.aborted;) {
      const free = concurrency - (this.#perQueue.get(queue) ?? 0);
      if (free <= 0) {
        await new Promise<void>((resolve) => this.#wakers.add(resolve));
        continue;
      }
      try {
        const taken = await this.#deps.log.tasks.take(queue, { max: free, waitMs: takeWaitMs, signal });
        failures = 0;
        for (const each of taken) this.#begin(queue, each);
      } catch (error) {
        failures++;
        this.#deps.logger.warn({ queue, failures }, `Queue ${queue} gives no tasks: ${messageOf(error)}`);
        await this.#backOff(failures);
      }
    }
  }

  #begin(queue: string, taken: TakenTask): void {
    const { token } = taken.task;
    const known = this.#running.get(token);
    if (known !== undefined) {
      // Its lease passed while the broker was away, and nobody else has it: it goes on under the new one.
      known.taken = taken;
      return;
    }
    const running: Running = { taken, execution: null };
    this.#running.set(token, running);
    this.#perQueue.set(queue, (this.#perQueue.get(queue) ?? 0) + 1);
    const ended = (): void => {
      if (this.#running.get(token) === running) this.#running.delete(token);
      this.#perQueue.set(queue, (this.#perQueue.get(queue) ?? 1) - 1);
      this.#wake();
    };
    this.#run(running).then(ended, (error: unknown) => {
      const { workflowId, name } = taken.task;
      this.#deps.logger.error(
        { workflowId, step: name, queue },
        `Task ${name} went wrong: ${messageOf(error)}`,
      );
      // What the log does not know of is tried again by whoever takes it next.
      this.#deps.log.tasks.release(running.taken.handle, retryPolicy.maxDelayMs);
      ended();
    });
  }

  async #run(running: Running): Promise<void> {
    const { commands, log, logger } = this.#deps;
    const { task, delivery } = running.taken;
    const { workflowId, name, queue } = task;
    const fn = Object.hasOwn(this.#options.tasks, name) ? this.#options.tasks[name] : undefined;
    const unfit = fn === undefined ? `there is no function for it here` : unreadable(task.input);
    if (fn === undefined || unfit !== null) {
      const delayMs = retryDelayMs(notHostedPolicy, delivery, 0.5 + this.#deps.random() / 2);
      logger.warn({ workflowId, step: name, queue }, `Task ${name} from queue ${queue} goes back: ${unfit}.`);
      log.tasks.release(running.taken.handle, delayMs);
      return;
    }
    let tries = 0;
    const ref = await this.#persist(() => commands.start(running.taken, this.#options.name, tries++ > 0));
    if (ref === null) return;
    const execution = new TaskExecution(this.#deps, running.taken, ref);
    running.execution = execution;
    const outcome = await execution.run(fn);
    // Drained meanwhile: somebody else has the message.
    if (this.#running.get(task.token) !== running) return;
    // The message may have come again under another lease.
    const current = { ...ref, handle: running.taken.handle };
    try {
      await this.#persist(() => this.#record(current, outcome));
    } catch (error) {
      if (!isMillraceError(error) || !isLate(error)) throw error;
      logger.info(
        { workflowId, step: name, code: error.code },
        `Outcome of task ${name} came late: ${error.message}`,
      );
      commands.release(current, false);
    }
  }

  async #record(ref: TaskExecution["ref"], outcome: TaskOutcome): Promise<void> {
    const { commands } = this.#deps;
    if (outcome.kind === "failed") {
      await commands.fail(ref, outcome);
      return;
    }
    try {
      await commands.complete(ref, outcome.output);
    } catch (error) {
      if (!isMillraceError(error, "payload_too_large")) throw error;
      // The function did its work: running it again would do it twice and could not be stored either.
      const { message, code, name } = error;
      await commands.fail(ref, {
        error: { message, code, name, retryable: false },
        retryAfterMs: null,
        timedOut: false,
      });
    }
  }

  /** W2 */
  #keepExtending(): void {
    const intervalMs = this.#deps.log.tasks.leaseMs / extensionsPerLease;
    const extend = (): void => {
      for (const { taken, execution } of this.#running.values()) {
        this.#deps.log.tasks.extend(taken.handle);
        execution?.check().catch((error: unknown) => {
          this.#deps.logger.warn({}, `A task could not be checked: ${messageOf(error)}`);
        });
      }
      this.#keepExtending();
    };
    this.#cancelExtending = this.#deps.timers.add(this.#deps.clock.now() + intervalMs, extend);
  }

  /** W3 */
  async #persist<T>(act: () => Promise<T>): Promise<T> {
    for (let attempt = 1; ; attempt++) {
      try {
        return await act();
      } catch (error) {
        if (!isMillraceError(error) || !error.retryable || error.code === "cancelled") throw error;
        this.#deps.logger.warn({ code: error.code, attempt }, `A task waits: ${error.message}`);
        await this.#backOff(attempt);
      }
    }
  }

  async #backOff(attempt: number): Promise<void> {
    const delayMs = retryDelayMs(retryPolicy, attempt, this.#deps.random());
    await new Promise<void>((resolve) => {
      this.#deps.timers.add(this.#deps.clock.now() + delayMs, resolve);
    });
  }

  #wake(): void {
    const wakers = this.#wakers;
    this.#wakers = new Set();
    for (const wake of wakers) wake();
  }
}

interface Running {
  taken: TakenTask;
  execution: TaskExecution | null;
}

/** The run has gone on without this attempt. */
function isLate(error: MillraceError): boolean {
  return (
    error.code === "attempt_superseded" || error.code === "workflow_closed" || error.code === "step_not_begun"
  );
}

/** Why the input may not reach code; null when it may. */
function unreadable(input: unknown): string | null {
  try {
    assertOpenedPayload(input);
    return null;
  } catch (error) {
    return messageOf(error);
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
