/**
 * The state of one run, folded from its history. Owns: what every reader (engine, projector, stream server) takes
 * a run to be. Does not own: what may happen next (that is `decide` in the engine).
 *
 * I1 `evolve` is total: every known event on every state gives a state; what makes no sense there is ignored.
 * I2 `evolve` is deterministic: no clock, no randomness, no environment; times come from the commit.
 * I3 A closed run never opens again, but by an operator's `WorkflowReset`.
 * I4 A final step never changes again: its first outcome stands.
 *
 * `evolve` folds in place and returns the same object: a copy per event would make a run with 10,000 steps
 * quadratic. Whoever needs the old state keeps `toRow(state)`.
 */
import { mergeAttributes, type Attributes } from "./attributes.ts";
import type { RunCondition } from "./commit.ts";
import {
  isOutsideEvent,
  type ErrorInfo,
  type EventData,
  type ParentClosePolicy,
  type WorkflowEvent,
} from "./events.ts";
import { stepKey } from "./ids.ts";

export const runStatuses = [
  "running",
  "waiting",
  "paused",
  "stuck",
  "completed",
  "failed",
  "cancelled",
  "terminated",
  "timed_out",
] as const;
export type RunStatus = (typeof runStatuses)[number];

export type StepStatus =
  "scheduled" | "started" | "retrying" | "completed" | "failed" | "timed_out" | "cancelled";

/** A step that is done through a queue. Plain JSON. */
export interface TaskState {
  readonly queue: string;
  readonly priority: number;
  readonly input: unknown;
  /** When this attempt was put into the queue. */
  readonly scheduledAt: number;
  readonly scheduleToStartMs: number | null;
  readonly startToCloseMs: number | null;
  readonly heartbeatMs: number | null;
  readonly retry: EventData<"StepScheduled">["retry"] | null;
  /** Who works on it; null while it is in the queue. */
  readonly worker: string | null;
}

export interface StepState {
  readonly name: string;
  readonly occurrence: number;
  kind: "step" | "task" | "compensation";
  status: StepStatus;
  /** The attempt that runs or ran last, from 1. */
  attempt: number;
  /** Milliseconds since 1970; null for a local step, whose start is not an event. */
  startedAt: number | null;
  completedAt: number | null;
  output: unknown;
  error: ErrorInfo | null;
  /** When the next attempt is due; null unless `retrying`. */
  nextAttemptAt: number | null;
  /** Guards a driver's attempt, kept after its end so that a repeated end is known again; null for local steps. */
  token: string | null;
  /** Attempts in all that a driver allows; null for the default and for local steps. */
  maxAttempts: number | null;
  /** Null unless `kind` is `task`. */
  task: TaskState | null;
}

export interface TimerState {
  readonly startedAt: number;
  readonly dueAt: number;
}

export interface WaitState {
  readonly startedAt: number;
  /** Null: waits for a condition of the code's own. */
  readonly signal: string | null;
  readonly dueAt: number | null;
}

export interface ChildState {
  readonly type: string;
  readonly startedAt: number;
  readonly onClose: ParentClosePolicy;
  readonly cancelRequested: boolean;
}

export interface UpdateState {
  readonly name: string;
  readonly sequence: number;
  status: "accepted" | "completed" | "failed";
  output: unknown;
  error: ErrorInfo | null;
}

/** What only runs with more than steps have. Plain JSON, so that a projection can keep it as one text. */
export interface OpenWork {
  /** By the key that the code knows them by; closed ones are removed. */
  readonly timers: Record<string, TimerState>;
  readonly waits: Record<string, WaitState>;
  /** By workflow id. */
  readonly children: Record<string, ChildState>;
  /** By name: how many were received and how many a wait has taken. */
  readonly signals: Record<string, { received: number; taken: number }>;
  /** Sequence of each signal that came with an id. */
  readonly signalIds: Record<string, number>;
  readonly updates: Record<string, UpdateState>;
  readonly patches: string[];
  /** Keys of compensations that are registered and did not run, oldest first. */
  readonly compensations: string[];
}

