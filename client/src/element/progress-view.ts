/** What a progress bar says of a run. Pure. */
import { isClosed, type WorkflowRow } from "@millrace/schemas";
import type { RowStatus } from "../workflow-store.ts";

export interface ProgressView {
  /** From 0 to 1; null: it cannot be told (a bar without an end). */
  readonly fraction: number | null;
  readonly current: number;
  readonly total: number;
  /** Beside the bar, for those who see it. */
  readonly text: string;
  /** For those who hear it: changes only with the run's or the connection's status, not with every step. */
  readonly announcement: string;
}

const connectionWords: Readonly<Record<RowStatus, string>> = {
  live: "",
  "catching-up": "",
  stale: "waiting for the server",
  offline: "offline",
};

export function progressView(row: WorkflowRow | null, loaded: boolean, status: RowStatus): ProgressView {
  const connection = connectionWords[status];
  if (row === null) {
    const text = loaded ? "not started" : "loading";
    return { fraction: null, current: 0, total: 0, text: joined(text, connection), announcement: connection };
  }
  const { currentStep: current, totalSteps: total } = row;
  const word = wordOf(row);
  const known = total > 0 || row.status === "completed";
  const fraction = row.status === "completed" ? 1 : known ? Math.min(1, current / total) : null;
  const count = total > 0 ? `${current} of ${total}` : "";
  return {
    fraction,
    current,
    total,
    text: joined(isClosed(row.status) ? word : count, row.error?.message ?? row.message, connection),
    announcement: joined(word, connection),
  };
}

function wordOf(row: WorkflowRow): string {
  if (row.paused !== null) return "paused";
  return row.status;
}

function joined(...parts: readonly string[]): string {
  const distinct = parts.filter((part, index) => part !== "" && parts.indexOf(part) === index);
  return distinct.join(", ");
}
