import { assertWorkflowType, MillraceError, parseStepRef } from "@millrace/schemas";
import type { StandardSchemaV1 } from "@standard-schema/spec";
import type { WorkflowContext } from "./context.ts";

export interface WorkflowOptions<Input> {
  /** Subject token: `[A-Za-z0-9_-]{1,64}`. */
  readonly type: string;
  /** A run stays on the version that it started with. Default "1". */
  readonly version?: string;
  /** Any Standard Schema (zod, valibot, arktype): checked at start, and what the code is given is its output. */
  readonly input?: StandardSchemaV1<unknown, Input>;
  /** Planned step names: gives `totalSteps` for progress. */
  readonly steps?: readonly string[];
  /** Time limit of a run, milliseconds; it is closed as `timed_out` then. Default: none. */
  readonly timeoutMs?: number;
  /**
   * What each signal carries: any Standard Schema that validates synchronously. A sender that has the definition is
   * refused; a payload that does not fit and comes in another way is ignored by the run.
   */
  readonly signals?: Readonly<Record<string, StandardSchemaV1>>;
}

/** A workflow: its type, its version and its code. */
export interface WorkflowDefinition<Input = unknown, Output = unknown> {
  readonly type: string;
  readonly version: string;
  readonly input: StandardSchemaV1<unknown, Input> | null;
  readonly steps: readonly string[];
  /** Milliseconds; null: none. */
  readonly timeoutMs: number | null;
  readonly signals: Readonly<Record<string, StandardSchemaV1>>;
  readonly run: (ctx: WorkflowContext, input: Input) => Promise<Output>;
}

/** A definition whose input and output types do not matter to the holder. */
// `never` in the parameter position accepts definitions of every input type.
export type AnyWorkflowDefinition = Omit<WorkflowDefinition, "run" | "input"> & {
  readonly input: StandardSchemaV1 | null;
  readonly run: (ctx: WorkflowContext, input: never) => Promise<unknown>;
};

/**
 * Defines a workflow. `run` must await nothing but `ctx` calls (and combinations of them: `Promise.all`, `race`):
 * it is run again from the start whenever the run is rebuilt, and recorded outcomes are handed to it.
 * Throws `invalid_id` for a type or step name that breaks the rules.
 *
 * @example
 * const greet = defineWorkflow({ type: "greet" }, async (ctx, input: { name: string }) =>
 *   ctx.step("say", () => `Hello ${input.name}`));
 */
export function defineWorkflow<Input = unknown, Output = unknown>(
  options: WorkflowOptions<Input>,
  run: (ctx: WorkflowContext, input: Input) => Promise<Output>,
): WorkflowDefinition<Input, Output> {
  assertWorkflowType(options.type);
  for (const step of options.steps ?? []) parseStepRef(step);
  const { timeoutMs } = options;
  if (timeoutMs !== undefined && !(Number.isFinite(timeoutMs) && timeoutMs > 0)) {
    throw new RangeError(
      `Workflow type ${options.type} has a time limit of ${timeoutMs} ms. Give a number of milliseconds, or leave it out.`,
    );
  }
  return {
    type: options.type,
    version: options.version ?? "1",
    input: options.input ?? null,
    steps: options.steps ?? [],
    timeoutMs: timeoutMs ?? null,
    signals: options.signals ?? {},
    run,
  };
}

/**
 * What is wrong with a signal's payload for this definition; null when it fits, or when nothing is said of the signal.
 */
export function signalIssue(
  definition: AnyWorkflowDefinition,
  name: string,
  payload: unknown,
): string | null {
  const schema = Object.hasOwn(definition.signals, name) ? definition.signals[name] : undefined;
  if (schema === undefined) return null;
  const result = schema["~standard"].validate(payload);
  if (result instanceof Promise) return "its schema does not validate synchronously";
  return result.issues === undefined ? null : issuesOf(result.issues).join("; ");
}

/** Checks an input against a definition's schema; `invalid_input` names the path. Gives the schema's output. */
export async function parseInput(definition: AnyWorkflowDefinition, input: unknown): Promise<unknown> {
  if (definition.input === null) return input;
  const result = await definition.input["~standard"].validate(input);
  if (result.issues === undefined) return result.value;
  const shown = issuesOf(result.issues);
  throw new MillraceError(
    "invalid_input",
    `Input of workflow type ${definition.type} refused: ${shown.join("; ")}. Send an input that fits its schema.`,
    { details: { type: definition.type, issues: shown } },
  );
}

/** The first few, with their paths. */
function issuesOf(issues: readonly StandardSchemaV1.Issue[]): string[] {
  return issues.slice(0, 3).map((issue) => {
    const path = (issue.path ?? [])
      .map((part) => String(typeof part === "object" ? part.key : part))
      .join(".");
    return path === "" ? issue.message : `${path}: ${issue.message}`;
  });
}

/** `invalid_input` when the payload does not fit what the definition says of the signal. */
export function assertSignal(definition: AnyWorkflowDefinition, name: string, payload: unknown): void {
  const issue = signalIssue(definition, name, payload ?? null);
  if (issue === null) return;
  throw new MillraceError(
    "invalid_input",
    `Signal ${name} to workflow type ${definition.type} refused: ${issue}. Send a payload that fits its schema.`,
    { details: { type: definition.type, signal: name } },
  );
}
