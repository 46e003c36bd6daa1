import { ulid } from "ulid";
import type { WorkflowEvent } from "@millrace/schemas";
import type { AppendRequest, Expected } from "../event-log.ts";

/** An append that starts a run of type `order`. */
export function startOf(workflowId: string, changes: Partial<AppendRequest> = {}): AppendRequest {
  const started: WorkflowEvent = {
    type: "WorkflowStarted",
    data: { version: "1", input: { workflowId }, driver: "code" },
  };
  return { commitId: ulid(), workflowId, type: "order", expected: "new", events: [started], ...changes };
}

/** An append of one completed step to a run of type `order`. */
export function stepOf(
  workflowId: string,
  expected: Expected,
  changes: Partial<AppendRequest> = {},
): AppendRequest {
  const step: WorkflowEvent = {
    type: "StepCompleted",
    data: { name: "charge", occurrence: 1, attempt: 1, output: { text: "Zürich \u{1F69A}" } },
  };
  return { commitId: ulid(), workflowId, type: "order", expected, events: [step], ...changes };
}

/** A cancel request: a fact from outside. */
export function factOf(workflowId: string, changes: Partial<AppendRequest> = {}): AppendRequest {
  return stepOf(workflowId, "any", {
    events: [{ type: "WorkflowCancelRequested", data: { reason: "test" } }],
    ...changes,
  });
}
