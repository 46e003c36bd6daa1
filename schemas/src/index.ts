export {
  commitHeaders,
  commitVersion,
  decodeCommit,
  encodeCommit,
  validateEvent,
  type RunCondition,
} from "./commit.ts";
export { epochOf, formatCursor, parseCursor, type Cursor } from "./cursor.ts";
export {
  errorCodeOf,
  isMillraceError,
  MillraceError,
  type ErrorCode,
  type MillraceErrorOptions,
} from "./errors.ts";
export {
  ErrorInfo,
  eventSchemas,
  isClosingEvent,
  isEventType,
  isOutsideEvent,
  type AttributeValue,
  type ClosingEvent,
  type EventData,
  type EventType,
  type ParentClosePolicy,
  type WorkflowEvent,
} from "./events.ts";
export {
  canonicalFilter,
  FilterSchema,
  matchesEvent,
  matchesRun,
  parseFilter,
  type Filter,
} from "./filter.ts";
export {
  ReasonRequest,
  RunCompleteRequest,
  RunFailRequest,
  StartRequest,
  StepBeginRequest,
  StepCompleteRequest,
  StepFailRequest,
  type BeginOutcome,
  type EventRow,
  type Page,
  type Problem,
} from "./http.ts";
export {
  assertNamespace,
  assertWorkflowId,
  assertWorkflowType,
  blobKey,
  fnv1a,
  parseBlobKey,
  parseStepRef,
  shardOf,
  stepKey,
  type StepRef,
} from "./ids.ts";
export { defaultShardCount, limits } from "./limits.ts";
export { isStoredForm, payloadFields, StoredForm } from "./payload.ts";
export {
  ClientFrame,
  closeCodes,
  isFinalClose,
  streamDefaults,
  streamProtocolVersion,
  streamSubprotocol,
  type BehindReason,
  type EventEntry,
  type GoneReason,
  type ServerFrame,
  type StateEntry,
  type StreamShape,
  type SubscribeFrame,
  type SubscriptionMode,
} from "./protocol.ts";
export {
  isFinalRow,
  isoTime,
  progressOf,
  toRow,
  toUpdate,
  type StepRow,
  type WorkflowRow,
  type WorkflowUpdate,
} from "./row.ts";
export {
  evolve,
  evolveCommit,
  initialRunState,
  isClosed,
  noOpenWork,
  runStatuses,
  type ChildState,
  type EventPosition,
  type OpenWork,
  type RunState,
  type RunStatus,
  type StepState,
  type StepStatus,
  type TaskState,
  type TimerState,
  type UpdateState,
  type WaitState,
} from "./run-state.ts";
export {
  announceSubject,
  anyTypeSubject,
  blobSubject,
  logNames,
  parseRunSubject,
  runSubject,
  type LogNames,
} from "./subjects.ts";
