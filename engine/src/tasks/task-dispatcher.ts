/** What the owner of a run does with its tasks, over the queues of the event log. */
import type { HeartbeatKey, TaskMessage, TaskQueues as Queues } from "@millrace/event-log";
import { taskPriorities } from "@millrace/schemas";
import type { PublishedTask, TaskQueues } from "../dispatcher.ts";

export function createTaskDispatcher(queues: Queues): TaskQueues {
  return {
    publish: (task) => queues.publish(messageOf(task)),
    async lastHeartbeatAt(key: HeartbeatKey, token: string) {
      const last = await queues.lastBeat(key);
      return last?.token === token ? last.at : null;
    },
    bury: (task, reason) => queues.bury({ task: messageOf(task), reason, attempts: task.attempt }),
  };
}

function messageOf(task: PublishedTask): TaskMessage {
  const { workflowId, type, run, name, occurrence, attempt, token, queue, sequence, traceparent } = task;
  return {
    ...{ token, workflowId, type, run, name, occurrence, attempt, queue, sequence },
    priority: taskPriorities.find((each) => each === task.priority) ?? 1,
    input: task.input ?? null,
    traceparent,
    startToCloseMs: task.startToCloseMs ?? null,
    heartbeatMs: task.heartbeatMs ?? null,
  };
}
