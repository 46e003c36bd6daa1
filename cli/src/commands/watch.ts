import type { StreamItem, Watch, WatchOptions } from "@millrace/client";
import { MillraceError, parseFilter, type Filter, type WorkflowRow } from "@millrace/schemas";
import { readWanted } from "../core/attribute-pairs.ts";
import type { Output } from "../output.ts";
import type { ServerApi } from "../server-api.ts";
import { connectClient } from "./connect-client.ts";
import { eventLine } from "./event-line.ts";

export interface WatchCommandOptions {
  readonly type?: readonly string[];
  readonly event?: readonly string[];
  readonly from?: string;
  readonly shape?: string;
  readonly until?: string;
  readonly attr?: readonly string[];
}

/**
 * Follows the live stream until it is interrupted, resuming over every cut. One line per item, or with `--json`
 * NDJSON of the client's items (`kind` is `event`, `state` or `snapshot`; each carries its `cursor`). At its end the
 * cursor to go on from is said on standard error, in both modes.
 */
export async function watch(
  api: ServerApi,
  output: Output,
  ids: readonly string[],
  options: WatchCommandOptions,
): Promise<void> {
  const filter = readFilter(ids, options);
  const given: WatchOptions = {
    from: options.from ?? "now",
    shape: readShape(options.shape),
    ...readUntil(options.until),
    onStatus: (status) => output.talk(`stream ${status}`),
    onGap: (gap) => output.talk(`gap found and repaired: ${JSON.stringify(gap)}`),
  };
  // A stream that is cut is resumed without end; an address where nobody ever was is a mistake to be told at once.
  await api.get("/v1/workflows", { limit: "1" });
  const client = connectClient(api.url);
  const interrupted = new AbortController();
  const interrupt = (): void => interrupted.abort();
  process.once("SIGINT", interrupt).once("SIGTERM", interrupt);
  // Which kinds of item come is only known at run time.
  const items = client.watch(filter, given) as Watch<StreamItem>;
  interrupted.signal.addEventListener("abort", () => items.close());
  try {
    for await (const item of items) {
      output.value(item);
      if (!output.json) for (const line of linesOf(item)) output.text(line);
    }
  } finally {
    client.close();
    // A position that the server refused is none to go on from.
    if (items.cursor !== null && items.cursor !== given.from) {
      output.talk(`cursor ${items.cursor} (go on with: --from ${items.cursor})`);
    }
  }
}

function linesOf(item: StreamItem): string[] {
  switch (item.kind) {
    case "event":
      return [eventLine(String(item.sequence), item.at, `${item.workflowId} ${item.type}`, item.data)];
    case "state":
      return [rowLine(item.row)];
    case "snapshot":
      return item.rows.map(rowLine);
    case "restart":
      return [];
  }
}

function rowLine(row: WorkflowRow): string {
  const { id, status, currentStep, totalSteps, message } = row;
  return eventLine(
    String(row.sequence),
    row.updatedAt,
    `${id} ${status} ${currentStep}/${totalSteps}`,
    message,
  );
}

function readFilter(ids: readonly string[], { type, event, attr }: WatchCommandOptions): Filter {
  return parseFilter({
    ...(ids.length === 0 ? {} : { workflow: ids }),
    ...(type === undefined ? {} : { type }),
    ...(event === undefined ? {} : { event }),
    ...(attr === undefined ? {} : { attr: readWanted("--attr", attr) }),
  });
}

function readShape(text: string | undefined): "events" | "state" {
  if (text === undefined || text === "events") return "events";
  if (text === "state") return "state";
  throw new MillraceError(
    "invalid_request",
    `--shape ${JSON.stringify(text)} is not one: expected events or state.`,
  );
}

function readUntil(text: string | undefined): Pick<WatchOptions, "until"> {
  if (text === undefined) return {};
  if (text === "closed") return { until: "closed" };
  throw new MillraceError(
    "invalid_request",
    `--until ${JSON.stringify(text)} is not an end: expected closed.`,
  );
}
