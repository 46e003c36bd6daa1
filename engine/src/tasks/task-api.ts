/**
 * Task queues for those who are no worker of ours: polls over HTTP, operators. Any process of the namespace answers any
 * call: what a task is known by is in its token.
 */
import type { QueueInfo, QueueLimits, StoredDeadLetter, TakenTask } from "@millrace/event-log";
import { isMillraceError, limits, stepKey, type ErrorInfo, type TaskRow } from "@millrace/schemas";
import { asStored } from "../as-stored.ts";
import type { Logger } from "../logger.ts";
import type { OperatorReason } from "../millrace.ts";
import type { SealedLog } from "../payloads/sealed-log.ts";
import type { TaskCommands } from "./task-commands.ts";
import { decodeTaskToken, encodeTaskToken } from "./task-token.ts";

export interface PollOptions {
  /** Tasks wanted. Default 1. */
  readonly max?: number;
  /** How long to wait for the first one, milliseconds. Default 30,000. */
  readonly waitMs?: number;
  /** How the worker calls itself in the history. Default: none. */
  readonly worker?: string;
  /** Ends the wait; the answer is then empty. */
  readonly signal?: AbortSignal;
}

/** As over HTTP. */
export type PolledTask = TaskRow;

export interface RedriveOptions extends OperatorReason {
  /** Only these dead letters, by the token of their task. Default: the oldest `limit`. */
  readonly tokens?: readonly string[];
  /** Default 100, at most 1,000. */
  readonly limit?: number;
  /** Removes the letters instead. Default false. */
  readonly discard?: boolean;
}

export interface RedriveResult {
  /** Runs that go on from their failed step, or with `discard` those whose letters were removed. */
  readonly redriven: readonly { readonly token: string; readonly workflowId: string }[];
  /** Letters that stay, and why. */
  readonly skipped: readonly {
    readonly token: string;
    readonly workflowId: string;
    readonly reason: string;
  }[];
}

export interface Tasks {
  /**
   * Takes tasks and begins their attempts; pushed, not polled. Empty after `waitMs`. Rejects with `unavailable` while the
   * broker is away.
   */
  poll(queue: string, options?: PollOptions): Promise<readonly PolledTask[]>;
  /** Idempotent. `attempt_superseded`, `workflow_closed`: drop the task. `payload_too_large`. */
  complete(token: string, output?: unknown): Promise<{ readonly sequence: number }>;
  /** Idempotent. `final`: there is no further attempt, the task is a dead letter. Rejects as `complete`. */
  fail(
    token: string,
    error: ErrorInfo,
    options?: { readonly retryAfterMs?: number },
  ): Promise<{ readonly sequence: number; readonly final: boolean; readonly nextAttemptAt: number | null }>;
  /** A sign of life. `cancelRequested`: stop, clean up, then complete or fail it. `attempt_superseded`: drop the task. */
  heartbeat(token: string, details?: unknown): Promise<{ readonly cancelRequested: boolean }>;

  queues(): Promise<readonly QueueInfo[]>;
  limits(queue: string): Promise<QueueLimits>;
  /** Holds for all workers from now on. `invalid_request` for limits out of range. */
  setLimits(queue: string, limits: QueueLimits): Promise<void>;
  /** Oldest first. */
  deadLetters(
    queue: string,
    page?: { readonly after?: number; readonly limit?: number },
  ): Promise<readonly StoredDeadLetter[]>;
  /**
   * Lets runs that failed with their task go on from it. A run that dealt with the failure and went on is left alone: what
   * was recorded stands.
   */
  redrive(queue: string, options?: RedriveOptions): Promise<RedriveResult>;
}

export interface TaskApiDeps {
  readonly log: SealedLog;
  readonly commands: TaskCommands;
  readonly logger: Logger;
  /** Lets a failed run go on from the first of its failed tasks. Rejects with `workflow_not_failed` for any other. */
  readonly retryRun: (workflowId: string, steps: readonly string[], reason: OperatorReason) => Promise<void>;
}

const redriveMax = 1_000;
const pageDefault = 100;

