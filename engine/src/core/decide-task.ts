/**
 * What a task's worker may do to a run, decided from the folded state. Pure: time, tokens and randomness are given.
 *
 * A1 A token begins one attempt, once. A message that comes again while its attempt is under way means that its worker
 *    is lost: that costs an attempt, so that a task which kills its workers ends.
 * A2 Only the token of the attempt under way ends it. What was recorded before gives the same answer and no events.
 * A3 Every event given is acceptable to `evolve` on the same state.
 */
import {
  isClosed,
  isoTime,
  MillraceError,
  stepKey,
  type ErrorInfo,
  type EventData,
  type RunState,
  type StepRef,
  type StepState,
  type WorkflowEvent,
} from "@millrace/schemas";
import type { RetryPolicy } from "../retry.ts";
import { afterFailedAttempt, retryDefaults } from "./attempt.ts";

export interface TaskAttempt {
  readonly step: StepRef;
  /** Of the attempt; for `startTask` that of its message. */
  readonly token: string;
}

export interface StartTask extends TaskAttempt {
  /** Who works on it. */
  readonly worker: string;
  /** How often its message was taken, this time included. */
  readonly delivery: number;
  /** This worker has tried to begin it and does not know whether the log has that. */
  readonly isInDoubt?: boolean;
}

export interface TaskDecision {
  readonly events: readonly WorkflowEvent[];
}

/**
 * `run`: do it. `hold`: not now. `drop`: nobody waits for this message any more. `dead`: the task has failed for good,
 * and this message is the one that has to bring it to the dead letters.
 */
export type StartDecision = TaskDecision &
  (
    | { readonly outcome: "run"; readonly attempt: number; readonly token: string }
    | { readonly outcome: "drop"; readonly reason: string }
    | { readonly outcome: "hold" }
    | { readonly outcome: "dead"; readonly reason: string; readonly step: StepState }
  );

/** Never throws: whoever took a message must do something with it. */
export function startTask(state: RunState, command: StartTask): StartDecision {
  const { step: ref, token, worker, delivery } = command;
  const step = state.steps.get(stepKey(ref.name, ref.occurrence));
  const drop = (reason: string): StartDecision => ({ events: [], outcome: "drop", reason });
  if (step?.task === undefined || step.task === null) return drop("the run has no such task");
  if (!isOfMessage(step.token, token)) return drop(`attempt ${step.attempt} has taken its place`);
  if (step.status === "failed" || step.status === "timed_out")
    return { events: [], outcome: "dead", reason: step.error?.message ?? step.status, step };
  if (isClosed(state.status)) return drop(`the run is ${state.status}`);
  // While an operator holds the run nothing new begins; what is under way goes on.
  const hold: StartDecision = { events: [], outcome: "hold" };
  if (step.status === "scheduled")
    return state.paused === null ? begun(ref, step.attempt, token, worker) : hold;
  if (step.status !== "started") return drop(`it is ${step.status}`);
  if (command.isInDoubt === true && step.task.worker === worker && step.token === token)
    return { events: [], outcome: "run", attempt: step.attempt, token };
  if (delivery === 1) return drop("another worker has begun it");
  if (state.paused !== null) return hold;
  const lost = step.task.worker === null || step.task.worker === "" ? "its worker" : step.task.worker;
  const reason = `Attempt ${step.attempt} was lost: ${lost} gave no sign of life.`;
  if (step.attempt < (step.task.retry?.maxAttempts ?? retryDefaults.maxAttempts))
    return begun(ref, step.attempt + 1, `${token}~${step.attempt + 1}`, worker);
  const error: ErrorInfo = { message: reason, name: "MillraceError", code: "task_lost" };
  return {
    events: [{ type: "StepFailed", data: { ...ref, attempt: step.attempt, error } }],
    outcome: "dead",
    reason,
    step,
  };
}

/** The attempt after a lost one is begun by the same message, under a token that its predecessor does not have. */
function isOfMessage(attemptToken: string | null, messageToken: string): boolean {
  return attemptToken === messageToken || attemptToken?.startsWith(`${messageToken}~`) === true;
}

function begun(ref: StepRef, attempt: number, token: string, worker: string): StartDecision {
  return { events: [startedEvent(ref, attempt, token, worker)], outcome: "run", attempt, token };
}

export function startedEvent(
  { name, occurrence }: StepRef,
  attempt: number,
  token: string,
  worker: string,
): Extract<WorkflowEvent, { type: "StepStarted" }> {
  return { type: "StepStarted", data: { name, occurrence, attempt, token, worker } };
}

