import type { WorkflowRow } from "@millrace/schemas";
import type { LoggedEvent } from "./compare-stream.ts";
import { groupBy } from "./group-by.ts";

/** What must be true of one run at the end. */
export interface ExpectedRun {
  readonly id: string;
  readonly type: string;
  /** Output of each step, by name, as computed by somebody else than the run itself. */
  readonly outputs: Readonly<Record<string, unknown>>;
}

export interface RunsCheck {
  /** Steps that the log records as completed. */
  readonly steps: number;
  /** What did not hold, one sentence each. */
  readonly problems: readonly string[];
}

/**
 * Every expected run, and no other, was started once and completed once; each of its steps was recorded once, with
 * the expected output, in the log and in the read model alike.
 */
export function checkRuns(
  expected: readonly ExpectedRun[],
  log: readonly LoggedEvent[],
  rows: readonly WorkflowRow[],
): RunsCheck {
  const problems: string[] = [];
  const histories = groupBy(log, ({ workflowId }) => workflowId);
  const rowsById = groupBy(rows, ({ id }) => id);
  const known = new Set(expected.map(({ id }) => id));
  for (const id of histories.keys())
    if (!known.has(id)) problems.push(`The log has a run ${id} that nobody started.`);
  for (const id of rowsById.keys())
    if (!known.has(id)) problems.push(`The read model has a run ${id} that nobody started.`);
  for (const run of expected) {
    problems.push(
      ...checkHistory(run, histories.get(run.id) ?? []),
      ...checkRows(run, rowsById.get(run.id) ?? []),
    );
  }
  return { steps: log.filter(({ type }) => type === "StepCompleted").length, problems };
}

function checkHistory({ id, outputs }: ExpectedRun, history: readonly LoggedEvent[]): string[] {
  const problems: string[] = [];
  const times = (type: string): number => history.filter((event) => event.type === type).length;
  for (const type of ["WorkflowStarted", "WorkflowCompleted"]) {
    if (times(type) !== 1) problems.push(`The log has ${times(type)} ${type} of ${id}, not 1.`);
  }
  const recorded = history
    .filter(({ type }) => type === "StepCompleted")
    .map(({ data }) => JSON.parse(data) as StepData);
  for (const [name, output] of Object.entries(outputs)) {
    const ofStep = recorded.filter((step) => step.name === name);
    if (ofStep.length !== 1)
      problems.push(`The log has step ${name} of ${id} recorded ${ofStep.length} times, not once.`);
    for (const step of ofStep)
      problems.push(...checkOutput(`The log's step ${name} of ${id}`, step.output, output));
  }
  for (const { name } of recorded) {
    if (!Object.hasOwn(outputs, name))
      problems.push(`The log has a step ${name} of ${id} that is not in its plan.`);
  }
  return problems;
}

interface StepData {
  readonly name: string;
  readonly output?: unknown;
}

function checkRows({ id, type, outputs }: ExpectedRun, rows: readonly WorkflowRow[]): string[] {
  const [row] = rows;
  if (row === undefined || rows.length > 1)
    return [`The read model has ${rows.length} rows of ${id}, not 1.`];
  const problems: string[] = [];
  const planned = Object.keys(outputs).length;
  if (row.type !== type) problems.push(`The read model has ${id} as a ${row.type}, not as a ${type}.`);
  if (row.status !== "completed")
    problems.push(`The read model has ${id} as ${row.status}, not as completed.`);
  if (row.currentStep !== planned || row.totalSteps !== planned) {
    problems.push(
      `The read model has ${id} at step ${row.currentStep} of ${row.totalSteps}, not at ${planned} of ${planned}.`,
    );
  }
  if (row.steps.length !== planned)
    problems.push(`The read model has ${row.steps.length} steps of ${id}, not ${planned}.`);
  for (const [name, output] of Object.entries(outputs)) {
    const step = row.steps.find((candidate) => candidate.name === name);
    if (step?.status !== "completed")
      problems.push(`The read model has step ${name} of ${id} as ${step?.status ?? "missing"}.`);
    else problems.push(...checkOutput(`The read model's step ${name} of ${id}`, step.output, output));
  }
  return problems;
}

function checkOutput(what: string, actual: unknown, expected: unknown): string[] {
  const [found, wanted] = [JSON.stringify(actual), JSON.stringify(expected)];
  return found === wanted ? [] : [`${what} is ${found}; the independent computation gives ${wanted}.`];
}
