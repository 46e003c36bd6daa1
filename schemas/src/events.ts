import * as v from "valibot";
import { scheduleEventSchemas } from "./schedule-events.ts";

/** An error as stored in the log and sent to clients. */
export const ErrorInfo = v.object({
  message: v.string(),
  name: v.optional(v.string()),
  code: v.optional(v.string()),
  retryable: v.optional(v.boolean()),
  stack: v.optional(v.string()),
});
export type ErrorInfo = v.InferOutput<typeof ErrorInfo>;

const step = { name: v.string(), occurrence: v.pipe(v.number(), v.integer(), v.minValue(1)) };
const attempt = { ...step, attempt: v.pipe(v.number(), v.integer(), v.minValue(1)) };
const operator = { reason: v.optional(v.string()), by: v.optional(v.string()) };
/** A search attribute. A date is its ISO 8601 text in UTC, so that the order of texts is that of times. */
export const AttributeValue = v.union([v.string(), v.pipe(v.number(), v.finite()), v.boolean()]);
export type AttributeValue = v.InferOutput<typeof AttributeValue>;
/** What happens to a child when its parent closes. */
export const ParentClosePolicy = v.picklist(["cancel", "terminate", "abandon"]);
export type ParentClosePolicy = v.InferOutput<typeof ParentClosePolicy>;
/** Time limits of a task, milliseconds; absent: none. */
const taskLimits = {
  /** From scheduled to begun by a worker. */
  scheduleToStartMs: v.optional(v.number()),
  /** Of one attempt. */
  startToCloseMs: v.optional(v.number()),
  /** Between two heartbeats of an attempt. */
  heartbeatMs: v.optional(v.number()),
};
/** As data, so that any process can apply it. */
const retryPolicy = v.object({
  maxAttempts: v.optional(v.number()),
  initialDelayMs: v.optional(v.number()),
  factor: v.optional(v.number()),
  maxDelayMs: v.optional(v.number()),
  jitter: v.optional(v.picklist(["full", "none"])),
});

/**
 * The data of each event type. Names and shapes are stored for ever: a changed shape needs a new commit version
 * and an upcast. Times inside data are milliseconds since 1970, UTC; the time of an event itself is the broker's.
 * A payload may be absent: JSON has no `undefined`, so what a step without a result returns is not in the log.
 */