/** Throws `step_not_begun`, `attempt_superseded` or `workflow_closed`. */
export function completeTask(
  state: RunState,
  command: TaskAttempt & { readonly output: unknown },
): TaskDecision {
  const step = attemptOf(state, "complete", command, (known) => known.status === "completed");
  if (step === null) return { events: [] };
  const { name, occurrence } = command.step;
  return {
    events: [
      { type: "StepCompleted", data: { name, occurrence, attempt: step.attempt, output: command.output } },
    ],
  };
}

export interface FailTask extends TaskAttempt {
  readonly error: ErrorInfo;
  /** A delay that the worker asked for instead of the policy's; null: none. */
  readonly retryAfterMs: number | null;
  /** It ran into its own time limit. */
  readonly timedOut: boolean;
  readonly now: number;
  readonly random: number;
}

export type FailDecision = TaskDecision & {
  /** The step's state before. */
  readonly step: StepState;
  readonly final: boolean;
  readonly nextAttemptAt: number | null;
};

/** Throws as `completeTask`. */
export function failTask(state: RunState, command: FailTask): FailDecision {
  const { name, occurrence } = command.step;
  const ended = (known: StepState): boolean => known.status !== "started" && known.status !== "completed";
  const step = attemptOf(state, "fail", command, ended);
  if (step === null) {
    const before = stepOf(state, command);
    const { nextAttemptAt } = before;
    return { events: [], step: before, final: nextAttemptAt === null, nextAttemptAt };
  }
  const failed = {
    name,
    occurrence,
    attempt: step.attempt,
    error: command.error,
    retryable: command.error.retryable !== false,
    timedOut: command.timedOut,
    retryAfterMs: command.retryAfterMs,
  };
  const event = afterFailedAttempt(failed, policyOf(step), command.now, command.random);
  const nextAttemptAt = event.type === "StepRetryScheduled" ? event.data.nextAttemptAt : null;
  return { events: [event], step, final: nextAttemptAt === null, nextAttemptAt };
}

/** Whether the worker should stop. Throws `step_not_begun` or `attempt_superseded`. */
export function isTaskUnwanted(state: RunState, command: TaskAttempt): boolean {
  const step = stepOf(state, command);
  if (step.token !== command.token) throw superseded(state, "heartbeat", command, step);
  if (isClosed(state.status) || step.status === "cancelled") return true;
  if (step.status !== "started") throw superseded(state, "heartbeat", command, step);
  return state.cancelRequested !== null;
}

function policyOf({ task }: StepState): RetryPolicy {
  const {
    maxAttempts,
    initialDelayMs,
    factor,
    maxDelayMs,
    jitter,
  }: NonNullable<EventData<"StepScheduled">["retry"]> = task?.retry ?? {};
  return {
    ...(maxAttempts === undefined ? {} : { maxAttempts }),
    ...(initialDelayMs === undefined ? {} : { initialDelayMs }),
    ...(factor === undefined ? {} : { factor }),
    ...(maxDelayMs === undefined ? {} : { maxDelayMs }),
    ...(jitter === undefined ? {} : { jitter }),
  };
}

/** The attempt under way; null when it has `ended` in just this way before. */
function attemptOf(
  state: RunState,
  kind: string,
  command: TaskAttempt,
  ended: (step: StepState) => boolean,
): StepState | null {
  const step = stepOf(state, command);
  if (step.token === command.token && ended(step)) return null;
  if (step.token === command.token && isClosed(state.status)) {
    throw new MillraceError(
      "workflow_closed",
      `${kind} of task ${keyOf(command)} refused: run ${state.id} is ${state.status} since ` +
        `${isoTime(state.closedAt ?? state.updatedAt)}. Drop the task.`,
      { details: { runStatus: state.status, sequence: state.sequence } },
    );
  }
  if (step.status !== "started" || step.token !== command.token) throw superseded(state, kind, command, step);
  return step;
}

function stepOf(state: RunState, command: TaskAttempt): StepState {
  const step = state.steps.get(keyOf(command));
  if (step !== undefined && step.kind === "task") return step;
  throw new MillraceError(
    "step_not_begun",
    `Task ${keyOf(command)} of run ${state.id} was never begun. Poll its queue and use the token of the answer.`,
  );
}

function superseded(state: RunState, kind: string, command: TaskAttempt, step: StepState): MillraceError {
  return new MillraceError(
    "attempt_superseded",
    `${kind} of task ${keyOf(command)} of run ${state.id} refused: the token is not that of the attempt under way ` +
      `(${step.status}, attempt ${step.attempt}). Drop the task.`,
    { details: { step: keyOf(command), stepStatus: step.status, attempt: step.attempt } },
  );
}

function keyOf({ step }: TaskAttempt): string {
  return stepKey(step.name, step.occurrence);
}
