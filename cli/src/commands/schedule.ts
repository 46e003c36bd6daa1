import Table from "cli-table3";
import { MillraceError, type Page, type ScheduleRow } from "@millrace/schemas";
import { readAttributes } from "../core/attribute-pairs.ts";
import { readDurationMs } from "../core/duration.ts";
import { whyNotFiring } from "../core/why-not-firing.ts";
import type { Output } from "../output.ts";
import type { ServerApi } from "../server-api.ts";
import { parseJson } from "./parse-json.ts";

export interface ScheduleSpecOptions {
  readonly cron?: string;
  readonly timeZone?: string;
  readonly every?: string;
  readonly type?: string;
  readonly input?: string;
  readonly attr?: readonly string[];
  readonly runTimeout?: string;
  readonly overlap?: string;
  readonly jitter?: string;
  readonly catchUp?: string;
  readonly startAt?: string;
  readonly endAt?: string;
  readonly note?: string;
  readonly allowUnregistered?: boolean;
}

interface Sequenced {
  readonly sequence: number;
}

/** Creates a schedule. With `--json` the server's answer. */
export async function createSchedule(
  api: ServerApi,
  output: Output,
  id: string,
  options: ScheduleSpecOptions,
): Promise<void> {
  const answer = (await api.post("/v1/schedules", { id, ...specOf(id, options) })) as Sequenced & {
    readonly created: boolean;
  };
  output.value(answer);
  output.text(`${id}  ${answer.created ? "created" : "was there already"}  sequence ${answer.sequence}`);
  output.talk(`See it with: millrace schedule show ${id} --min ${answer.sequence}`);
}

/** Replaces a schedule by what is given. */
export async function updateSchedule(
  api: ServerApi,
  output: Output,
  id: string,
  options: ScheduleSpecOptions,
): Promise<void> {
  const answer = (await api.put(pathOf(id), specOf(id, options))) as Sequenced;
  output.value(answer);
  output.text(`${id}  updated  sequence ${answer.sequence}`);
}

/** Schedules by id: a table, or with `--json` the server's page `{items, next}`. */
export async function listSchedules(
  api: ServerApi,
  output: Output,
  options: {
    readonly status?: string;
    readonly type?: string;
    readonly after?: string;
    readonly limit?: string;
  },
): Promise<void> {
  const { status, type, after, limit } = options;
  const page = (await api.get("/v1/schedules", { status, type, after, limit })) as Page<ScheduleRow>;
  output.value(page);
  if (output.json) return;
  if (page.items.length === 0) return output.talk(`No schedules at ${api.url}`);
  const table = new Table({
    head: ["id", "status", "when", "starts", "next", "last run"],
    style: { head: [], border: [] },
  });
  for (const row of page.items) {
    const last = row.recentRuns[0]?.workflowId ?? "-";
    table.push([row.id, row.status, whenOf(row), row.workflow.type, row.nextDueAt ?? "-", last]);
  }
  output.text(table.toString());
  if (page.next !== null) output.talk(`There are more: millrace schedule list --after ${page.next}`);
}

/** A schedule, and in one line why it does not fire. With `--json` the row and `whyNotFiring` beside its fields. */
export async function showSchedule(
  api: ServerApi,
  output: Output,
  id: string,
  options: { readonly min?: string },
): Promise<void> {
  const row = (await api.get(pathOf(id), { min: options.min })) as ScheduleRow;
  const why = whyNotFiring(row, Date.now());
  output.value({ ...row, whyNotFiring: why });
  if (output.json) return;
  output.text(
    `${row.id}  ${row.status}  ${whenOf(row)}  starts ${row.workflow.type}  overlap ${row.overlap}`,
  );
  if (why !== null) output.text(`not firing: ${why}`);
  output.text(
    `next      ${row.nextDueAt ?? "-"}${row.nextDueAt === row.nextTickAt ? "" : ` (tick ${row.nextTickAt})`}`,
  );
  const { triggered, skipped, missed } = row.counts;
  output.text(`ticks     ${triggered} triggered, ${skipped} skipped, ${missed} missed`);
  for (const run of row.openRuns) output.text(`open      ${run.workflowId}`);
  for (const run of row.waitingRuns) output.text(`waiting   ${run.workflowId}`);
  for (const { after, to } of row.backfills) output.text(`backfill  after ${after} to ${to}`);
  for (const run of row.recentRuns) output.text(`run       ${run.workflowId}  ${run.kind}  ${run.at}`);
  if (row.failure !== null)
    output.text(`failure   ${row.failure.workflowId} at ${row.failure.at}: ${row.failure.message}`);
  if (row.note !== null) output.text(`note      ${row.note}`);
  output.text(`sequence  ${row.sequence}`);
}

