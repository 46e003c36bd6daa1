import Table from "cli-table3";
import {
  isFinalRow,
  isMillraceError,
  stepKey,
  type Fleet,
  type Page,
  type WorkflowRow,
} from "@millrace/schemas";
import { whyNotMoving, type QueueFacts, type Surroundings } from "../core/why-not-moving.ts";
import type { Output } from "../output.ts";
import type { ServerApi } from "../server-api.ts";

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
  const why = isFinalRow(row) ? null : whyNotMoving(row, Date.now(), await surroundings(api, row));
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
  output.text(`sequence  ${row.sequence}${row.run === 1 ? "" : `   run number ${row.run}`}`);
  output.text(`input     ${cut(row.input, valueCharsMax)}`);
  if (row.output !== null) output.text(`output    ${cut(row.output, valueCharsMax)}`);
  if (row.error !== null)
    output.text(`error     ${row.error.code ?? row.error.name ?? "error"}: ${row.error.message}`);
  for (const [key, value] of Object.entries(row.attributes)) output.text(`attribute ${key}=${value}`);
  if (row.steps.length > 0) output.text(stepTable(row));
}

/** Null when the server does not say: it is older than this command, or has lost its broker. */
async function ask<T>(api: ServerApi, path: string): Promise<T | null> {
  try {
    return (await api.get(path)) as T;
  } catch (error) {
    if (isMillraceError(error, "route_unknown") || isMillraceError(error, "unavailable")) return null;
    throw error;
  }
}

async function surroundings(api: ServerApi, row: WorkflowRow): Promise<Surroundings> {
  const inQueue = row.waits.some(({ kind }) => kind === "task");
  const [fleet, queues] = await Promise.all([
    ask<Fleet>(api, "/v1/fleet"),
    inQueue ? ask<Page<QueueFacts>>(api, "/v1/queues") : null,
  ]);
  return { hosted: fleet?.hosted ?? null, queues: queues?.items ?? null };
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

function cut(value: unknown, charsMax: number): string {
  const text = typeof value === "string" ? value : (JSON.stringify(value) ?? "");
  return text.length > charsMax ? `${text.slice(0, charsMax)}…` : text;
}
