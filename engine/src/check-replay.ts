/**
 * Does this code follow that history? What `@millrace/engine/testing`, a CI job and the dry run of a migration ask.
 *
 * Stricter than the engine: code that ends before what is recorded is told, too, and every run number is replayed, not
 * only the present one.
 */
import { errorCodeOf, MillraceError, type ErrorCode } from "@millrace/schemas";
import { parseInput, type AnyWorkflowDefinition } from "./definition.ts";
import { holdGuard } from "./determinism-guard.ts";
import { toErrorInfo, type NonDeterminism } from "./failures.ts";
import { presentRun, replay, type HistoryCommit } from "./replay.ts";

/** Where code and history part. */
export interface Divergence {
  /** `non_determinism`, `non_deterministic_call`, `invalid_input` (the code's schema refuses the recorded input), or `internal`. */
  readonly code: ErrorCode;
  readonly message: string;
  /** Which run number, from 1. */
  readonly run: number;
  /** Of the commit; null when the code failed without one. */
  readonly sequence: number | null;
  /** Type of the recorded event that the code did not follow; null: none. */
  readonly recorded: string | null;
  /** Step, timer, wait, child, update or patch that the recorded event is about; null: none. */
  readonly subject: string | null;
  /** What the code did instead; null: nothing. */
  readonly decided: string | null;
}

/** Null: the code follows the history to its end. Never rejects. */
export async function checkReplay(
  definition: AnyWorkflowDefinition,
  run: { readonly workflowId: string; readonly type: string },
  history: readonly HistoryCommit[],
  options: { readonly presentOnly?: boolean } = {},
): Promise<Divergence | null> {
  const parts = options.presentOnly === true ? [history] : byRunNumber(history);
  const release = holdGuard();
  try {
    for (const part of parts) {
      const divergence = await checkRunNumber(definition, run, part);
      if (divergence !== null) return divergence;
    }
    return null;
  } finally {
    release();
  }
}

async function checkRunNumber(
  definition: AnyWorkflowDefinition,
  { workflowId, type }: { readonly workflowId: string; readonly type: string },
  history: readonly HistoryCommit[],
): Promise<Divergence | null> {
  const present = presentRun(workflowId, type, history);
  const { state } = present;
  const { run } = state;
  if (present.start === null) return null;
  let stray: Error | null = null;
  try {
    let input: unknown;
    try {
      input = await parseInput(definition, state.input);
    } catch (error) {
      // It was refused then, too: no code ever ran.
      if (state.status === "failed" && state.error?.code === "invalid_input") return null;
      throw error;
    }
    const last = history.at(-1)?.at ?? 0;
    const activation = await replay(present, {
      definition,
      input,
      now: () => last,
      guard: true,
      onStray: (_activation, error) => (stray ??= error),
    });
    if (activation.unasked !== null) return divergenceOf(activation.unasked, run);
    if (stray !== null) return divergenceOf(stray, run);
    return null;
  } catch (error) {
    return divergenceOf(error, run);
  }
}

function divergenceOf(error: unknown, run: number): Divergence {
  const { message, code } = toErrorInfo(error);
  const details: Partial<NonDeterminism> = error instanceof MillraceError ? error.details : {};
  return {
    code: errorCodeOf(code),
    message,
    run,
    sequence: details.sequence ?? null,
    recorded: details.recorded ?? null,
    subject: details.step ?? details.subject ?? null,
    decided: details.decided ?? null,
  };
}

/** The history as it stood at the end of each run number, without the event that ended it. */
function byRunNumber(history: readonly HistoryCommit[]): HistoryCommit[][] {
  const parts: HistoryCommit[][] = [];
  for (const [index, commit] of history.entries()) {
    const end = commit.events.findIndex(
      ({ type }) => type === "WorkflowContinuedAsNew" || type === "WorkflowReset",
    );
    if (end === -1) continue;
    parts.push([...history.slice(0, index), { ...commit, events: commit.events.slice(0, end) }]);
  }
  return [...parts, [...history]];
}