export const eventSchemas = {
  WorkflowStarted: v.object({
    version: v.string(),
    input: v.optional(v.unknown()),
    /** `code`: a worker runs it. `external`: a driver begins and ends its steps. */
    driver: v.picklist(["code", "external"]),
    /** The planned step names, for `totalSteps`. */
    plan: v.optional(v.array(v.string())),
    attributes: v.optional(v.record(v.string(), AttributeValue)),
    /** Time limit of the run, from this event on. */
    timeoutMs: v.optional(v.number()),
    /** The run that asked for this one: its id, the key of the child within it, and what its end means here. */
    parent: v.optional(v.object({ id: v.string(), child: v.string(), onClose: ParentClosePolicy })),
  }),
  WorkflowCompleted: v.object({ output: v.optional(v.unknown()) }),
  WorkflowFailed: v.object({ error: ErrorInfo }),
  /** The run's own time limit has passed. */
  WorkflowTimedOut: v.object({ timeoutMs: v.number() }),
  WorkflowCancelRequested: v.object(operator),
  WorkflowCancelled: v.object({ reason: v.optional(v.string()) }),
  WorkflowTerminated: v.object(operator),
  /** This run number is over; `WorkflowStarted` of the next one follows in the same commit. */
  WorkflowContinuedAsNew: v.object({ run: v.pipe(v.number(), v.integer(), v.minValue(2)) }),
  WorkflowPaused: v.object(operator),
  WorkflowResumed: v.object(operator),
  /**
   * The run begins anew as run number `run`, with the part of its history that was kept: its events follow as they
   * were. `partial`: not all in this commit; `HistoryCopied` ends them, and nobody runs the code before it.
   */
  WorkflowReset: v.object({
    ...operator,
    run: v.pipe(v.number(), v.integer(), v.minValue(2)),
    kind: v.picklist(["reset", "retry"]),
    /** The step from which it goes on, by key; absent: from the beginning. */
    step: v.optional(v.string()),
    partial: v.optional(v.boolean()),
  }),
  /** Behind the `WorkflowStarted` of a run that began with a part of another one's history. `partial` as in a reset. */
  WorkflowForked: v.object({
    ...operator,
    from: v.string(),
    step: v.optional(v.string()),
    /** Where the original's random numbers came from, so that what was copied is replayed with the same. */
    seed: v.optional(v.string()),
    partial: v.optional(v.boolean()),
  }),
  HistoryCopied: v.object({}),
  /** The run goes on with the code of another version. */
  WorkflowMigrated: v.object({ ...operator, from: v.string(), to: v.string() }),
  /** A turn could not be carried out (non-determinism or a bug in workflow code). The run is stuck, nothing is lost. */
  WorkflowTurnFailed: v.object({
    error: ErrorInfo,
    step: v.optional(v.string()),
    version: v.optional(v.string()),
  }),
  /** Told once, well before the limit: continue as new. */
  HistoryLimitApproached: v.object({ commits: v.number(), limit: v.number() }),
  /** A task was put into a queue; its worker's events carry `token`. */
  StepScheduled: v.object({
    ...attempt,
    queue: v.string(),
    token: v.string(),
    input: v.optional(v.unknown()),
    /** 0 to 2, highest first. Default 1. */
    priority: v.optional(v.number()),
    ...taskLimits,
    retry: v.optional(retryPolicy),
  }),
  /** Only for tasks, drivers and any attempt after the first. `token` guards a driver's or a task's attempt. */
  StepStarted: v.object({
    ...attempt,
    token: v.optional(v.string()),
    maxAttempts: v.optional(v.number()),
    /** Who works on a task, as it calls itself. */
    worker: v.optional(v.string()),
  }),
  StepCompleted: v.object({ ...attempt, output: v.optional(v.unknown()) }),
  /** Final. */
  StepFailed: v.object({ ...attempt, error: ErrorInfo }),
  /** Final: the last attempt ran into its time limit. */
  StepTimedOut: v.object({ ...attempt, error: ErrorInfo }),
  /** `attempt` failed; the next one is due at `nextAttemptAt`. */
  StepRetryScheduled: v.object({ ...attempt, error: ErrorInfo, nextAttemptAt: v.number() }),
  /** The code does not wait for it any more. Its worker is told at its next heartbeat. */
  StepCancelled: v.object(step),
  TimerStarted: v.object({ timer: v.string(), dueAt: v.number() }),
  TimerFired: v.object({ timer: v.string() }),
  TimerCancelled: v.object({ timer: v.string() }),
  /** A fact from outside. `id`: a second one with the same id is ignored. */
  SignalReceived: v.object({
    name: v.string(),
    payload: v.optional(v.unknown()),
    id: v.optional(v.string()),
    by: v.optional(v.string()),
  }),
  WaitStarted: v.object({ wait: v.string(), signal: v.optional(v.string()), dueAt: v.optional(v.number()) }),
  WaitSatisfied: v.object({ wait: v.string() }),
  WaitTimedOut: v.object({ wait: v.string() }),
  WaitCancelled: v.object({ wait: v.string() }),
  /** Validated and taken in; its handler runs. `id`: a second one with the same id is not taken in. */
  UpdateAccepted: v.object({ id: v.string(), name: v.string(), input: v.optional(v.unknown()) }),
  UpdateCompleted: v.object({
    id: v.string(),
    output: v.optional(v.unknown()),
    error: v.optional(ErrorInfo),
  }),
  ChildWorkflowStarted: v.object({
    /** Key of the child within its parent: its workflow id. */
    child: v.string(),
    type: v.string(),
    version: v.optional(v.string()),
    input: v.optional(v.unknown()),
    attributes: v.optional(v.record(v.string(), AttributeValue)),
    plan: v.optional(v.array(v.string())),
    timeoutMs: v.optional(v.number()),
    onClose: ParentClosePolicy,
  }),
  /** The parent does not wait for it any more, and its policy is not to let it go on. */
  ChildWorkflowCancelRequested: v.object({ child: v.string() }),
  ChildWorkflowClosed: v.object({
    child: v.string(),
    status: v.picklist(["completed", "failed", "cancelled", "terminated", "timed_out", "refused"]),
    output: v.optional(v.unknown()),
    error: v.optional(ErrorInfo),
  }),
  ProgressReported: v.object({
    current: v.optional(v.number()),
    total: v.optional(v.number()),
    message: v.optional(v.string()),
  }),
  /** Null removes the key. */
  AttributesUpserted: v.object({ attributes: v.record(v.string(), v.nullable(AttributeValue)) }),
  PatchRecorded: v.object({ patch: v.string() }),
  /** What `ctx.now()` answered: `index` counts the calls of one kind within a run, from 1. */
  SideEffectRecorded: v.object({ kind: v.picklist(["now"]), index: v.number(), value: v.unknown() }),
  CompensationRegistered: v.object(step),
  CompensationStarted: v.object(step),
  CompensationCompleted: v.object({ ...attempt, output: v.optional(v.unknown()) }),
  /** Final: after its last attempt. The compensations registered before it go on. */
  CompensationFailed: v.object({ ...attempt, error: ErrorInfo }),
  ...scheduleEventSchemas,
} as const;

export type EventType = keyof typeof eventSchemas;
export type EventData<T extends EventType> = v.InferOutput<(typeof eventSchemas)[T]>;
/** One fact about one run. */
export type WorkflowEvent = {
  [T in EventType]: { readonly type: T; readonly data: EventData<T> };
}[EventType];

export function isEventType(value: unknown): value is EventType {
  return typeof value === "string" && Object.hasOwn(eventSchemas, value);
}

/** Facts that somebody outside appends without an expectation: what the code does is not shown by them. */
const outsideTypes: ReadonlySet<EventType> = new Set<EventType>([
  "WorkflowCancelRequested",
  "WorkflowPaused",
  "WorkflowResumed",
  "SignalReceived",
]);

export function isOutsideEvent(event: WorkflowEvent): boolean {
  return outsideTypes.has(event.type);
}

const closingTypes = [
  "WorkflowCompleted",
  "WorkflowFailed",
  "WorkflowTimedOut",
  "WorkflowCancelled",
  "WorkflowTerminated",
] as const satisfies readonly EventType[];
export type ClosingEvent = Extract<WorkflowEvent, { type: (typeof closingTypes)[number] }>;

/** True for the event with which a run closes. `WorkflowContinuedAsNew` does not close it: the next run follows. */
export function isClosingEvent(event: WorkflowEvent): event is ClosingEvent {
  return (closingTypes as readonly EventType[]).includes(event.type);
}
