/** How a task and the handle of a taken one are written. Pure: the same for every adapter. */
import { limits, MillraceError } from "@millrace/schemas";
import type { TakenDelivery } from "./queue-taker.ts";
import type { QueueLimits, TakenTask, TaskMessage } from "./task-queues.ts";

const utf8 = new TextDecoder();
const bytes = new TextEncoder();

export function encodeTask(task: TaskMessage): Uint8Array {
  return bytes.encode(JSON.stringify(task));
}

/** Null for what is no task of ours. */
function decodeTask(body: Uint8Array): TaskMessage | null {
  try {
    const parsed = JSON.parse(utf8.decode(body)) as Partial<TaskMessage> | null;
    return typeof parsed?.token === "string" && typeof parsed.workflowId === "string"
      ? (parsed as TaskMessage)
      : null;
  } catch {
    // Written by somebody else: the caller says what becomes of it.
    return null;
  }
}

/** Pairs each delivery with its task; `foreign`: what is none. */
export function takenTasks(taken: readonly TakenDelivery[]): {
  readonly tasks: TakenTask[];
  readonly foreign: readonly string[];
} {
  const tasks: TakenTask[] = [];
  const foreign: string[] = [];
  for (const { task: delivery, permit } of taken) {
    const handle = permit === null ? delivery.reply : `${delivery.reply} ${permit.reply}`;
    const task = decodeTask(delivery.body);
    if (task === null) foreign.push(handle);
    else tasks.push({ task, handle, delivery: delivery.delivery });
  }
  return { tasks, foreign };
}

export function parseHandle(handle: string): { readonly task: string; readonly permit: string | null } {
  const [task = "", permit, more] = handle.split(" ");
  if (task === "" || more !== undefined) throw foreignHandle(handle);
  return { task, permit: permit ?? null };
}

export function foreignHandle(handle: string): MillraceError {
  return new MillraceError(
    "invalid_request",
    `${JSON.stringify(handle.slice(0, 200))} is no handle of a taken task of this namespace. Use the one that it was taken with.`,
  );
}

/** `invalid_request` when a limit is none, or out of range. */
export function assertQueueLimits(queue: string, given: QueueLimits): void {
  const { concurrency, ratePerS, burst } = given;
  const wrong =
    concurrency !== null &&
    !(Number.isInteger(concurrency) && concurrency >= 1 && concurrency <= limits.queueConcurrency)
      ? `concurrency ${concurrency}: expected a whole number from 1 to ${limits.queueConcurrency}`
      : ratePerS !== null && !(ratePerS > 0 && ratePerS <= rateMax)
        ? `ratePerS ${ratePerS}: expected a number above 0, at most ${rateMax}`
        : burst !== null && !(Number.isInteger(burst) && burst >= 1 && burst <= rateMax)
          ? `burst ${burst}: expected a whole number from 1 to ${rateMax}`
          : burst !== null && ratePerS === null
            ? "a burst without ratePerS"
            : null;
  if (wrong === null) return;
  throw new MillraceError(
    "invalid_request",
    `Limits of queue ${queue} refused: ${wrong}, or null for none.`,
    {
      details: { queue },
    },
  );
}

/** Beyond this a limit is none, and the arithmetic of times loses its precision. */
const rateMax = 100_000;
