import type { StoredCommit } from "@millrace/event-log";
import { MillraceError } from "@millrace/schemas";
import { checkReplay, type Divergence } from "../check-replay.ts";
import type { AnyWorkflowDefinition } from "../definition.ts";
import { commitsOf, recordHistory, type RecordedHistory } from "../recorded-history.ts";

export interface ReplayReport {
  readonly workflowId: string;
  readonly type: string;
  /** Of the code. */
  readonly version: string;
  readonly ok: boolean;
  /** Null when the code follows the history to its end. */
  readonly divergence: Divergence | null;
}

/**
 * Replays a history on code: no step runs, nothing is written. Each run number of it (before and after a continue-as-new
 * or a reset) is replayed. Clocks, randomness and the network are refused to the code. Rejects only when the history
 * cannot be read (`commit_malformed`, `event_type_unknown`) or is of another type (`invalid_request`).
 *
 * @example
 * const report = await replayHistory(order, JSON.parse(await readFile("order-42.json", "utf8")));
 * assert(report.ok, report.divergence?.message);
 */
export async function replayHistory(
  definition: AnyWorkflowDefinition,
  history: RecordedHistory | readonly StoredCommit[],
): Promise<ReplayReport> {
  const recorded = isStored(history) ? recordHistory(history) : history;
  const { workflowId, type } = recorded;
  if (type !== definition.type) {
    throw new MillraceError(
      "invalid_request",
      `The history of ${workflowId} is of workflow type ${type}, the code of ${definition.type}. Replay it on code of its type.`,
    );
  }
  const divergence = await checkReplay(definition, { workflowId, type }, commitsOf(recorded));
  return { workflowId, type, version: definition.version, ok: divergence === null, divergence };
}

/**
 * Replays many histories, each on the definition of its type: of its own version when that is among them, else on the
 * last one given. Rejects with `non_determinism`, naming every divergence, when one does not follow; for CI.
 */
export async function replayHistories(
  definitions: readonly AnyWorkflowDefinition[],
  histories: Iterable<RecordedHistory | readonly StoredCommit[]>,
): Promise<ReplayReport[]> {
  const reports: ReplayReport[] = [];
  for (const history of histories) {
    const recorded = isStored(history) ? recordHistory(history) : history;
    const ofType = definitions.filter(({ type }) => type === recorded.type);
    const version = versionOf(recorded);
    const definition = ofType.find((each) => each.version === version) ?? ofType.at(-1);
    if (definition === undefined) {
      throw new MillraceError(
        "workflow_type_unknown",
        `The history of ${recorded.workflowId} is of workflow type ${recorded.type}, of which no definition is given.`,
      );
    }
    reports.push(await replayHistory(definition, recorded));
  }
  const diverged = reports.filter(({ ok }) => !ok);
  if (diverged.length > 0) {
    throw new MillraceError(
      "non_determinism",
      `${diverged.length} of ${reports.length} histories diverge:\n` +
        diverged.map(({ divergence }) => divergence?.message).join("\n"),
      { details: { diverged: diverged.map(({ workflowId }) => workflowId) } },
    );
  }
  return reports;
}

/** What the run was on at the end. */
function versionOf({ events }: RecordedHistory): string | null {
  const last = events.findLast(({ type }) => type === "WorkflowStarted" || type === "WorkflowMigrated");
  const data = (last?.data ?? {}) as { readonly version?: string; readonly to?: string };
  return data.to ?? data.version ?? null;
}

function isStored(history: RecordedHistory | readonly StoredCommit[]): history is readonly StoredCommit[] {
  return Array.isArray(history);
}
