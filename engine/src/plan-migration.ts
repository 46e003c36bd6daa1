/** What would happen if open runs went on with the code of another version. Changes nothing. */
import { isClosed } from "@millrace/schemas";
import { checkReplay, type Divergence } from "./check-replay.ts";
import type { AnyWorkflowDefinition } from "./definition.ts";
import { presentRun, type HistoryCommit } from "./replay.ts";

export interface MigrationPlan {
  readonly workflowId: string;
  /** Version that the run is on; null when there is no such run. */
  readonly from: string | null;
  readonly to: string;
  /**
   * `fits`: its whole history replays on the new code. `diverges`: it does not, and the run would be stuck there.
   * `same`: it is on that version. `closed`: it is over. `external`: a driver moves it, not code. `other_type`: the
   * definition is of another workflow type. `not_found`: there is no such run.
   */
  readonly outcome: "fits" | "diverges" | "same" | "closed" | "external" | "other_type" | "not_found";
  /** Null unless it diverges. */
  readonly divergence: Divergence | null;
}

/** Where histories come from: the event log is one. */
export interface HistorySource {
  load(id: string): Promise<readonly (HistoryCommit & { readonly type: string })[]>;
}

/**
 * Replays the stored history of each run on the code of `definition` and says where the first divergence is. Nothing is
 * written. A run may move on before it is migrated: its owner checks again and keeps it, visibly stuck, if it does not fit.
 *
 * @example
 * for (const plan of await planMigration(millrace.log, orderV4, ["order-41", "order-42"]))
 *   if (plan.outcome === "diverges") console.log(plan.workflowId, plan.divergence?.message);
 */
export async function planMigration(
  histories: HistorySource,
  definition: AnyWorkflowDefinition,
  ids: readonly string[],
): Promise<MigrationPlan[]> {
  const plans: MigrationPlan[] = [];
  for (const id of ids) plans.push(await planOne(histories, definition, id));
  return plans;
}

async function planOne(
  histories: HistorySource,
  definition: AnyWorkflowDefinition,
  workflowId: string,
): Promise<MigrationPlan> {
  const history = await histories.load(workflowId);
  const type = history[0]?.type;
  const to = definition.version;
  const base = { workflowId, to, divergence: null };
  if (type === undefined) return { ...base, from: null, outcome: "not_found" };
  const { state } = presentRun(workflowId, type, history);
  const of = { ...base, from: state.version };
  if (type !== definition.type) return { ...of, outcome: "other_type" };
  if (isClosed(state.status)) return { ...of, outcome: "closed" };
  if (state.driver !== "code") return { ...of, outcome: "external" };
  if (state.version === to) return { ...of, outcome: "same" };
  // Earlier run numbers are over: no code is run over them any more.
  const divergence = await checkReplay(definition, { workflowId, type }, history, { presentOnly: true });
  return { ...of, outcome: divergence === null ? "fits" : "diverges", divergence };
}
