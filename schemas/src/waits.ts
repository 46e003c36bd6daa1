/** What an open run waits for, as its history says. */
import { stepKey } from "./ids.ts";
import { limits } from "./limits.ts";
import { isClosed, type RunState } from "./run-state.ts";

/** `condition`: of the code's own. `retry`: the next attempt of a step. `driver`: who orchestrates it from outside. */
export const waitKinds = ["signal", "condition", "timer", "child", "task", "retry", "driver"] as const;
export type WaitKind = (typeof waitKinds)[number];

/** Times are milliseconds since 1970; null: not known, or none. */
export interface Wait {
  readonly kind: WaitKind;
  /** Of the signal, the timer, the step; the id of the child. */
  readonly name: string;
  readonly since: number | null;
  readonly due: number | null;
  /** Of a task. */
  readonly queue: string | null;
  /** Who works on it, as it calls itself; null while nobody does. */
  readonly worker: string | null;
}

/** Longest waiting first, at most `limits.rowWaits`. None for a closed run, and while the code itself runs. */
export function waitsOf(state: RunState): Wait[] {
  if (isClosed(state.status)) return [];
  const waits: Wait[] = [];
  const none = { due: null, queue: null, worker: null };
  for (const [name, { startedAt, dueAt }] of Object.entries(state.open?.timers ?? {}))
    waits.push({ ...none, kind: "timer", name, since: startedAt, due: dueAt });
  for (const [key, { signal, startedAt, dueAt }] of Object.entries(state.open?.waits ?? {})) {
    const kind = signal === null ? "condition" : "signal";
    waits.push({ ...none, kind, name: signal ?? key, since: startedAt, due: dueAt });
  }
  for (const [name, { startedAt }] of Object.entries(state.open?.children ?? {}))
    waits.push({ ...none, kind: "child", name, since: startedAt });
  for (const step of state.steps.values()) {
    const name = stepKey(step.name, step.occurrence);
    if (step.status === "retrying") {
      waits.push({ ...none, kind: "retry", name, since: null, due: step.nextAttemptAt });
    } else if (step.task !== null && (step.status === "scheduled" || step.status === "started")) {
      const { scheduledAt, queue, worker } = step.task;
      const since = step.status === "started" ? step.startedAt : scheduledAt;
      waits.push({ kind: "task", name, since, due: null, queue, worker });
    } else if (state.driver === "external" && step.status === "started") {
      waits.push({ ...none, kind: "driver", name, since: step.startedAt });
    }
  }
  waits.sort((a, b) => (a.since ?? a.due ?? 0) - (b.since ?? b.due ?? 0));
  return waits.slice(0, limits.rowWaits);
}
