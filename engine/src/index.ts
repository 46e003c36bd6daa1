export { connect, type ConnectOptions } from "./connect.ts";
export type {
  ScopeContext,
  SleepOptions,
  StepContext,
  StepOptions,
  TaskOptions,
  UpdateOptions,
  WaitOptions,
  WorkflowContext,
} from "./context.ts";
export {
  defineWorkflow,
  type AnyWorkflowDefinition,
  type WorkflowDefinition,
  type WorkflowOptions,
} from "./definition.ts";
export type { Divergence } from "./check-replay.ts";
export { systemClock, type Clock } from "./due-timers.ts";
export {
  CancelledError,
  ChildFailedError,
  NonDeterminismError,
  NonDeterministicCallError,
  NonRetryableError,
  RetryAfterError,
  StepFailedError,
} from "./failures.ts";
export type { Interceptor, SignalCall, StartCall, StepCall, TaskCall } from "./interceptors.ts";
export type { Logger } from "./logger.ts";
export type {
  DrivenRun,
  DrivenStepOptions,
  DriveOptions,
  Driver,
  Millrace,
  Mutation,
  OperatorReason,
  SignalOptions,
  StartOptions,
  StartResult,
  UpdateRequestOptions,
  WorkflowHandle,
} from "./millrace.ts";
export type {
  ForkOptions,
  ForkResult,
  OperatorHandle,
  ResetOptions,
  ResetResult,
} from "./operator-handle.ts";
export { aesGcmCodec, type AesGcmOptions } from "./payloads/aes-gcm-codec.ts";
export type { EncodedPayload, PayloadCodec } from "./payloads/codec.ts";
export { collectGarbage, type GarbageOptions, type GarbageReport } from "./payloads/collect-garbage.ts";
export type { PayloadOptions } from "./payloads/payloads.ts";
export { planMigration, type HistorySource, type MigrationPlan } from "./plan-migration.ts";
export type { AskOptions } from "./questions.ts";
export { commitsOf, type RecordedEvent, type RecordedHistory } from "./recorded-history.ts";
export type { HistoryCommit } from "./replay.ts";
export type { ChildOptions } from "./requests.ts";
export type { RetryPolicy } from "./retry.ts";
export type {
  ScheduleCreateOptions,
  ScheduledStart,
  ScheduleOptions,
  Schedules,
  ScheduleTriggered,
} from "./schedules/schedules.ts";
export type { RunLogger } from "./run-logger.ts";
export type { PolledTask, PollOptions, RedriveOptions, RedriveResult, Tasks } from "./tasks/task-api.ts";
export type { TaskContext, TaskFunction } from "./tasks/task-function.ts";
export type { DrainOptions, RunStats, Worker, WorkerOptions, WorkerStats } from "./worker.ts";
