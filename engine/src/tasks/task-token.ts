/**
 * What the worker of a task holds: everything that any process needs to find the run and the queue's message. Opaque to
 * the worker. The attempt's token within it is what the log checks.
 */
import {
  isMillraceError,
  MillraceError,
  assertWorkflowId,
  assertWorkflowType,
  parseStepRef,
} from "@millrace/schemas";
import type { TaskMessage } from "@millrace/event-log";

export interface TaskRef extends Pick<
  TaskMessage,
  "workflowId" | "type" | "run" | "name" | "occurrence" | "queue"
> {
  readonly attempt: number;
  /** Of the attempt under way. */
  readonly token: string;
  /** Of the commit that recorded its begin. */
  readonly sequence: number;
  /** Of the queue's message. */
  readonly handle: string;
}

export function encodeTaskToken(ref: TaskRef): string {
  const { workflowId, type, run, name, occurrence, queue, attempt, token, sequence, handle } = ref;
  const fields = [workflowId, type, run, name, occurrence, queue, attempt, token, sequence, handle];
  return Buffer.from(JSON.stringify(fields)).toString("base64url");
}

/** `invalid_id` for what is no token. */
export function decodeTaskToken(text: string): TaskRef {
  try {
    const fields = JSON.parse(Buffer.from(text, "base64url").toString("utf8")) as unknown[];
    const [workflowId, type, run, name, occurrence, queue, attempt, token, sequence, handle] = fields;
    assertWorkflowId(workflowId);
    assertWorkflowType(type);
    parseStepRef(`${String(name)}#${String(occurrence)}`);
    if (
      typeof name === "string" &&
      typeof queue === "string" &&
      typeof token === "string" &&
      typeof handle === "string" &&
      isCount(run) &&
      isCount(occurrence) &&
      isCount(attempt) &&
      isCount(sequence)
    )
      return { workflowId, type, run, name, occurrence, queue, attempt, token, sequence, handle };
  } catch (error) {
    if (!(error instanceof SyntaxError) && !(error instanceof TypeError) && !isMillraceError(error))
      throw error;
  }
  throw new MillraceError(
    "invalid_id",
    `${JSON.stringify(text.slice(0, 80))} is no task token. Use the one that the poll answered with, unchanged.`,
  );
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && Number(value) >= 1;
}
