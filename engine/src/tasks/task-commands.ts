/**
 * What becomes of a taken task: begun, ended, alive. In the log first, then in the queue.
 *
 * C1 The queue's message is finished only after the log has the outcome (and the dead letter is kept): whoever dies in
 *    between leaves a message that tells the next one.
 * C2 A task whose run stands where its message says is begun, and completed by who began it here, without reading the
 *    history.
 */
import type { TakenTask, TaskMessage } from "@millrace/event-log";
import { isMillraceError, limits, type ErrorInfo, type WorkflowEvent } from "@millrace/schemas";
import type { Commands, Guess } from "../commands.ts";
import {
  completeTask,
  failTask,
  isTaskUnwanted,
  startedEvent,
  startTask,
  type StartDecision,
  type TaskDecision,
} from "../core/decide-task.ts";
import type { SealedLog } from "../payloads/sealed-log.ts";
import type { TaskRef } from "./task-token.ts";

export interface TaskCommandsDeps {
  readonly log: SealedLog;
  readonly commands: Commands;
  /** In [0, 1): jitter. */
  readonly random: () => number;
  /** Whether this process runs what it takes: only then more commands on the same run will follow here. */
  readonly keep: boolean;
}

/** After this a task of a paused run is offered again: how late it may begin after the run was resumed. */
const heldMs = 2_000;

export interface TaskFailure {
  readonly error: ErrorInfo;
  readonly retryAfterMs: number | null;
  /** It ran into its own time limit. */
  readonly timedOut: boolean;
}

export class TaskCommands {
  readonly #deps: TaskCommandsDeps;
  /** Tasks under way here by run: as long as there are any, the run's state is worth keeping. */
  readonly #underWay = new Map<string, number>();

  constructor(deps: TaskCommandsDeps) {
    this.#deps = deps;
  }

