import { MillraceError } from "@millrace/schemas";
import type { Output } from "../output.ts";
import type { ServerApi } from "../server-api.ts";
import { eventLine } from "./event-line.ts";
import { readHistory } from "./read-history.ts";

export interface HistoryCommandOptions {
  readonly after?: string;
  readonly limit?: string;
}

/** A run's events, oldest first: a line each, or with `--json` NDJSON of `{sequence, index, type, at, data}`. */
export async function history(
  api: ServerApi,
  output: Output,
  id: string,
  options: HistoryCommandOptions,
): Promise<void> {
  const limit = options.limit === undefined ? undefined : readLimit(options.limit);
  const { after } = options;
  const range = { ...(after === undefined ? {} : { after }), ...(limit === undefined ? {} : { limit }) };
  for await (const event of readHistory(api, id, range)) {
    output.value(event);
    output.text(eventLine(`${event.sequence}.${event.index}`, event.at, event.type, event.data));
  }
}

function readLimit(text: string): number {
  if (/^[1-9][0-9]{0,8}$/.test(text)) return Number(text);
  throw new MillraceError(
    "invalid_request",
    `--limit ${JSON.stringify(text)} is not a count: expected 1 or more.`,
  );
}