export interface RunState {
  readonly id: string;
  readonly type: string;
  version: string;
  status: RunStatus;
  driver: "code" | "external";
  plan: readonly string[];
  input: unknown;
  output: unknown;
  error: ErrorInfo | null;
  attributes: Attributes;
  message: string;
  /** By step key, in the order in which they were begun. */
  readonly steps: Map<string, StepState>;
  /** Set by the last `ProgressReported` that gave it; null otherwise. */
  progress: { current: number | null; total: number | null };
  /** How many `ProgressReported` the history has. */
  progressCount: number;
  /** Values of `ctx.now()` in the order of the calls. */
  readonly nowValues: number[];
  cancelRequested: { readonly reason: string | null } | null;
  startedAt: number;
  updatedAt: number;
  closedAt: number | null;
  /** Sequence of the last commit folded in. */
  sequence: number;
  /** Sequence of the commit with which the present run number began; 0 before it. */
  startedSequence: number;
  /** Counts how often the run was continued as new or reset, from 1. Part of idempotency keys. */
  run: number;
  /** When the run's own time limit passes; null without one. */
  deadlineAt: number | null;
  parent: EventData<"WorkflowStarted">["parent"] | null;
  paused: { readonly reason: string | null; readonly by: string | null; readonly since: number } | null;
  /** The next `WorkflowStarted` begins the next run number. */
  startAwaited: boolean;
  /** A reset or fork has not brought its whole history yet: nobody may run the code. */
  copying: boolean;
  /** Null until the run has anything of it. */
  open: OpenWork | null;
}

/** Where an event stands: the commit's sequence and the broker's time (ms since 1970). */
export interface EventPosition {
  readonly sequence: number;
  readonly at: number;
}

export function isClosed(status: RunStatus): boolean {
  return (
    status === "completed" ||
    status === "failed" ||
    status === "cancelled" ||
    status === "terminated" ||
    status === "timed_out"
  );
}

/** A run of which nothing is known yet. A history always begins with `WorkflowStarted`. */
export function initialRunState(id: string, type: string): RunState {
  return {
    id,
    type,
    version: "",
    status: "running",
    driver: "code",
    plan: [],
    input: null,
    output: null,
    error: null,
    attributes: {},
    message: "",
    steps: new Map(),
    progress: { current: null, total: null },
    progressCount: 0,
    nowValues: [],
    cancelRequested: null,
    startedAt: 0,
    updatedAt: 0,
    closedAt: null,
    sequence: 0,
    startedSequence: 0,
    run: 1,
    deadlineAt: null,
    parent: null,
    paused: null,
    startAwaited: false,
    copying: false,
    open: null,
  };
}

/** Nothing open: for readers that do not want to ask for null. */
export const noOpenWork: OpenWork = /* @__PURE__ */ Object.freeze(/* @__PURE__ */ emptyOpenWork());

function emptyOpenWork(): OpenWork {
  return {
    timers: {},
    waits: {},
    children: {},
    signals: {},
    signalIds: {},
    updates: {},
    patches: [],
    compensations: [],
  };
}

function openWork(state: RunState): OpenWork {
  return (state.open ??= emptyOpenWork());
}

/** A new run number under the same id: all but identity, attributes and position is as at the beginning. */
function beginAgain(state: RunState, run: number): void {
  const { id, type, sequence, startedSequence, parent, updatedAt, startedAt, steps, nowValues } = state;
  steps.clear();
  nowValues.length = 0;
  Object.assign(state, initialRunState(id, type), {
    sequence,
    startedSequence,
    parent,
    updatedAt,
    startedAt,
    steps,
    nowValues,
    run,
    startAwaited: true,
  } satisfies Partial<RunState>);
}

/**
 * Folds all events of one commit. Commits at or below `state.sequence` are skipped, so folding twice equals once.
 * `condition` is what the owner declared with it: whether the code waits for something outside of its process.
 */
export function evolveCommit(
  state: RunState,
  commit: EventPosition & {
    readonly events: readonly WorkflowEvent[];
    readonly condition?: RunCondition | null;
  },
): RunState {
  if (commit.sequence <= state.sequence) return state;
  for (const event of commit.events) evolve(state, event, commit);
  const { condition } = commit;
  if (condition === null || condition === undefined || state.driver !== "code") return state;
  if (state.status === "running" || state.status === "waiting")
    state.status = condition === "running" ? "running" : "waiting";
  return state;
}

