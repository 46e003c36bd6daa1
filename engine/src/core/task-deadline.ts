import type { StepState } from "@millrace/schemas";

export interface TaskDeadline {
  /** Milliseconds since 1970. */
  readonly at: number;
  readonly which: "schedule-to-start" | "start-to-close" | "heartbeat";
  readonly limitMs: number;
}

/** Which of a task's time limits passes first, as far as its state tells; null when none can. */
export function taskDeadline(step: StepState, lastHeartbeatAt: number | null): TaskDeadline | null {
  const { task, startedAt, status } = step;
  if (task === null) return null;
  if (status === "scheduled") return deadline("schedule-to-start", task.scheduledAt, task.scheduleToStartMs);
  if (status !== "started" || startedAt === null) return null;
  const close = deadline("start-to-close", startedAt, task.startToCloseMs);
  const beat = deadline("heartbeat", Math.max(startedAt, lastHeartbeatAt ?? 0), task.heartbeatMs);
  if (close === null || beat === null) return close ?? beat;
  return beat.at < close.at ? beat : close;
}

function deadline(which: TaskDeadline["which"], from: number, limitMs: number | null): TaskDeadline | null {
  return limitMs === null ? null : { at: from + limitMs, which, limitMs };
}
