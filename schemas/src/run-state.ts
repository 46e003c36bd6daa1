/**
 * The state of one run, folded from its history. Owns: what every reader (engine, projector, stream server) takes
 * a run to be. Does not own: what may happen next (that is `decide` in the engine).
 *
 * I1 `evolve` is total: every known event on every state gives a state; what makes no sense there is ignored.
 * I2 `evolve` is deterministic: no clock, no randomness, no environment; times come from the commit.
 * I3 A closed run never opens again.
 * I4 A final step never changes again: its first outcome stands.
 *
 * `evolve` folds in place and returns the same object: a copy per event would make a run with 10,000 steps
 * quadratic. Whoever needs the old state keeps `toRow(state)`.
 */
import type { ErrorInfo, EventData, WorkflowEvent } from "./events.ts";
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

export type StepStatus = "started" | "retrying" | "completed" | "failed" | "timed_out";

export interface StepState {
  readonly name: string;
  readonly occurrence: number;
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
  attributes: Readonly<Record<string, string>>;
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
  /** Sequence of the first commit; 0 before it. */
  startedSequence: number;
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
  };
}

/** Folds all events of one commit. Commits at or below `state.sequence` are skipped, so folding twice equals once. */
export function evolveCommit(
  state: RunState,
  commit: EventPosition & { readonly events: readonly WorkflowEvent[] },
): RunState {
  if (commit.sequence <= state.sequence) return state;
  for (const event of commit.events) evolve(state, event, commit);
  return state;
}

export function evolve(state: RunState, event: WorkflowEvent, position: EventPosition): RunState {
  state.sequence = position.sequence;
  if (isClosed(state.status)) return state;
  const stuckBefore = state.status === "stuck";
  apply(state, event, position);
  state.updatedAt = position.at;
  // Any progress of its own shows that the run is not stuck any more; facts from outside do not.
  if (
    stuckBefore &&
    state.status === "stuck" &&
    event.type !== "WorkflowTurnFailed" &&
    event.type !== "WorkflowCancelRequested"
  ) {
    state.status = "running";
    state.error = null;
  }
  return state;
}

function apply(state: RunState, event: WorkflowEvent, position: EventPosition): void {
  switch (event.type) {
    case "WorkflowStarted": {
      if (state.startedSequence !== 0) return;
      const data = event.data;
      state.version = data.version;
      state.driver = data.driver;
      state.plan = data.plan ?? [];
      state.input = data.input ?? null;
      state.attributes = data.attributes ?? {};
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
    case "WorkflowCancelled":
      return close(state, "cancelled", withReason("Workflow cancelled", event.data.reason), position);
    case "WorkflowTerminated":
      return close(state, "terminated", withReason("Workflow terminated", event.data.reason), position);
    case "WorkflowCancelRequested":
      state.cancelRequested ??= { reason: event.data.reason ?? null };
      state.message = withReason("Cancel requested", event.data.reason);
      return;
    case "WorkflowTurnFailed":
      state.status = "stuck";
      state.error = event.data.error;
      state.message = `Workflow is stuck: ${event.data.error.message}`;
      return;
    case "StepStarted": {
      const step = openStep(state, event.data);
      if (step === null) return;
      step.status = "started";
      step.attempt = event.data.attempt;
      step.startedAt = position.at;
      step.nextAttemptAt = null;
      step.token = event.data.token ?? null;
      step.maxAttempts = event.data.maxAttempts ?? step.maxAttempts;
      state.message =
        `Step ${stepLabel(step)} started` + (step.attempt > 1 ? ` (attempt ${step.attempt})` : "");
      return;
    }
    case "StepCompleted": {
      const step = openStep(state, event.data);
      if (step === null) return;
      finish(step, "completed", event.data.attempt, position);
      step.output = event.data.output ?? null;
      step.error = null;
      state.message = `Step ${stepLabel(step)} completed`;
      return;
    }
    case "StepFailed":
    case "StepTimedOut": {
      const step = openStep(state, event.data);
      if (step === null) return;
      finish(step, event.type === "StepFailed" ? "failed" : "timed_out", event.data.attempt, position);
      step.error = event.data.error;
      state.message = `Step ${stepLabel(step)} failed: ${event.data.error.message}`;
      return;
    }
    case "StepRetryScheduled": {
      const step = openStep(state, event.data);
      if (step === null) return;
      step.status = "retrying";
      step.attempt = event.data.attempt;
      step.error = event.data.error;
      step.nextAttemptAt = event.data.nextAttemptAt;
      state.message = `Step ${stepLabel(step)} failed, attempt ${event.data.attempt + 1} follows: ${event.data.error.message}`;
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
}

function openStep(
  state: RunState,
  ref: EventData<"StepCompleted"> | { name: string; occurrence: number },
): StepState | null {
  const key = stepKey(ref.name, ref.occurrence);
  let step = state.steps.get(key);
  if (step === undefined) {
    step = {
      name: ref.name,
      occurrence: ref.occurrence,
      status: "started",
      attempt: 1,
      startedAt: null,
      completedAt: null,
      output: null,
      error: null,
      nextAttemptAt: null,
      token: null,
      maxAttempts: null,
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

function stepLabel(step: StepState): string {
  return stepKey(step.name, step.occurrence);
}

function withReason(text: string, reason: string | undefined): string {
  return reason === undefined || reason === "" ? text : `${text}: ${reason}`;
}
