export type { BlobInfo, BlobRef, BlobStore } from "./blob-store.ts";
export type {
  AppendRequest,
  AppendResult,
  Checkpoint,
  CheckpointVerdict,
  CommitHead,
  EventLog,
  Expected,
  Follower,
  FollowOptions,
  FollowStatus,
  HeadsOptions,
  LogInfo,
  LogPage,
  LogStatus,
  PageOptions,
  RegisteredType,
  StoredCommit,
} from "./event-log.ts";
export {
  leaseMsMin,
  type KeepOptions,
  type Lease,
  type LeaseChange,
  type LeaseStore,
  type LeaseWatch,
} from "./lease-store.ts";
export {
  noQueueLimits,
  type DeadLetter,
  type Heartbeat,
  type HeartbeatKey,
  type QueueInfo,
  type QueueLimits,
  type StoredDeadLetter,
  type TakenTask,
  type TakeOptions,
  type TaskMessage,
  type TaskQueues,
} from "./task-queues.ts";
export { createMemoryLog, type MemoryLogOptions } from "./memory/memory-log.ts";
export { createMemoryServer, type MemoryServer, type MemoryServerOptions } from "./memory/memory-server.ts";
export { openEventLog, type EventLogOptions } from "./jetstream/open-event-log.ts";