export function createTasks({ log, commands, logger, retryRun }: TaskApiDeps): Tasks {
  const queues = log.tasks;

  async function begin(taken: TakenTask, worker: string, signal?: AbortSignal): Promise<PolledTask | null> {
    const { task, handle } = taken;
    try {
      const ref = await commands.start(taken, worker);
      if (ref === null) return null;
      if (signal?.aborted === true) {
        // Whoever asked is gone: the next one need not wait for the lease.
        commands.release(ref, true);
        return null;
      }
      const { workflowId, name, occurrence, queue, run, attempt } = ref;
      const last = attempt === 1 && taken.delivery === 1 ? null : await queues.lastBeat(ref);
      return {
        ...{ token: encodeTaskToken(ref), name, workflowId, queue, input: task.input, attempt },
        idempotencyKey: `${workflowId}/${run}/${name}#${occurrence}`,
        leaseMs: queues.leaseMs,
        ...{ startToCloseMs: task.startToCloseMs, heartbeatMs: task.heartbeatMs },
        lastDetails: last?.details ?? null,
      };
    } catch (error) {
      // The others of this poll are begun: they must reach their worker.
      const { workflowId, name, queue } = task;
      const reason = error instanceof Error ? error.message : String(error);
      logger.warn({ workflowId, step: name, queue }, `Task ${name} was not begun, it goes back: ${reason}`);
      queues.release(handle, 1_000);
      return null;
    }
  }

  return {
    async poll(queue, { max = 1, waitMs = 30_000, worker = "", signal } = {}) {
      const until = performance.now() + waitMs;
      for (;;) {
        const leftMs = Math.max(0, until - performance.now());
        const taken = await queues.take(queue, {
          max,
          waitMs: leftMs,
          ...(signal === undefined ? {} : { signal }),
        });
        const begun = await Promise.all(taken.map((each) => begin(each, worker, signal)));
        const tasks = begun.filter((each) => each !== null);
        // What was taken may all have been over: the wait goes on.
        if (tasks.length > 0 || taken.length === 0) return tasks;
      }
    },
    complete: (token, output) =>
      commands.complete(decodeTaskToken(token), asStored(output, "output of a task", log.payloads.bytesMax)),
    fail: (token, error, { retryAfterMs } = {}) =>
      commands.fail(decodeTaskToken(token), { error, retryAfterMs: retryAfterMs ?? null, timedOut: false }),
    async heartbeat(token, details) {
      const ref = decodeTaskToken(token);
      const cancelRequested = await commands.isUnwanted(ref);
      await commands.beat(ref, asStored(details, "details of a heartbeat", limits.heartbeatBytes));
      queues.extend(ref.handle);
      return { cancelRequested };
    },
    queues: () => queues.queues(),
    limits: (queue) => queues.limits(queue),
    setLimits: (queue, wanted) => queues.setLimits(queue, wanted),
    deadLetters: (queue, { after, limit = pageDefault } = {}) =>
      queues.deadLetters(queue, { limit, ...(after === undefined ? {} : { after }) }),
    async redrive(queue, { tokens, limit = pageDefault, discard = false, ...reason } = {}) {
      const letters =
        tokens === undefined
          ? await queues.deadLetters(queue, { limit: Math.min(limit, redriveMax) })
          : await Promise.all(tokens.slice(0, redriveMax).map((token) => queues.deadLetter(queue, token)));
      const redriven: { token: string; workflowId: string }[] = [];
      const skipped: { token: string; workflowId: string; reason: string }[] = [];
      /** Runs that go on by now: what else of them failed is done anew with it. */
      const retried = new Set<string>();
      const present = letters.filter((letter) => letter !== null);
      for (const { task } of present) {
        const { token, workflowId, run } = task;
        try {
          if (!discard && !retried.has(`${workflowId} ${run}`)) {
            const ofRun = present.filter(
              (each) => each.task.workflowId === workflowId && each.task.run === run,
            );
            const steps = ofRun.map((each) => stepKey(each.task.name, each.task.occurrence));
            await retryRun(workflowId, steps, reason);
          }
        } catch (error) {
          if (!isMillraceError(error) || error.retryable) throw error;
          skipped.push({ token, workflowId, reason: error.message });
          continue;
        }
        retried.add(`${workflowId} ${run}`);
        await queues.removeDeadLetter(queue, token);
        redriven.push({ token, workflowId });
      }
      return { redriven, skipped };
    },
  };
}
