import Table from "cli-table3";
import type { Page, WorkflowRow } from "@millrace/schemas";
import type { Output } from "../output.ts";
import type { ServerApi } from "../server-api.ts";

export interface ListCommandOptions {
  readonly type?: string;
  readonly status?: string;
  readonly limit?: string;
  readonly after?: string;
}

/** Runs, newest first: a table, or with `--json` the server's page `{items, next}`. */
export async function list(api: ServerApi, output: Output, options: ListCommandOptions): Promise<void> {
  const { type, status, limit, after } = options;
  const page = (await api.get("/v1/workflows", { type, status, limit, after })) as Page<WorkflowRow>;
  output.value(page);
  if (output.json) return;
  if (page.items.length === 0)
    return output.talk(`No runs${type === undefined ? "" : ` of type ${type}`} at ${api.url}`);
  const table = new Table({
    head: ["id", "type", "status", "step", "message", "updated"],
    style: { head: [], border: [] },
  });
  for (const row of page.items) {
    const { id, currentStep, totalSteps, message, updatedAt } = row;
    table.push([
      id,
      `${row.type} v${row.version}`,
      row.status,
      `${currentStep}/${totalSteps}`,
      message.slice(0, 60),
      updatedAt,
    ]);
  }
  output.text(table.toString());
  if (page.next !== null) output.talk(`There are more: millrace list --after ${page.next}`);
}