  /**
   * Begins the attempt; null when it is not to be done, or not now: its message is settled then. `isInDoubt`: an earlier call
   * failed and may have been recorded.
   */
  async start(
    { task, handle, delivery }: TakenTask,
    worker: string,
    isInDoubt = false,
  ): Promise<TaskRef | null> {
    const { commands, log } = this.#deps;
    const { workflowId, name, occurrence, type, run, queue } = task;
    const command = {
      step: { name, occurrence },
      token: task.token,
      worker: worker.slice(0, limits.workerNameChars),
      delivery,
      isInDoubt,
    };
    const begun: Guess<StartDecision> = {
      type,
      sequence: task.sequence,
      decision: {
        outcome: "run",
        attempt: task.attempt,
        token: task.token,
        events: [startedEvent(command.step, task.attempt, task.token, command.worker)],
      },
    };
    let started;
    try {
      started = await commands.carryOut<StartDecision>(workflowId, (state) => startTask(state, command), {
        keep: this.#deps.keep,
        // A message that was taken before may have been begun before.
        ...(delivery === 1 && !isInDoubt ? { guess: begun } : {}),
      });
    } catch (error) {
      if (!isMillraceError(error, "workflow_not_found")) throw error;
      // The log was made anew, or the message is a forgery: nobody waits for it.
      log.tasks.finish(handle);
      return null;
    }
    const { decision, sequence } = started;
    if (decision.outcome === "dead")
      await log.tasks.bury(letterOf(task, decision.reason, decision.step.attempt));
    if (decision.outcome !== "run") {
      if (decision.outcome === "hold") log.tasks.release(handle, heldMs);
      else log.tasks.finish(handle);
      if (!this.#underWay.has(workflowId)) commands.forget(workflowId);
      return null;
    }
    if (this.#deps.keep) this.#underWay.set(workflowId, (this.#underWay.get(workflowId) ?? 0) + 1);
    const { attempt, token } = decision;
    return { workflowId, type, run, name, occurrence, queue, attempt, token, sequence, handle };
  }

  /** Rejects with `attempt_superseded`, `workflow_closed`, `payload_too_large`, or the log's errors. */
  async complete(ref: TaskRef, output: unknown): Promise<{ readonly sequence: number }> {
    const { name, occurrence, attempt, token } = ref;
    const command = { step: { name, occurrence }, token, output };
    const completed: WorkflowEvent = { type: "StepCompleted", data: { name, occurrence, attempt, output } };
    const { sequence } = await this.#deps.commands.carryOut<TaskDecision>(
      ref.workflowId,
      (state) => completeTask(state, command),
      {
        keep: this.#deps.keep,
        // A token from outside may be anything: only the state says whether it is that of the attempt.
        ...(this.#deps.keep
          ? { guess: { type: ref.type, sequence: ref.sequence, decision: { events: [completed] } } }
          : {}),
      },
    );
    this.#end(ref);
    return { sequence };
  }

  /** Rejects as `complete`. After the last attempt the task is a dead letter. */
  async fail(
    ref: TaskRef,
    { error, retryAfterMs, timedOut }: TaskFailure,
  ): Promise<{ readonly sequence: number; readonly final: boolean; readonly nextAttemptAt: number | null }> {
    const { name, occurrence, token } = ref;
    const { decision, sequence } = await this.#deps.commands.carryOut(
      ref.workflowId,
      (known, now) =>
        failTask(known, {
          step: { name, occurrence },
          token,
          error: { ...error, message: error.message.slice(0, limits.messageChars) },
          retryAfterMs,
          timedOut,
          now,
          random: this.#deps.random(),
        }),
      { keep: this.#deps.keep },
    );
    const { final, nextAttemptAt, step } = decision;
    // Not one that was cancelled meanwhile.
    if (step.status === "failed" || step.status === "timed_out") {
      const { payloads } = this.#deps.log;
      // Commands decide on the state as it is stored.
      const input = await payloads.openPayload(ref.workflowId, step.task?.input, `input of task ${ref.name}`);
      const message = messageOf(ref, input ?? null, step.task?.priority ?? 1);
      await this.#deps.log.tasks.bury(letterOf(message, error.message, step.attempt));
    }
    this.#end(ref);
    return { sequence, final, nextAttemptAt };
  }

  /** A sign of life: true when the worker should stop. Rejects with `attempt_superseded`. */
  async isUnwanted(ref: TaskRef): Promise<boolean> {
    const { name, occurrence, token } = ref;
    const { decision } = await this.#deps.commands.carryOut(
      ref.workflowId,
      (state) => ({ events: [], unwanted: isTaskUnwanted(state, { step: { name, occurrence }, token }) }),
      { keep: this.#deps.keep },
    );
    return decision.unwanted;
  }

  async beat(ref: TaskRef, details: unknown): Promise<void> {
    await this.#deps.log.tasks.beat(ref, { token: ref.token, details });
  }

  /** Nobody is to do it here any more: its message goes back, or is done with. */
  release(ref: TaskRef, again: boolean): void {
    if (again) this.#deps.log.tasks.release(ref.handle);
    else this.#deps.log.tasks.finish(ref.handle);
    this.#forget(ref);
  }

  #end(ref: TaskRef): void {
    this.#deps.log.tasks.finish(ref.handle);
    this.#forget(ref);
  }

  #forget({ workflowId }: TaskRef): void {
    if (!this.#deps.keep) return;
    const left = (this.#underWay.get(workflowId) ?? 1) - 1;
    if (left > 0) this.#underWay.set(workflowId, left);
    else {
      this.#underWay.delete(workflowId);
      this.#deps.commands.forget(workflowId);
    }
  }
}

function letterOf(task: TaskMessage, reason: string, attempts: number) {
  return { task, reason: reason.slice(0, limits.messageChars), attempts };
}

/** The message of a task as its dead letter shows it. Its token is that of the message, whichever attempt failed. */
function messageOf(ref: TaskRef, input: unknown, priority: number): TaskMessage {
  const { workflowId, type, run, name, occurrence, queue, attempt, sequence } = ref;
  const [token = ref.token] = ref.token.split("~");
  return {
    token,
    workflowId,
    type,
    run,
    name,
    occurrence,
    attempt,
    queue,
    priority: priority >= 2 ? 2 : priority <= 0 ? 0 : 1,
    input,
    sequence,
    startToCloseMs: null,
    heartbeatMs: null,
    traceparent: null,
  };
}
