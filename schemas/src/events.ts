import * as v from "valibot";

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
    attributes: v.optional(v.record(v.string(), v.string())),
  }),
  WorkflowCompleted: v.object({ output: v.optional(v.unknown()) }),
  WorkflowFailed: v.object({ error: ErrorInfo }),
  WorkflowCancelRequested: v.object(operator),
  WorkflowCancelled: v.object({ reason: v.optional(v.string()) }),
  WorkflowTerminated: v.object(operator),
  /** A turn could not be carried out (non-determinism or a bug in workflow code). The run is stuck, nothing is lost. */
  WorkflowTurnFailed: v.object({
    error: ErrorInfo,
    step: v.optional(v.string()),
    version: v.optional(v.string()),
  }),
  /** Only for drivers and for any attempt after the first. `token` guards a driver's attempt. */
  StepStarted: v.object({ ...attempt, token: v.optional(v.string()), maxAttempts: v.optional(v.number()) }),
  StepCompleted: v.object({ ...attempt, output: v.optional(v.unknown()) }),
  /** Final. */
  StepFailed: v.object({ ...attempt, error: ErrorInfo }),
  /** Final: the last attempt ran into its time limit. */
  StepTimedOut: v.object({ ...attempt, error: ErrorInfo }),
  /** `attempt` failed; the next one is due at `nextAttemptAt`. */
  StepRetryScheduled: v.object({ ...attempt, error: ErrorInfo, nextAttemptAt: v.number() }),
  ProgressReported: v.object({
    current: v.optional(v.number()),
    total: v.optional(v.number()),
    message: v.optional(v.string()),
  }),
  /** What `ctx.now()` answered: `index` counts the calls of one kind within a run, from 1. */
  SideEffectRecorded: v.object({ kind: v.picklist(["now"]), index: v.number(), value: v.unknown() }),
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