export async function changeSchedule(
  api: ServerApi,
  output: Output,
  change: "pause" | "resume",
  id: string,
  options: { readonly reason?: string; readonly by?: string },
): Promise<void> {
  const answer = (await api.post(`${pathOf(id)}/${change}`, operatorOf(options))) as Sequenced;
  output.value(answer);
  output.text(`${id}  ${change}d  sequence ${answer.sequence}`);
}

export async function triggerSchedule(
  api: ServerApi,
  output: Output,
  id: string,
  options: { readonly key?: string; readonly by?: string },
): Promise<void> {
  const { key, by } = options;
  const headers: Record<string, string> = key === undefined ? {} : { "idempotency-key": key };
  const answer = (await api.post(
    `${pathOf(id)}/trigger`,
    by === undefined ? {} : { by },
    headers,
  )) as Sequenced & {
    readonly workflowId: string;
    readonly started: boolean;
  };
  output.value(answer);
  output.text(
    `${answer.workflowId}  ${answer.started ? "started" : "waits for the end of the open run"}  sequence ${answer.sequence}`,
  );
  output.talk(`Follow it with: millrace watch ${answer.workflowId} --from start`);
}

export async function backfillSchedule(
  api: ServerApi,
  output: Output,
  id: string,
  options: { readonly from: string; readonly to: string; readonly by?: string },
): Promise<void> {
  const { from, to, by } = options;
  const answer = (await api.post(`${pathOf(id)}/backfill`, {
    from,
    to,
    ...(by === undefined ? {} : { by }),
  })) as Sequenced & { readonly ticks: number };
  output.value(answer);
  output.text(`${id}  ${answer.ticks} ticks to fill  sequence ${answer.sequence}`);
}

export async function deleteSchedule(
  api: ServerApi,
  output: Output,
  id: string,
  options: { readonly reason?: string; readonly by?: string },
): Promise<void> {
  const answer = (await api.delete(pathOf(id), operatorOf(options))) as Sequenced;
  output.value(answer);
  output.text(`${id}  deleted  sequence ${answer.sequence}`);
}

function specOf(id: string, options: ScheduleSpecOptions): object {
  const { cron, timeZone, every, type, input, attr, runTimeout, overlap, jitter, catchUp } = options;
  if (type === undefined) {
    throw new MillraceError(
      "invalid_request",
      `Schedule ${id} refused: it starts nothing. Give the workflow type with --type.`,
    );
  }
  const { startAt, endAt, note, allowUnregistered } = options;
  const durations = { everyMs: every, jitterMs: jitter, catchUpWindowMs: catchUp };
  const optionNames = { everyMs: "--every", jitterMs: "--jitter", catchUpWindowMs: "--catch-up" } as const;
  return {
    ...given({ cron, timeZone, overlap, startAt, endAt, note, allowUnregistered }),
    ...Object.fromEntries(
      Object.entries(given(durations)).map(([field, text]) => [
        field,
        readDurationMs(optionNames[field as keyof typeof optionNames], text),
      ]),
    ),
    workflow: {
      type,
      ...(input === undefined ? {} : { input: parseJson("--input", input) }),
      ...(attr === undefined ? {} : { attributes: readAttributes("--attr", attr) }),
      ...(runTimeout === undefined ? {} : { timeoutMs: readDurationMs("--run-timeout", runTimeout) }),
    },
  };
}

function given<T>(fields: Readonly<Record<string, T | undefined>>): Record<string, T> {
  return Object.fromEntries(
    Object.entries(fields).filter((entry): entry is [string, T & {}] => entry[1] !== undefined),
  );
}

function operatorOf({ reason, by }: { readonly reason?: string; readonly by?: string }): object {
  return given({ reason, by });
}

function whenOf(row: ScheduleRow): string {
  return row.cron === null ? `every ${row.everyMs} ms` : `${row.cron} (${row.timeZone})`;
}

function pathOf(id: string): string {
  return `/v1/schedules/${encodeURIComponent(id)}`;
}
