/** How a folded run stands in the tables, and back. */
import {
  attributeText,
  progressOf,
  stepKey,
  toRow,
  type AttributeValue,
  type RunState,
  type StepState,
} from "@millrace/schemas";
import type { FoldedRun } from "../core/folded-run.ts";
import type { HeldAttribute } from "./attribute-history.ts";
import {
  stillHolds,
  type AttributesTable,
  type StartsTable,
  type StepsTable,
  type WorkflowsTable,
} from "./tables.ts";

/** A run's row together with what it was started with. */
export type RunRecord = WorkflowsTable & StartsTable;

/** What most runs do not have: kept as one text, so that it costs them nothing. */
type FoldState = Pick<
  RunState,
  | "progressCount"
  | "nowValues"
  | "cancelRequested"
  | "run"
  | "deadlineAt"
  | "parent"
  | "paused"
  | "startAwaited"
  | "copying"
  | "open"
>;

export function toWorkflowRecord(folded: FoldedRun): WorkflowsTable {
  const { state } = folded;
  const { currentStep, totalSteps } = progressOf(state);
  return {
    run: folded.run,
    id: state.id,
    type: state.type,
    version: state.version,
    status: state.status,
    driver: state.driver,
    current_step: currentStep,
    total_steps: totalSteps,
    message: state.message,
    output: toJson(state.output),
    error: toJson(state.error),
    attributes: JSON.stringify(state.attributes),
    started_at: state.startedAt,
    updated_at: state.updatedAt,
    closed_at: state.closedAt,
    sequence: state.sequence,
    started_sequence: state.startedSequence,
    progress_current: state.progress.current,
    progress_total: state.progress.total,
    fold_state: toFoldState(state),
    quarantined_sequence: folded.quarantinedSequence,
  };
}

export function toStartRecord({ run, state }: FoldedRun): StartsTable {
  return { run, input: JSON.stringify(state.input), plan: JSON.stringify(state.plan) };
}

export function toStepRecord(run: number, position: number, step: StepState): StepsTable {
  return {
    run,
    position,
    name: step.name,
    occurrence: step.occurrence,
    status: step.status,
    attempt: step.attempt,
    started_at: step.startedAt,
    completed_at: step.completedAt,
    output: toJson(step.output),
    error: toJson(step.error),
    next_attempt_at: step.nextAttemptAt,
    token: step.token,
    max_attempts: step.maxAttempts,
    kind: step.kind,
    task: toJson(step.task),
  };
}

/** The state as it was when the records were written; `steps` in the order of their positions. */
export function toRunState(record: RunRecord, steps: readonly StepsTable[]): RunState {
  const fold = record.fold_state === null ? initialFoldState() : (JSON.parse(record.fold_state) as FoldState);
  return {
    id: record.id,
    type: record.type,
    version: record.version,
    status: record.status,
    driver: record.driver,
    plan: JSON.parse(record.plan) as string[],
    input: JSON.parse(record.input),
    output: fromJson(record.output),
    error: fromJson(record.error) as RunState["error"],
    attributes: JSON.parse(record.attributes) as RunState["attributes"],
    message: record.message,
    steps: new Map(steps.map((step) => [stepKey(step.name, step.occurrence), toStepState(step)])),
    progress: { current: record.progress_current, total: record.progress_total },
    ...fold,
    startedAt: record.started_at,
    updatedAt: record.updated_at,
    closedAt: record.closed_at,
    sequence: record.sequence,
    startedSequence: record.started_sequence,
  };
}

/** The public row of a stored run. */
export function rowOf({
  record,
  steps,
}: {
  readonly record: RunRecord;
  readonly steps: readonly StepsTable[];
}) {
  return toRow(toRunState(record, steps));
}

/** Numbers apart from texts, since ranges are over them. */
export function toAttributeRecord(
  run: number,
  key: string,
  value: AttributeValue,
  since: number,
): AttributesTable {
  const number = typeof value === "number" ? value : null;
  return { run, key, text: attributeText(value), number, since, until: stillHolds };
}

export function toFoldedRun(
  record: RunRecord,
  steps: readonly StepsTable[],
  attributes: readonly HeldAttribute[],
): FoldedRun {
  const state = toRunState(record, steps);
  let bytes = record.input.length + record.plan.length;
  for (const step of steps)
    bytes += step.name.length + (step.output?.length ?? 0) + (step.error?.length ?? 0);
  return {
    run: record.run,
    state,
    positions: new Map([...state.steps.keys()].map((key, position) => [key, position])),
    quarantinedSequence: record.quarantined_sequence,
    storedStart: record.started_sequence,
    changedSteps: new Set(),
    attributes: Object.fromEntries(attributes.map(({ key, text, number }) => [key, number ?? text])),
    attributeChanges: [],
    storedWaits: null,
    waitsChanged: false,
    stepsReplaced: false,
    bytes,
  };
}

function toStepState(record: StepsTable): StepState {
  return {
    name: record.name,
    occurrence: record.occurrence,
    status: record.status,
    attempt: record.attempt,
    startedAt: record.started_at,
    completedAt: record.completed_at,
    output: fromJson(record.output),
    error: fromJson(record.error) as StepState["error"],
    nextAttemptAt: record.next_attempt_at,
    token: record.token,
    maxAttempts: record.max_attempts,
    kind: record.kind,
    task: fromJson(record.task) as StepState["task"],
  };
}

function toFoldState(state: RunState): string | null {
  const { progressCount, nowValues, cancelRequested, run, deadlineAt, parent, paused, open } = state;
  const { startAwaited, copying } = state;
  const initial =
    progressCount === 0 &&
    nowValues.length === 0 &&
    cancelRequested === null &&
    run === 1 &&
    deadlineAt === null &&
    parent === null &&
    paused === null &&
    open === null &&
    !startAwaited &&
    !copying;
  if (initial) return null;
  return JSON.stringify({
    progressCount,
    nowValues,
    cancelRequested,
    run,
    deadlineAt,
    parent,
    paused,
    startAwaited,
    copying,
    open,
  } satisfies FoldState);
}

function initialFoldState(): FoldState {
  return {
    progressCount: 0,
    nowValues: [],
    cancelRequested: null,
    run: 1,
    deadlineAt: null,
    parent: null,
    paused: null,
    startAwaited: false,
    copying: false,
    open: null,
  };
}

function toJson(value: unknown): string | null {
  return value === null ? null : JSON.stringify(value);
}

function fromJson(text: string | null): unknown {
  return text === null ? null : JSON.parse(text);
}
