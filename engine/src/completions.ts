/** What comes in by itself and is to be recorded in a turn: an outcome, a due time, a decision about the run from outside. */
import { stepKey, type RunState, type WorkflowEvent } from "@millrace/schemas";
import type { Activation } from "./activation.ts";
import { identityOf } from "./core/event-identity.ts";
import { requestKey, type Request } from "./requests.ts";
import type { StepOutcome } from "./step-execution.ts";
import { updateOf } from "./update-askers.ts";

export type Completion =
  | StepOutcome
  | Extract<
      WorkflowEvent,
      {
        type:
          | "StepStarted"
          | "StepScheduled"
          | "TimerFired"
          | "WaitTimedOut"
          | "ChildWorkflowClosed"
          | "UpdateAccepted"
          | "WorkflowTimedOut"
          | "WorkflowCancelRequested"
          | "WorkflowTerminated";
      }
    >;

/** The code waits for it, and it is not what another process has recorded meanwhile (a zombie, or we before a rebuild). */
export function isWanted(
  completion: Completion,
  { pending, finished }: Activation,
  state: RunState,
): boolean {
  switch (completion.type) {
    case "WorkflowTimedOut":
    case "WorkflowTerminated":
      return true;
    case "WorkflowCancelRequested":
      return state.cancelRequested === null;
    case "ChildWorkflowClosed":
      return Object.hasOwn(state.open?.children ?? {}, completion.data.child);
    case "UpdateAccepted":
      return !finished && updateOf(state, completion.data.id) === null;
    case "TimerFired":
      return !finished && pending.has(requestKey.timer(completion.data.timer));
    case "WaitTimedOut":
      return !finished && pending.has(requestKey.wait(completion.data.wait));
    default: {
      const request = pending.get(stepKey(completion.data.name, completion.data.occurrence));
      return !finished && request !== undefined && !isStale(completion, request, state);
    }
  }
}

function isStale(
  { type, data }: Extract<Completion, { data: { occurrence: number } }>,
  request: Request,
  state: RunState,
): boolean {
  const step = state.steps.get(stepKey(data.name, data.occurrence));
  if (type === "StepStarted" || type === "StepScheduled")
    return step?.status !== "retrying" || step.attempt + 1 !== data.attempt;
  if (step === undefined || (type !== "StepRetryScheduled" && request.kind !== "task")) return false;
  return step.attempt > data.attempt || (step.status === "retrying" && step.attempt === data.attempt);
}

/** Told in two ways within one turn: a child's end by the tail and by a look, an update by two who ask. */
export function isRepeated(completion: Completion, decided: readonly WorkflowEvent[]): boolean {
  const { type } = completion;
  if (type !== "ChildWorkflowClosed" && type !== "UpdateAccepted" && type !== "WorkflowCancelRequested")
    return false;
  return decided.some((event) => event.type === type && identityOf(event) === identityOf(completion));
}

/** Outcomes of what runs are recorded while a run is paused; what would begin something is not. */
export function isHeldWhilePaused({ type }: Completion): boolean {
  return (
    type === "StepStarted" ||
    type === "StepScheduled" ||
    type === "TimerFired" ||
    type === "WaitTimedOut" ||
    type === "UpdateAccepted"
  );
}

/** What the code does to an output that it was given must not change what is recorded. */
export function asReplayed(completion: Completion): Completion {
  if (completion.type !== "StepCompleted" || typeof completion.data.output !== "object") return completion;
  return {
    type: completion.type,
    data: { ...completion.data, output: structuredClone(completion.data.output) },
  };
}
