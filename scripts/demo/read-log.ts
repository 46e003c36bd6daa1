import type { EventLog, StoredCommit } from "@millrace/event-log";
import type { Projection } from "@millrace/projector";
import { decodeCommit, isoTime, type Page, type WorkflowRow } from "@millrace/schemas";
import type { HistoryCommit } from "./check-history.ts";
import { ChangeSignal } from "./change-signal.ts";
import type { LoggedEvent } from "./compare-stream.ts";

/** All commits of the log up to its end as it is now, read from the broker itself. */
export async function readLog(log: EventLog, signal: AbortSignal): Promise<StoredCommit[]> {
  const { lastSequence } = await log.info();
  const commits: StoredCommit[] = [];
  const change = new ChangeSignal();
  const failures: Error[] = [];
  const follower = await log.follow({
    after: 0,
    onCommit: (commit) => {
      if (commit.sequence > lastSequence) return;
      commits.push(commit);
      if (commit.sequence === lastSequence) change.changed();
    },
    onStatus: (status, error) => {
      if (status === "live" || status === "interrupted") return;
      failures.push(error ?? new Error(`Reading the log ended: it is ${status}.`));
      change.changed();
    },
  });
  try {
    await change.until(() => failures.length > 0 || follower.position >= lastSequence, signal);
    const [failure] = failures;
    if (failure !== undefined) throw failure;
    return commits;
  } finally {
    await follower.stop();
  }
}

/** All commits in the read model's file, in the order in which it gives them. */
export function readHistory(projection: Projection): HistoryCommit[] {
  const commits: HistoryCommit[] = [];
  for (let after = 0; ;) {
    const page = projection.commits({}, after, 500, 4_000_000);
    commits.push(...page.commits);
    if (page.upTo <= after) return commits;
    after = page.upTo;
  }
}

/** Every row of the read model with its steps, as the HTTP API lists them. */
export async function readRows(url: string, signal: AbortSignal): Promise<WorkflowRow[]> {
  const rows: WorkflowRow[] = [];
  for (let after: string | null = ""; after !== null;) {
    const query = new URLSearchParams({ limit: "200", ...(after === "" ? {} : { after }) });
    const response = await fetch(`${url}/v1/workflows?${query.toString()}`, { signal });
    if (!response.ok)
      throw new Error(`GET /v1/workflows answered ${response.status}: ${await response.text()}`);
    const page = (await response.json()) as Page<WorkflowRow>;
    rows.push(...page.items);
    after = page.next;
  }
  return rows;
}

/** The events of commits, with their addresses. */
export function eventsOf(commits: readonly HistoryCommit[]): LoggedEvent[] {
  return commits.flatMap(({ sequence, workflowId, at, body }) =>
    decodeCommit(body, sequence).map(({ type, data }, index) => ({
      sequence,
      index,
      type,
      workflowId,
      at: isoTime(at),
      data: JSON.stringify(data),
    })),
  );
}
