import { assertNamespace, shardOf } from "./ids.ts";

/** Names in the broker for one namespace. Ids and types must have been checked: `*` and `>` are stored literally. */
export interface LogNames {
  /** JetStream stream: the event log. */
  readonly stream: string;
  /** Key-value bucket with the registered workflow types. */
  readonly registryBucket: string;
  /** Key-value bucket with the live workers and who holds which shard. */
  readonly fleetBucket: string;
  /** Subject filter of the whole log. */
  readonly all: string;
  /** JetStream stream with the payloads that are too large for the log. */
  readonly blobStream: string;
  /** Subject filter of all of them. */
  readonly allBlobs: string;
}

export function logNames(namespace: string): LogNames {
  assertNamespace(namespace);
  return {
    stream: `MILLRACE_${namespace}`,
    registryBucket: `MILLRACE_${namespace}_REGISTRY`,
    fleetBucket: `MILLRACE_${namespace}_FLEET`,
    all: `mr.${namespace}.>`,
    blobStream: `MILLRACE_${namespace}_BLOBS`,
    allBlobs: `mrb.${namespace}.*.*`,
  };
}

/** One subject per run: `mr.<ns>.<shard>.<type>.<workflowId>`. */
export function runSubject(namespace: string, shardCount: number, type: string, workflowId: string): string {
  return `mr.${namespace}.${shardOf(workflowId, shardCount)}.${type}.${workflowId}`;
}

/** The run with this id whatever its type: `mr.<ns>.<shard>.*.<workflowId>`. */
export function anyTypeSubject(namespace: string, shardCount: number, workflowId: string): string {
  return `mr.${namespace}.${shardOf(workflowId, shardCount)}.*.${workflowId}`;
}

/** One subject per blob, below that of its run: `mrb.<ns>.<workflowId>.<ULID>`. `*` for the id of a blob gives the run's filter. */
export function blobSubject(namespace: string, workflowId: string, blobId: string): string {
  return `mrb.${namespace}.${workflowId}.${blobId}`;
}

/** Subject of core messages (not stored) by which parts tell each other that something moved. */
export function announceSubject(namespace: string, topic: string): string {
  return `mra.${namespace}.${topic}`;
}

/** Subject of core requests (not stored) that the process which holds a run answers. */
export function askSubject(namespace: string, topic: string): string {
  return `mrq.${namespace}.${topic}`;
}

/** Type and id of a log subject, or null when it is none. */
export function parseRunSubject(subject: string): { type: string; workflowId: string } | null {
  const tokens = subject.split(".");
  const [prefix, , , type, workflowId] = tokens;
  if (prefix !== "mr" || tokens.length !== 5 || type === undefined || workflowId === undefined) return null;
  return { type, workflowId };
}

/** Task priorities, highest first. */
export const taskPriorities = [2, 1, 0] as const;
export type TaskPriority = (typeof taskPriorities)[number];

/** Names in the broker for the task queues of one namespace. Queue names must have been checked. */
export interface TaskNames {
  /** Work-queue stream: tasks that are not done yet. */
  readonly stream: string;
  readonly all: string;
  /** A message for each task that may run at the same time, for queues with such a limit. */
  readonly permitStream: string;
  readonly permits: string;
  /** Tasks that failed for good. */
  readonly deadStream: string;
  readonly dead: string;
  /** Key-value buckets: limits of queues, and the last heartbeat of each task. */
  readonly limitsBucket: string;
  readonly heartbeatBucket: string;
}

export function taskNames(namespace: string): TaskNames {
  assertNamespace(namespace);
  return {
    stream: `MILLRACE_${namespace}_TASKS`,
    all: `mrt.${namespace}.>`,
    permitStream: `MILLRACE_${namespace}_PERMITS`,
    permits: `mrp.${namespace}.>`,
    deadStream: `MILLRACE_${namespace}_DEAD`,
    dead: `mrd.${namespace}.>`,
    limitsBucket: `MILLRACE_${namespace}_QUEUES`,
    heartbeatBucket: `MILLRACE_${namespace}_HEARTBEATS`,
  };
}

/** `mrt.<ns>.<queue>.<priority>`. */
export function taskSubject(namespace: string, queue: string, priority: TaskPriority): string {
  return `mrt.${namespace}.${queue}.${priority}`;
}

/** `mrp.<ns>.<queue>.<n>`. */
export function permitSubject(namespace: string, queue: string, permit: number | "*"): string {
  return `mrp.${namespace}.${queue}.${permit}`;
}

/** `mrd.<ns>.<queue>.<token>`. */
export function deadSubject(namespace: string, queue: string, token: string): string {
  return `mrd.${namespace}.${queue}.${token}`;
}
