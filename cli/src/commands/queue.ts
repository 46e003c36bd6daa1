import Table from "cli-table3";
import {
  MillraceError,
  type DeadLetterRow,
  type Page,
  type QueueLimitsRow,
  type QueueRow,
  type RedriveRow,
} from "@millrace/schemas";
import type { Output } from "../output.ts";
import type { ServerApi } from "../server-api.ts";

const cellCharsMax = 60;

/** Every queue: a table, or with `--json` the server's `{items, next}`. */
export async function listQueues(api: ServerApi, output: Output): Promise<void> {
  const page = (await api.get("/v1/queues")) as Page<QueueRow>;
  output.value(page);
  if (output.json) return;
  if (page.items.length === 0) return output.talk(`No task queues at ${api.url}`);
  const table = new Table({
    head: ["queue", "waiting", "in flight", "oldest", "dead", "limits"],
    style: { head: [], border: [] },
  });
  for (const { queue, depth, inFlight, oldestAgeMs, deadLetters, limits } of page.items) {
    const oldest = oldestAgeMs === null ? "-" : `${(oldestAgeMs / 1_000).toFixed(1)} s`;
    table.push([queue, depth, inFlight, oldest, deadLetters, limitsText(limits)]);
  }
  output.text(table.toString());
}

export interface DeadCommandOptions {
  readonly limit?: string;
  readonly after?: string;
}

/** Dead letters, oldest first: a table, or with `--json` the server's page. */
export async function listDead(
  api: ServerApi,
  output: Output,
  queue: string,
  { limit, after }: DeadCommandOptions,
): Promise<void> {
  const page = (await api.get(`${pathOf(queue)}/dead`, { limit, after })) as Page<DeadLetterRow>;
  output.value(page);
  if (output.json) return;
  if (page.items.length === 0) return output.talk(`No dead letters in queue ${queue}`);
  const table = new Table({
    head: ["at", "run", "task", "attempts", "reason", "token"],
    style: { head: [], border: [] },
  });
  for (const { at, workflowId, step, attempts, reason, token } of page.items)
    table.push([at, workflowId, step, attempts, reason.slice(0, cellCharsMax), token]);
  output.text(table.toString());
  if (page.next !== null) output.talk(`There are more: millrace queue dead ${queue} --after ${page.next}`);
}

export interface RedriveCommandOptions {
  readonly token?: readonly string[];
  readonly limit?: string;
  readonly discard?: boolean;
  readonly reason?: string;
  readonly by?: string;
}

/** With `--json` the server's `{redriven, skipped}`. */
export async function redrive(
  api: ServerApi,
  output: Output,
  queue: string,
  { token, limit, discard, reason, by }: RedriveCommandOptions,
): Promise<void> {
  const given = { tokens: token, limit: numberOf("--limit", limit), discard, reason, by };
  const body = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined));
  const answer = (await api.post(`${pathOf(queue)}/dead/redrive`, body)) as RedriveRow;
  output.value(answer);
  if (output.json) return;
  const did = discard === true ? "Removed" : "Redriven";
  for (const { workflowId } of answer.redriven) output.text(`${did}: ${workflowId}`);
  for (const { workflowId, reason: why } of answer.skipped) output.text(`Left alone: ${workflowId}: ${why}`);
  if (answer.redriven.length + answer.skipped.length === 0)
    output.talk(`No such dead letters in queue ${queue}`);
}

export interface LimitCommandOptions {
  readonly concurrency?: string;
  readonly rate?: string;
  readonly burst?: string;
}

/** With `--json` the server's `{queue, limits}`. */
export async function setLimits(
  api: ServerApi,
  output: Output,
  queue: string,
  { concurrency, rate, burst }: LimitCommandOptions,
): Promise<void> {
  const body: QueueLimitsRow = {
    concurrency: numberOf("--concurrency", concurrency) ?? null,
    ratePerS: numberOf("--rate", rate) ?? null,
    burst: numberOf("--burst", burst) ?? null,
  };
  const answer = await api.put(pathOf(queue), body);
  output.value(answer);
  output.text(`Limits of queue ${queue}: ${limitsText(body)}`);
}

function limitsText({ concurrency, ratePerS, burst }: QueueLimitsRow): string {
  const parts = [
    concurrency === null ? null : `${concurrency} at a time`,
    ratePerS === null ? null : `${ratePerS}/s`,
    burst === null ? null : `bursts of ${burst}`,
  ].filter((part) => part !== null);
  return parts.length === 0 ? "none" : parts.join(", ");
}

function pathOf(queue: string): string {
  return `/v1/queues/${encodeURIComponent(queue)}`;
}

function numberOf(option: string, text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  const value = Number(text);
  if (text.trim() !== "" && Number.isFinite(value)) return value;
  throw new MillraceError("invalid_request", `${option} ${JSON.stringify(text)} is not a number.`);
}