export function evolve(state: RunState, event: WorkflowEvent, position: EventPosition): RunState {
  state.sequence = position.sequence;
  if (isClosed(state.status) && event.type !== "WorkflowReset") return state;
  const stuckBefore = state.status === "stuck";
  apply(state, event, position);
  state.updatedAt = position.at;
  // Any progress of its own shows that the run is not stuck any more; facts from outside do not.
  if (
    stuckBefore &&
    state.status === "stuck" &&
    event.type !== "WorkflowTurnFailed" &&
    !isOutsideEvent(event)
  ) {
    state.status = "running";
    state.error = null;
  }
  return state;
}

function apply(state: RunState, event: WorkflowEvent, position: EventPosition): void {
  switch (event.type) {
    case "WorkflowStarted": {
      if (state.startedSequence !== 0 && !state.startAwaited) return;
      const data = event.data;
      state.startAwaited = false;
      state.version = data.version;
      state.driver = data.driver;
      state.plan = data.plan ?? [];
      state.input = data.input ?? null;
      state.attributes = data.attributes ?? {};
      state.deadlineAt = data.timeoutMs === undefined ? null : position.at + data.timeoutMs;
      state.parent = data.parent ?? null;
      state.startedAt = position.at;
      state.startedSequence = position.sequence;
      state.message = "Workflow started";
      return;
    }
    case "WorkflowCompleted":
      state.output = event.data.output ?? null;
      return close(state, "completed", "Workflow completed", position);
    case "WorkflowFailed":
      state.error = event.data.error;
      return close(state, "failed", `Workflow failed: ${event.data.error.message}`, position);
    case "WorkflowTimedOut":
      return close(state, "timed_out", `Workflow timed out after ${event.data.timeoutMs} ms`, position);
    case "WorkflowCancelled":
      return close(state, "cancelled", withReason("Workflow cancelled", event.data.reason), position);
    case "WorkflowTerminated":
      return close(state, "terminated", withReason("Workflow terminated", event.data.reason), position);
    case "WorkflowCancelRequested":
      state.cancelRequested ??= { reason: event.data.reason ?? null };
      state.message = withReason("Cancel requested", event.data.reason);
      return;
    case "WorkflowContinuedAsNew":
      beginAgain(state, event.data.run);
      return;
    case "WorkflowReset":
      beginAgain(state, event.data.run);
      state.copying = event.data.partial === true;
      return;
    case "WorkflowForked":
      state.copying = event.data.partial === true;
      state.message = withReason(`Workflow forked from ${event.data.from}`, event.data.reason);
      return;
    case "HistoryCopied":
      state.copying = false;
      return;
    case "WorkflowMigrated":
      state.version = event.data.to;
      state.message = withReason(`Workflow migrated to version ${event.data.to}`, event.data.reason);
      return;
    case "WorkflowPaused":
      if (state.paused !== null) return;
      state.paused = { reason: event.data.reason ?? null, by: event.data.by ?? null, since: position.at };
      state.status = "paused";
      state.message = withReason("Workflow paused", event.data.reason);
      return;
    case "WorkflowResumed":
      if (state.paused === null) return;
      state.paused = null;
      state.status = "running";
      state.message = withReason("Workflow resumed", event.data.reason);
      return;
    case "HistoryLimitApproached":
      state.message = `History has ${event.data.commits} of ${event.data.limit} commits`;
      return;
    case "WorkflowTurnFailed":
      state.status = "stuck";
      state.error = event.data.error;
      state.message = `Workflow is stuck: ${event.data.error.message}`;
      return;
    case "StepScheduled": {
      const step = openStep(state, event.data);
      if (step === null) return;
      const { data } = event;
      step.kind = "task";
      step.status = "scheduled";
      step.attempt = data.attempt;
      step.token = data.token;
      step.nextAttemptAt = null;
      step.task = {
        queue: data.queue,
        priority: data.priority ?? 1,
        input: data.input ?? null,
        scheduledAt: position.at,
        scheduleToStartMs: data.scheduleToStartMs ?? null,
        startToCloseMs: data.startToCloseMs ?? null,
        heartbeatMs: data.heartbeatMs ?? null,
        retry: data.retry ?? null,
        worker: null,
      };
      state.message = `Step ${stepLabel(step)} waits in queue ${data.queue}`;
      return;
    }
    case "StepStarted": {
      const step = openStep(state, event.data);
      if (step === null) return;
      if (step.task !== null) step.task = { ...step.task, worker: event.data.worker ?? "" };
      step.status = "started";
      step.attempt = event.data.attempt;
      step.startedAt = position.at;
      step.nextAttemptAt = null;
      step.token = event.data.token ?? null;
      step.maxAttempts = event.data.maxAttempts ?? step.maxAttempts;
      state.message = `${titleOf(step)} started` + (step.attempt > 1 ? ` (attempt ${step.attempt})` : "");
      return;
    }
    case "StepCancelled": {
      const step = openStep(state, event.data);
      if (step === null) return;
      finish(step, "cancelled", step.attempt, position);
      state.message = `Step ${stepLabel(step)} cancelled`;
      return;
    }
    case "CompensationRegistered":
      openWork(state).compensations.push(stepKey(event.data.name, event.data.occurrence));
      return;
    case "CompensationStarted": {
      const step = openStep(state, event.data);
      if (step === null) return;
      remove(openWork(state).compensations, stepLabel(step));
      step.kind = "compensation";
      step.startedAt = position.at;
      state.message = `Compensation ${stepLabel(step)} started`;
      return;
    }
    case "CompensationCompleted":
    case "StepCompleted": {
      const step = openStep(state, event.data);
      if (step === null) return;
      finish(step, "completed", event.data.attempt, position);
      step.output = event.data.output ?? null;
      step.error = null;
      state.message = `${titleOf(step)} completed`;
      return;
    }
    case "StepFailed":
    case "CompensationFailed":
    case "StepTimedOut": {
      const step = openStep(state, event.data);
      if (step === null) return;
      finish(step, event.type === "StepTimedOut" ? "timed_out" : "failed", event.data.attempt, position);
      step.error = event.data.error;
      state.message = `${titleOf(step)} failed: ${event.data.error.message}`;
      return;
    }
    case "StepRetryScheduled": {
      const step = openStep(state, event.data);
      if (step === null) return;
      step.status = "retrying";
      step.attempt = event.data.attempt;
      step.error = event.data.error;
      step.nextAttemptAt = event.data.nextAttemptAt;
      state.message = `${titleOf(step)} failed, attempt ${event.data.attempt + 1} follows: ${event.data.error.message}`;
      return;
    }
    case "ProgressReported": {
      const { current, total, message } = event.data;
      state.progress = {
        current: current ?? state.progress.current,
        total: total ?? state.progress.total,
      };
      state.progressCount++;
      if (message !== undefined) state.message = message;
      return;
    }
    case "TimerStarted":
      openWork(state).timers[event.data.timer] = { startedAt: position.at, dueAt: event.data.dueAt };
      return;
    case "TimerFired":
    case "TimerCancelled":
      delete state.open?.timers[event.data.timer];
      return;
    case "SignalReceived": {
      const open = openWork(state);
      const { id, name } = event.data;
      if (id !== undefined) {
        if (Object.hasOwn(open.signalIds, id)) return;
        open.signalIds[id] = position.sequence;
      }
      const known = Object.hasOwn(open.signals, name) ? open.signals[name] : undefined;
      if (known === undefined) open.signals[name] = { received: 1, taken: 0 };
      else known.received++;
      state.message = `Signal ${name} received`;
      return;
    }
    case "WaitStarted": {
      const { wait, signal, dueAt } = event.data;
      openWork(state).waits[wait] = {
        startedAt: position.at,
        signal: signal ?? null,
        dueAt: dueAt ?? null,
      };
      if (signal !== undefined) state.message = `Waiting for signal ${signal}`;
      return;
    }
    case "WaitSatisfied": {
      const { open } = state;
      const signal = open?.waits[event.data.wait]?.signal ?? null;
      const known = signal === null ? undefined : open?.signals[signal];
      if (known !== undefined) known.taken++;
      delete open?.waits[event.data.wait];
      return;
    }
    case "WaitTimedOut":
    case "WaitCancelled":
      delete state.open?.waits[event.data.wait];
      return;
    case "UpdateAccepted": {
      const { id, name } = event.data;
      const { updates } = openWork(state);
      if (Object.hasOwn(updates, id)) return;
      updates[id] = { name, sequence: position.sequence, status: "accepted", output: null, error: null };
      state.message = `Update ${name} accepted`;
      return;
    }
    case "UpdateCompleted": {
      const { id, output, error } = event.data;
      const { updates } = openWork(state);
      const update = Object.hasOwn(updates, id) ? updates[id] : undefined;
      if (update?.status !== "accepted") return;
      update.status = error === undefined ? "completed" : "failed";
      update.output = output ?? null;
      update.error = error ?? null;
      state.message = `Update ${update.name} ${update.status}`;
      return;
    }
    case "ChildWorkflowStarted": {
      const { child, type, onClose } = event.data;
      openWork(state).children[child] = { type, startedAt: position.at, onClose, cancelRequested: false };
      state.message = `Child ${child} started`;
      return;
    }
    case "ChildWorkflowCancelRequested": {
      const { child } = event.data;
      const children = state.open?.children;
      const open = children !== undefined && Object.hasOwn(children, child) ? children[child] : undefined;
      if (children !== undefined && open !== undefined) children[child] = { ...open, cancelRequested: true };
      return;
    }
    case "ChildWorkflowClosed":
      delete state.open?.children[event.data.child];
      state.message = `Child ${event.data.child} ${event.data.status}`;
      return;
    case "AttributesUpserted":
      state.attributes = mergeAttributes(state.attributes, event.data.attributes);
      return;
    case "PatchRecorded": {
      const { patches } = openWork(state);
      if (!patches.includes(event.data.patch)) patches.push(event.data.patch);
      return;
    }
    case "ScheduleCreated":
    case "ScheduleUpdated":
    case "SchedulePaused":
    case "ScheduleResumed":
    case "ScheduleTriggered":
    case "ScheduleStartFailed":
    case "ScheduleDeleted":
      // Of schedules: `schedule-state.ts` folds them.
      return;
    case "SideEffectRecorded":
      if (event.data.kind === "now" && event.data.index === state.nowValues.length + 1) {
        state.nowValues.push(Number(event.data.value));
      }
      return;
  }
}

