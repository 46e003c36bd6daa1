import { MillraceError, type BulkAnswer, type BulkFilter, type BulkPreview } from "@millrace/schemas";
import { readAttributes, readWanted } from "../core/attribute-pairs.ts";
import { exitCodes, type ExitCode } from "../core/exit-code.ts";
import type { Output } from "../output.ts";
import type { ServerApi } from "../server-api.ts";
import type { ListCommandOptions } from "./list.ts";
import { keyHeader, whereFrom, whoAndWhy, type ResetCommandOptions } from "./operate.ts";
import { parseJson } from "./parse-json.ts";

export interface BulkCommandOptions extends ResetCommandOptions, ListCommandOptions {
  readonly ids?: readonly string[];
  readonly name?: string;
  readonly payload?: string;
  readonly key?: string;
  readonly dryRun?: boolean;
}

const kinds = ["cancel", "terminate", "pause", "resume", "retry", "reset", "migrate", "signal"];

/**
 * One command for all runs of a filter, page by page, newest first: every failure is told, and the rest go on. Ends with
 * `refused` when a run refused. When it is cut off, `--after` with the last position told goes on; what was done is not
 * done twice.
 */
export async function bulk(
  api: ServerApi,
  output: Output,
  kind: string,
  options: BulkCommandOptions,
): Promise<ExitCode> {
  const request = { filter: readFilter(options), command: readCommand(kind, options) };
  if (options.dryRun === true) {
    const preview = (await api.post("/v1/workflows/bulk", { ...request, dryRun: true })) as BulkPreview;
    output.value(preview);
    output.text(`${kind} would be for ${preview.exact ? "" : "more than "}${preview.count} runs`);
    for (const id of preview.ids) output.text(`  ${id}`);
    if (preview.count > preview.ids.length) output.text("  …");
    return exitCodes.ok;
  }
  const limit = options.limit === undefined ? {} : { limit: Number(options.limit) };
  let { after } = options;
  let done = 0;
  let failed = 0;
  for (;;) {
    const position = after === undefined ? {} : { after };
    const page = (await api.post(
      "/v1/workflows/bulk",
      { ...request, ...limit, ...position },
      keyHeader(options.key),
    )) as BulkAnswer;
    output.value(page);
    done += page.done;
    failed += page.failed.length;
    for (const { id, code, message } of page.failed) output.text(`${id}  ${code}: ${message}`);
    if (page.next === null) break;
    after = page.next;
    output.talk(`${done} done, ${failed} failed; go on after a cut with --after ${after}`);
  }
  output.text(`${kind}: ${done} done, ${failed} failed`);
  return failed === 0 ? exitCodes.ok : exitCodes.refused;
}

function readFilter(options: BulkCommandOptions): BulkFilter {
  const { ids = [], type, status, waits, attr, attrMin, attrMax } = options;
  const [kind, name] = waits === undefined ? [] : waits.split(":", 2);
  // The server says which statuses and kinds there are.
  return {
    ...(ids.length === 0 ? {} : { workflow: [...ids] }),
    ...(type === undefined ? {} : { type }),
    ...(status === undefined ? {} : { status }),
    ...(attr === undefined ? {} : { attr: readWanted("--attr", attr) }),
    ...(attrMin === undefined ? {} : { attrMin: readAttributes("--attr-min", attrMin) }),
    ...(attrMax === undefined ? {} : { attrMax: readAttributes("--attr-max", attrMax) }),
    ...(kind === undefined ? {} : { waits: { kind, ...(name === undefined ? {} : { name }) } }),
  } as BulkFilter;
}

function readCommand(kind: string, options: BulkCommandOptions): object {
  const operator = whoAndWhy(options);
  switch (kind) {
    case "retry":
    case "reset":
      return { kind, ...operator, ...whereFrom(options) };
    case "migrate":
      return { kind, ...operator, toVersion: options.toVersion };
    case "signal": {
      const { name, payload, by } = options;
      return {
        kind,
        name,
        ...(payload === undefined ? {} : { payload: parseJson("--payload", payload) }),
        ...(by === undefined ? {} : { by }),
      };
    }
    default:
      if (kinds.includes(kind)) return { kind, ...operator };
      throw new MillraceError(
        "invalid_request",
        `bulk ${JSON.stringify(kind.slice(0, 40))} is no command: expected one of ${kinds.join(", ")}.`,
      );
  }
}
