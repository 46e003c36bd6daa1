import Table from "cli-table3";
import {
  evolveCommit,
  initialRunState,
  isFinalRow,
  isMillraceError,
  stepKey,
  type EventRow,
  type Fleet,
  type RunState,
  type WorkflowEvent,
  type WorkflowRow,
} from "@millrace/schemas";
import { whyNotMoving } from "../core/why-not-moving.ts";
import type { Output } from "../output.ts";
import type { ServerApi } from "../server-api.ts";
import { readHistory } from "./read-history.ts";

const valueCharsMax = 2_000;
const cellCharsMax = 60;

/** A run with its steps and, when it stands still, why. With `--json` the row and `whyNotMoving` beside its fields. */
export async function show(
  api: ServerApi,
  output: Output,
  id: string,
  options: { readonly min?: string },
): Promise<void> {
  const { min } = options;
  const row = (await api.get(`/v1/workflows/${encodeURIComponent(id)}`, { min })) as WorkflowRow;
  const why = isFinalRow(row)
    ? null
    : whyNotMoving(await foldHistory(api, row), Date.now(), await hostedTypes(api));
  output.value({ ...row, whyNotMoving: why });
  if (output.json) return;
  output.text(
    `${row.id}  ${row.type} v${row.version}  ${row.status}  step ${row.currentStep}/${row.totalSteps}`,
  );
  output.text(`message   ${row.message}`);
  if (why !== null) output.text(`not moving: ${why}`);
  output.text(
    `started   ${row.startedAt}   updated ${row.updatedAt}${row.closedAt === null ? "" : `   closed ${row.closedAt}`}`,
  );
  output.text(`sequence  ${row.sequence}`);
  output.text(`input     ${cut(row.input, valueCharsMax)}`);
  if (row.output !== null) output.text(`output    ${cut(row.output, valueCharsMax)}`);
  if (row.error !== null)
    output.text(`error     ${row.error.code ?? row.error.name ?? "error"}: ${row.error.message}`);
  for (const [key, value] of Object.entries(row.attributes)) output.text(`attribute ${key}=${value}`);
  if (row.steps.length > 0) output.text(stepTable(row));
}

/** Null when the server does not say: it is older than this command, or has lost its broker. */
async function hostedTypes(api: ServerApi): Promise<Fleet["hosted"] | null> {
  try {
    return ((await api.get("/v1/fleet")) as Fleet).hosted;
  } catch (error) {
    if (isMillraceError(error, "route_unknown") || isMillraceError(error, "unavailable")) return null;
    throw error;
  }
}

function stepTable(row: WorkflowRow): string {
  const table = new Table({
    head: ["step", "status", "attempt", "started", "completed", "output or error"],
    style: { head: [], border: [] },
  });
  for (const step of row.steps) {
    const outcome =
      step.error === null ? cut(step.output, cellCharsMax) : cut(step.error.message, cellCharsMax);
    table.push([
      stepKey(step.name, step.occurrence),
      step.status,
      step.attempt,
      step.startedAt ?? "-",
      step.completedAt ?? "-",
      outcome,
    ]);
  }
  return table.toString();
}

/** The row does not say who drives a run, nor when a retry is due: its history does. */
async function foldHistory(api: ServerApi, row: WorkflowRow): Promise<RunState> {
  const state = initialRunState(row.id, row.type);
  let commit: EventRow[] = [];
  const fold = (): void => {
    const [first] = commit;
    if (first === undefined) return;
    // The server sends only events that its log accepted; a type that is newer than this command folds to nothing.
    const events = commit.map(({ type, data }) => ({ type, data }) as WorkflowEvent);
    evolveCommit(state, { sequence: first.sequence, at: Date.parse(first.at), events });
    commit = [];
  };
  for await (const event of readHistory(api, row.id)) {
    if (commit[0] !== undefined && commit[0].sequence !== event.sequence) fold();
    commit.push(event);
  }
  fold();
  return state;
}

function cut(value: unknown, charsMax: number): string {
  const text = typeof value === "string" ? value : (JSON.stringify(value) ?? "");
  return text.length > charsMax ? `${text.slice(0, charsMax)}…` : text;
}