function close(state: RunState, status: RunStatus, message: string, position: EventPosition): void {
  state.status = status;
  state.message = message;
  state.closedAt = position.at;
  if (status !== "failed") state.error = null;
  // Nothing fires or is waited for any more; what a reader of a closed run asks for stays.
  if (state.open === null) return;
  state.open = { ...state.open, timers: {}, waits: {}, children: {}, compensations: [] };
}

function openStep(
  state: RunState,
  ref: { readonly name: string; readonly occurrence: number },
): StepState | null {
  const key = stepKey(ref.name, ref.occurrence);
  let step = state.steps.get(key);
  if (step === undefined) {
    step = {
      name: ref.name,
      occurrence: ref.occurrence,
      status: "started",
      kind: "step",
      attempt: 1,
      startedAt: null,
      completedAt: null,
      output: null,
      error: null,
      nextAttemptAt: null,
      token: null,
      maxAttempts: null,
      task: null,
    };
    state.steps.set(key, step);
  }
  return step.completedAt === null ? step : null;
}

function finish(step: StepState, status: StepStatus, attempt: number, position: EventPosition): void {
  step.status = status;
  step.attempt = attempt;
  step.completedAt = position.at;
  step.nextAttemptAt = null;
}

function titleOf(step: StepState): string {
  return `${step.kind === "compensation" ? "Compensation" : "Step"} ${stepLabel(step)}`;
}

function remove(keys: string[], key: string): void {
  const index = keys.indexOf(key);
  if (index !== -1) keys.splice(index, 1);
}

function stepLabel(step: StepState): string {
  return stepKey(step.name, step.occurrence);
}

function withReason(text: string, reason: string | undefined): string {
  return reason === undefined || reason === "" ? text : `${text}: ${reason}`;
}
