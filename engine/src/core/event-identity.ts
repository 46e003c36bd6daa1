import { stepKey, type WorkflowEvent } from "@millrace/schemas";

/** What a decision is about, beside its type: a replay must decide the same about the same. Empty for what has no name. */
export function identityOf(event: WorkflowEvent): string {
  switch (event.type) {
    case "StepScheduled":
    case "StepCancelled":
    case "CompensationRegistered":
    case "CompensationStarted":
    case "StepStarted":
    case "StepCompleted":
    case "StepFailed":
    case "StepTimedOut":
    case "StepRetryScheduled":
    case "CompensationCompleted":
    case "CompensationFailed":
      return stepKey(event.data.name, event.data.occurrence);
    case "TimerStarted":
    case "TimerFired":
    case "TimerCancelled":
      return event.data.timer;
    case "WaitStarted":
    case "WaitSatisfied":
    case "WaitTimedOut":
    case "WaitCancelled":
      return event.data.wait;
    case "ChildWorkflowStarted":
    case "ChildWorkflowCancelRequested":
    case "ChildWorkflowClosed":
      return event.data.child;
    case "UpdateAccepted":
    case "UpdateCompleted":
      return event.data.id;
    case "PatchRecorded":
      return event.data.patch;
    case "SignalReceived":
      return event.data.name;
    default:
      return "";
  }
}
