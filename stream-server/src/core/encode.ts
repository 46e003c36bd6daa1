import { isoTime, matchesEvent, type Filter, type WorkflowRow, type WorkflowUpdate } from "@millrace/schemas";
import type { RunCommit } from "./run-commit.ts";

/** Encoded once per commit, whoever reads it: a herd of resuming clients asks for the same commits. */
const allEntries = new WeakMap<RunCommit, string>();

/** The matching events of a commit as the inside of a `d` array: `[sequence,type,workflowId,at,data],…`. */
export function encodeEvents(filter: Filter, commit: RunCommit): string {
  if (filter.event !== undefined) {
    return joinEvents(
      commit,
      commit.events.filter((event) => matchesEvent(filter, event.type)),
    );
  }
  let text = allEntries.get(commit);
  if (text === undefined) {
    text = joinEvents(commit, commit.events);
    allEntries.set(commit, text);
  }
  return text;
}

function joinEvents(commit: RunCommit, events: RunCommit["events"]): string {
  // Ids and types have no characters that JSON escapes; event types are ours.
  const tail = `"${commit.workflowId}","${isoTime(commit.at)}"`;
  let text = "";
  for (const { type, data } of events) {
    if (text !== "") text += ",";
    text += `[${commit.sequence},"${type}",${tail},${JSON.stringify(data)}]`;
  }
  return text;
}

/** One entry of a state frame: `[sequence,"state",workflowId,at,fields]`; `fields` is JSON. */
export function encodeState(commit: RunCommit, fields: string): string {
  return `[${commit.sequence},"state","${commit.workflowId}","${isoTime(commit.at)}",${fields}]`;
}

/** The seed's plain update of a row. */
export function encodeUpdate(row: WorkflowRow): string {
  const update: WorkflowUpdate = {
    workflow_id: row.id,
    status: row.status,
    current_step: row.currentStep,
    total_steps: row.totalSteps,
    message: row.message,
    timestamp: row.updatedAt,
    sequence: row.sequence,
  };
  return JSON.stringify(update);
}

export function encodeFrame(f: number, p: number, s: number, entries: readonly string[]): string {
  return `{"t":"ev","f":${f},"p":${p},"s":${s},"d":[${entries.join(",")}]}`;
}

export function encodeBookmark(f: number, p: number, s: number): string {
  return `{"t":"bm","f":${f},"p":${p},"s":${s}}`;
}
