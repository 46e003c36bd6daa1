/** One worker of both kinds: it executes runs, does tasks, or both. */
import type { DueTimers } from "../due-timers.ts";
import type { DrainOptions, RunStats, Worker, WorkerOptions } from "../worker.ts";
import { TaskWorker, type TaskWorkerDeps } from "./task-worker.ts";
import { newUlid } from "../new-ulid.ts";
import { processIdentity } from "../fleet/process-identity.ts";

export interface WorkerParts {
  /** Null for a worker that only does tasks. */
  readonly startRuns: (() => Promise<Worker>) | null;
  readonly tasks: TaskWorkerDeps;
  readonly timers: DueTimers;
}

const taskConcurrencyDefault = 100;
const drainDefaultMs = 30_000;
const noRuns: RunStats = {
  runs: 0,
  waiting: 0,
  parked: 0,
  stepsRunning: 0,
  unhosted: 0,
  shards: 0,
  takeOvers: 0,
  lastTakeOverMs: null,
};

/** Rejects as the worker of runs does, and with `invalid_request` for tasks without queues or the other way round. */
export async function startWorkerOf(parts: WorkerParts, options: WorkerOptions): Promise<Worker> {
  const { tasks = {}, queues = [], taskConcurrency = taskConcurrencyDefault } = options;
  const withTasks = queues.length > 0 || Object.keys(tasks).length > 0;
  if (!withTasks && parts.startRuns !== null) return parts.startRuns();
  const { host, pid } = processIdentity();
  const name = options.name ?? `${host}:${pid}`;
  const taskWorker = new TaskWorker(parts.tasks, { tasks, queues, concurrency: taskConcurrency, name });
  const runs = parts.startRuns === null ? null : await parts.startRuns();
  taskWorker.start();
  let draining: Promise<void> | null = null;
  const drain = async ({ deadlineMs = drainDefaultMs }: DrainOptions): Promise<void> => {
    // Tasks first take nothing new; runs that this worker owns may still record what its last tasks did.
    await Promise.all([taskWorker.drain(deadlineMs), runs?.drain({ deadlineMs })]);
    parts.timers.clear();
  };
  return {
    session: runs?.session ?? newUlid(),
    stats: () => ({ ...(runs?.stats() ?? noRuns), tasksRunning: taskWorker.running }),
    drain: (drainOptions = {}) => (draining ??= drain(drainOptions)),
  };
}
