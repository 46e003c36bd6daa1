import type { Attributes } from "./attributes.ts";
import type { ErrorInfo } from "./events.ts";
import { waitsOf, type Wait } from "./waits.ts";
import { isClosed, type RunState, type RunStatus, type StepStatus } from "./run-state.ts";

/** A step as people see it. Times are ISO 8601 with milliseconds, UTC. */
export interface StepRow {
  readonly name: string;
  readonly occurrence: number;
  readonly status: StepStatus;
  readonly attempt: number;
  readonly startedAt: string | null;
  readonly completedAt: string | null;
  readonly output: unknown;
  readonly error: ErrorInfo | null;
}

/** What an open run waits for. Times are ISO 8601; null: not known, or none. */
export type WaitRow = Omit<Wait, "since" | "due"> & {
  readonly since: string | null;
  readonly due: string | null;
};

/** A run as people see it: the answer of `GET /v1/workflows/{id}` and the row of `shape: "state"`. */
export interface WorkflowRow {
  readonly id: string;
  readonly type: string;
  readonly version: string;
  /** Counts how often it was continued as new or reset, from 1. */
  readonly run: number;
  readonly driver: RunState["driver"];
  readonly status: RunStatus;
  /** Who holds it since when; null unless it is held. */
  readonly paused: {
    readonly reason: string | null;
    readonly by: string | null;
    readonly since: string;
  } | null;
  /** Somebody asked it to end, and it has not yet. */
  readonly cancelRequested: boolean;
  /** A reset or fork has not brought its whole history yet: nobody goes on with it. */
  readonly copying: boolean;
  /** The planned step names. */
  readonly plan: readonly string[];
  readonly currentStep: number;
  readonly totalSteps: number;
  readonly message: string;
  readonly input: unknown;
  readonly output: unknown;
  readonly error: ErrorInfo | null;
  readonly attributes: Attributes;
  readonly startedAt: string;
  readonly updatedAt: string;
  readonly closedAt: string | null;
  /** Sequence of the last commit that is in this row. */
  readonly sequence: number;
  readonly steps: readonly StepRow[];
  /** Longest waiting first, at most `limits.rowWaits`. Empty when it is closed, or its code runs. */
  readonly waits: readonly WaitRow[];
}

/** The seed's plain update, field names as in the record. */
export interface WorkflowUpdate {
  readonly workflow_id: string;
  readonly status: RunStatus;
  readonly current_step: number;
  readonly total_steps: number;
  readonly message: string;
  readonly timestamp: string;
  readonly sequence: number;
}

/** Milliseconds since 1970 as ISO 8601 with milliseconds, UTC. */
export function isoTime(ms: number): string {
  return new Date(ms).toISOString();
}

/**
 * Steps begun and steps planned. The number begun counts distinct steps (name and occurrence); the total is the
 * length of the plan or the most seen so far. `ctx.progress` overrides both; at completion they are equal.
 */
export function progressOf(state: RunState): { currentStep: number; totalSteps: number } {
  const begun = state.steps.size;
  const total = state.progress.total ?? Math.max(state.plan.length, begun, state.progress.current ?? 0);
  if (state.status === "completed") return { currentStep: total, totalSteps: total };
  return { currentStep: state.progress.current ?? begun, totalSteps: total };
}

export function toRow(state: RunState): WorkflowRow {
  const steps: StepRow[] = [];
  for (const step of state.steps.values()) {
    steps.push({
      name: step.name,
      occurrence: step.occurrence,
      status: step.status,
      attempt: step.attempt,
      startedAt: step.startedAt === null ? null : isoTime(step.startedAt),
      completedAt: step.completedAt === null ? null : isoTime(step.completedAt),
      output: step.output,
      error: step.error,
    });
  }
  return {
    id: state.id,
    type: state.type,
    version: state.version,
    run: state.run,
    driver: state.driver,
    status: state.status,
    paused: state.paused === null ? null : { ...state.paused, since: isoTime(state.paused.since) },
    cancelRequested: state.cancelRequested !== null && !isClosed(state.status),
    copying: state.copying,
    plan: state.plan,
    ...progressOf(state),
    message: state.message,
    input: state.input,
    output: state.output,
    error: state.error,
    attributes: state.attributes,
    startedAt: isoTime(state.startedAt),
    updatedAt: isoTime(state.updatedAt),
    closedAt: state.closedAt === null ? null : isoTime(state.closedAt),
    sequence: state.sequence,
    steps,
    waits: waitsOf(state).map((wait) => ({
      ...wait,
      since: wait.since === null ? null : isoTime(wait.since),
      due: wait.due === null ? null : isoTime(wait.due),
    })),
  };
}

export function toUpdate(state: RunState): WorkflowUpdate {
  const { currentStep, totalSteps } = progressOf(state);
  return {
    workflow_id: state.id,
    status: state.status,
    current_step: currentStep,
    total_steps: totalSteps,
    message: state.message,
    timestamp: isoTime(state.updatedAt),
    sequence: state.sequence,
  };
}

/** True when nothing more will come: the run is closed. */
export function isFinalRow(row: Pick<WorkflowRow, "status">): boolean {
  return isClosed(row.status);
}
