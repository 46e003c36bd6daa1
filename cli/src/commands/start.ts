import { MillraceError, isFinalRow, type WorkflowRow } from "@millrace/schemas";
import { readAttributes } from "../core/attribute-pairs.ts";
import { exitCodes, type ExitCode } from "../core/exit-code.ts";
import type { Output } from "../output.ts";
import type { ServerApi } from "../server-api.ts";
import { connectClient } from "./connect-client.ts";
import { parseJson } from "./parse-json.ts";

export interface StartCommandOptions {
  readonly id?: string;
  readonly input?: string;
  readonly driver?: string;
  readonly steps?: string;
  readonly allowUnregistered?: boolean;
  readonly wait?: boolean;
  readonly attr?: readonly string[];
}

/**
 * Starts a run. Prints its id and sequence, or with `--json` the server's answer; with `--wait` the final row. A run
 * waited for that does not complete gives the exit code `runFailed`.
 */
export async function start(
  api: ServerApi,
  output: Output,
  type: string,
  options: StartCommandOptions,
): Promise<ExitCode> {
  const body = {
    type,
    ...(options.id === undefined ? {} : { id: options.id }),
    ...(options.input === undefined ? {} : { input: parseJson("--input", options.input) }),
    ...(options.driver === undefined ? {} : { driver: options.driver }),
    ...(options.steps === undefined ? {} : { steps: splitSteps(options.steps) }),
    ...(options.attr === undefined ? {} : { attributes: readAttributes("--attr", options.attr) }),
    ...(options.allowUnregistered === true ? { allowUnregistered: true } : {}),
  };
  const started = (await api.post("/v1/workflows", body)) as {
    readonly id: string;
    readonly sequence: number;
  };
  if (options.wait !== true) {
    output.value(started);
    output.text(`${started.id}  sequence ${started.sequence}`);
    output.talk(`Follow it with: millrace watch ${started.id} --from start`);
    return exitCodes.ok;
  }
  output.talk(`Started ${started.id}, waiting for its end`);
  const row = await closed(api, started.id);
  output.value(row);
  output.text(`${row.id}  ${row.status}  ${row.error?.message ?? JSON.stringify(row.output)}`);
  return row.status === "completed" ? exitCodes.ok : exitCodes.runFailed;
}

/** Pushed: follows the run's events to its end, then asks for the row as of then. */
async function closed(api: ServerApi, id: string): Promise<WorkflowRow> {
  const client = connectClient(api.url);
  let sequence = 0;
  try {
    for await (const event of client.watch({ workflow: [id] }, { from: "start", until: "closed" })) {
      sequence = event.sequence;
    }
  } finally {
    client.close();
  }
  const row = (await api.get(`/v1/workflows/${encodeURIComponent(id)}`, {
    min: String(sequence),
  })) as WorkflowRow;
  if (isFinalRow(row)) return row;
  throw new MillraceError(
    "unavailable",
    `The stream of ${id} ended while the run is ${row.status} (sequence ${row.sequence}). Look at it with: millrace show ${id}`,
  );
}

function splitSteps(text: string): string[] {
  return text
    .split(",")
    .map((step) => step.trim())
    .filter((step) => step !== "");
}
