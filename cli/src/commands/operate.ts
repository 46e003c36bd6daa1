/** Commands on one run: each is one request, and one event in the run's history with who and why. */
import { MillraceError } from "@millrace/schemas";
import { exitCodes, type ExitCode } from "../core/exit-code.ts";
import type { Output } from "../output.ts";
import type { ServerApi } from "../server-api.ts";
import { parseJson } from "./parse-json.ts";

/** Who and why, for the history. */
export interface OperatorOptions {
  readonly reason?: string;
  readonly by?: string;
}

export interface ResetCommandOptions extends OperatorOptions {
  readonly step?: string;
  readonly toVersion?: string;
  readonly force?: boolean;
}

interface Answer {
  readonly sequence: number;
  readonly [key: string]: unknown;
}

type Kind = "cancel" | "terminate" | "pause" | "resume";

const said: Readonly<Record<Kind, string>> = {
  cancel: "Cancel of % requested",
  terminate: "% is terminated",
  pause: "% is paused",
  resume: "% goes on",
};

/** With `--json` the server's answer, which has the `sequence` of the event in the log. */
export async function operate(
  api: ServerApi,
  output: Output,
  kind: Kind,
  id: string,
  options: OperatorOptions,
): Promise<void> {
  const answer = await post(api, id, kind, whoAndWhy(options));
  output.value(answer);
  output.text(`${said[kind].replace("%", id)} (sequence ${answer.sequence})`);
  if (kind === "cancel") output.talk(`Follow it with: millrace watch ${id} --from start`);
}

export async function retryOrReset(
  api: ServerApi,
  output: Output,
  kind: "retry" | "reset",
  id: string,
  options: ResetCommandOptions,
): Promise<void> {
  const answer = await post(api, id, kind, { ...whoAndWhy(options), ...whereFrom(options) });
  output.value(answer);
  const step = answer["step"];
  const from =
    typeof step === "string" ? `from step ${step}` : kind === "retry" ? "where it ended" : "from its start";
  output.text(`${id} goes on ${from}, as run number ${String(answer["run"])} (sequence ${answer.sequence})`);
}

export async function fork(
  api: ServerApi,
  output: Output,
  id: string,
  options: ResetCommandOptions & { readonly id?: string },
): Promise<void> {
  const target = options.id === undefined ? {} : { id: options.id };
  const { force: _, ...body } = { ...whoAndWhy(options), ...whereFrom(options), ...target } as Record<
    string,
    unknown
  >;
  const answer = await post(api, id, "fork", body);
  output.value(answer);
  output.text(`${String(answer["id"])}  forked from ${id} (sequence ${answer.sequence})`);
}

export interface MigrateCommandOptions extends OperatorOptions {
  readonly toVersion: string;
  readonly dryRun?: boolean;
  readonly workflows?: readonly string[];
  readonly type?: string;
}

/** With a dry run nothing is written: the stored history is replayed here, on the code of `--workflows`. */
export async function migrate(
  api: ServerApi,
  output: Output,
  ids: readonly string[],
  options: MigrateCommandOptions,
): Promise<ExitCode> {
  if (options.dryRun === true) {
    const { openRunsOf, planMigrations } = await import("./plan-migrations.ts");
    const all = options.type === undefined ? ids : [...ids, ...(await openRunsOf(api, options.type))];
    return planMigrations(api, output, all, options.toVersion, options.workflows ?? []);
  }
  if (ids.length === 0 || options.type !== undefined) {
    throw new MillraceError(
      "invalid_request",
      "migrate needs the ids of runs. For all runs of a type: millrace bulk migrate --type TYPE --to-version VERSION.",
    );
  }
  for (const id of ids) {
    const answer = await post(api, id, "migrate", { ...whoAndWhy(options), toVersion: options.toVersion });
    output.value(answer);
    output.text(`${id} goes on with version ${options.toVersion} (sequence ${answer.sequence})`);
  }
  return exitCodes.ok;
}

export async function signal(
  api: ServerApi,
  output: Output,
  id: string,
  name: string,
  options: { readonly payload?: string; readonly key?: string; readonly by?: string },
): Promise<void> {
  const { payload, key, by } = options;
  const body = {
    ...(payload === undefined ? {} : { payload: parseJson("--payload", payload) }),
    ...(by === undefined ? {} : { by }),
  };
  const answer = await post(api, id, `signals/${encodeURIComponent(name)}`, body, key);
  output.value(answer);
  output.text(`Signal ${name} is with ${id} (sequence ${answer.sequence})`);
}

/** Prints the answer: JSON in both modes, since it is data. */
export async function queryOrUpdate(
  api: ServerApi,
  output: Output,
  kind: "query" | "update",
  id: string,
  name: string,
  options: { readonly input?: string; readonly key?: string },
): Promise<void> {
  const body = options.input === undefined ? {} : { input: parseJson("--input", options.input) };
  const path = `${kind === "query" ? "queries" : "updates"}/${encodeURIComponent(name)}`;
  const answer = await post(api, id, path, body, options.key);
  output.value(answer);
  output.text(JSON.stringify(answer["value"]));
}

export function whoAndWhy({ reason, by }: OperatorOptions): OperatorOptions {
  return { ...(reason === undefined ? {} : { reason }), ...(by === undefined ? {} : { by }) };
}

export function whereFrom({ step, toVersion, force }: ResetCommandOptions): object {
  return {
    ...(step === undefined ? {} : { step }),
    ...(toVersion === undefined ? {} : { version: toVersion }),
    ...(force === true ? { force } : {}),
  };
}

async function post(api: ServerApi, id: string, path: string, body: object, key?: string): Promise<Answer> {
  return (await api.post(`/v1/workflows/${encodeURIComponent(id)}/${path}`, body, keyHeader(key))) as Answer;
}

/** Repeated with the same key, it is done once. */
export function keyHeader(key: string | undefined): Readonly<Record<string, string>> {
  return key === undefined ? {} : { "idempotency-key": key };
}
