import {
  planMigration,
  type AnyWorkflowDefinition,
  type HistorySource,
  type MigrationPlan,
} from "@millrace/engine";
import {
  isClosed,
  isMillraceError,
  MillraceError,
  type Page,
  type WorkflowEvent,
  type WorkflowRow,
} from "@millrace/schemas";
import { exitCodes, type ExitCode } from "../core/exit-code.ts";
import { loadWorkflows } from "../load-workflows.ts";
import type { Output } from "../output.ts";
import type { ServerApi } from "../server-api.ts";
import { readHistory } from "./read-history.ts";

const fine: ReadonlySet<MigrationPlan["outcome"]> = new Set<MigrationPlan["outcome"]>(["fits", "same"]);

/** Says for each run whether its history replays on the new code, and where it does not. Ends with `refused` then. */
export async function planMigrations(
  api: ServerApi,
  output: Output,
  ids: readonly string[],
  version: string,
  files: readonly string[],
): Promise<ExitCode> {
  const definitions = (await loadWorkflows(files)).filter((each) => each.version === version);
  const histories: HistorySource = { load: (id) => historyOf(api, id) };
  let ok = true;
  for (const id of ids) {
    const definition = definitionFor(definitions, await typeOf(api, id), version);
    const [plan] = await planMigration(histories, definition, [id]);
    if (plan === undefined) throw new Error(`No plan for ${id}.`);
    ok &&= fine.has(plan.outcome);
    output.value(plan);
    output.text(
      `${id}  ${plan.outcome}${plan.divergence === null ? "" : ` at run number ${plan.divergence.run}: ${plan.divergence.message}`}`,
    );
  }
  return ok ? exitCodes.ok : exitCodes.refused;
}

/** Ids of all open runs of a type, newest first. */
export async function openRunsOf(api: ServerApi, type: string): Promise<string[]> {
  const ids: string[] = [];
  let after: string | null = null;
  do {
    const query: Record<string, string> = { type, limit: "500", ...(after === null ? {} : { after }) };
    const page = (await api.get("/v1/workflows", query)) as Page<WorkflowRow>;
    for (const { id, status } of page.items) if (!isClosed(status)) ids.push(id);
    after = page.next;
  } while (after !== null);
  return ids;
}

function definitionFor(
  definitions: readonly AnyWorkflowDefinition[],
  type: string | null,
  version: string,
): AnyWorkflowDefinition {
  const found = definitions.find((each) => type === null || each.type === type);
  if (found !== undefined) return found;
  throw new MillraceError(
    "workflow_version_unknown",
    `No module given with --workflows has version ${version} of ${type ?? "any type"}. Build it, and give its file.`,
  );
}

async function typeOf(api: ServerApi, id: string): Promise<string | null> {
  try {
    return ((await api.get(`/v1/workflows/${encodeURIComponent(id)}`)) as WorkflowRow).type;
  } catch (error) {
    if (isMillraceError(error, "workflow_not_found")) return null;
    throw error;
  }
}

async function historyOf(api: ServerApi, id: string): Promise<Awaited<ReturnType<HistorySource["load"]>>> {
  const type = await typeOf(api, id);
  if (type === null) return [];
  const commits: {
    type: string;
    sequence: number;
    at: number;
    commitId: string;
    condition: null;
    events: WorkflowEvent[];
  }[] = [];
  for await (const { sequence, at, commitId, type: of, data } of readHistory(api, id)) {
    // The server sends only events that its log accepted.
    const event = { type: of, data } as WorkflowEvent;
    const last = commits.at(-1);
    if (last?.sequence === sequence) last.events.push(event);
    else commits.push({ type, sequence, at: Date.parse(at), commitId, condition: null, events: [event] });
  }
  return commits;
}
