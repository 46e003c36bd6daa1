import Table from "cli-table3";
import { attributeText, type AttributeValue, type Page, type WorkflowRow } from "@millrace/schemas";
import { readWanted } from "../core/attribute-pairs.ts";
import type { Output } from "../output.ts";
import type { ServerApi } from "../server-api.ts";

export interface ListCommandOptions {
  readonly type?: string;
  readonly status?: string;
  readonly limit?: string;
  readonly after?: string;
  readonly waits?: string;
  readonly attr?: readonly string[];
  readonly attrMin?: readonly string[];
  readonly attrMax?: readonly string[];
}

/** The filter of a list as the server's query. */
export function runFilterQuery(
  options: Pick<ListCommandOptions, "type" | "status" | "waits" | "attr" | "attrMin" | "attrMax">,
): Record<string, string | readonly string[] | undefined> {
  const { type, status, waits, attr = [], attrMin = [], attrMax = [] } = options;
  const named = (prefix: string, wanted: Readonly<Record<string, readonly AttributeValue[]>>) =>
    Object.entries(wanted).map(([key, values]) => [`${prefix}.${key}`, values.map(attributeText)] as const);
  return {
    type,
    status,
    waits,
    ...Object.fromEntries([
      ...named("attr", readWanted("--attr", attr)),
      ...named("attr-min", readWanted("--attr-min", attrMin)),
      ...named("attr-max", readWanted("--attr-max", attrMax)),
    ]),
  };
}

/** Runs, newest first: a table, or with `--json` the server's page `{items, next}`. */
export async function list(api: ServerApi, output: Output, options: ListCommandOptions): Promise<void> {
  const { type, limit, after } = options;
  const query = { ...runFilterQuery(options), limit, after };
  const page = (await api.get("/v1/workflows", query)) as Page<WorkflowRow>;
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
