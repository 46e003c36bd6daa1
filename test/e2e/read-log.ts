/** What the log itself says: the truth that everything else is compared with. */
import type { EventLog, StoredCommit } from "@millrace/event-log";
import {
  evolveCommit,
  fnv1a,
  initialRunState,
  isClosed,
  matchesEvent,
  matchesRun,
  toRow,
  type Filter,
  type RunState,
  type RunStatus,
  type WorkflowRow,
} from "@millrace/schemas";
import { within } from "./deadline.ts";

const closingEvents: Readonly<Record<string, RunStatus>> = {
  WorkflowCompleted: "completed",
  WorkflowFailed: "failed",
  WorkflowCancelled: "cancelled",
  WorkflowTerminated: "terminated",
};

export function closingStatus(eventType: string): RunStatus | null {
  const status = closingEvents[eventType];
  return status !== undefined && isClosed(status) ? status : null;
}

/** Every commit from the first one up to the log's present end. */
export async function readLog(log: EventLog, deadlineMs = 60_000): Promise<StoredCommit[]> {
  const { lastSequence } = await log.info();
  return await followUntil(
    log,
    deadlineMs,
    `the log up to ${lastSequence}`,
    ({ sequence }) => sequence >= lastSequence,
  );
}

/** Follows the log from its first commit until each of the runs has closed. */
export async function untilClosed(
  log: EventLog,
  ids: ReadonlySet<string>,
  deadlineMs: number,
): Promise<void> {
  const open = new Set(ids);
  const what = () =>
    `${ids.size} runs have closed; open: ${[...open].slice(0, 20).join(", ")} (${open.size})`;
  await followUntil(log, deadlineMs, what, ({ events, workflowId }) => {
    if (events.some(({ type }) => closingStatus(type) !== null)) open.delete(workflowId);
    return open.size === 0;
  });
}

async function followUntil(
  log: EventLog,
  deadlineMs: number,
  what: string | (() => string),
  isLast: (commit: StoredCommit) => boolean,
): Promise<StoredCommit[]> {
  const commits: StoredCommit[] = [];
  let finish = (): void => undefined;
  let fail: (error: Error) => void = () => undefined;
  const finished = new Promise<void>((resolve, reject) => {
    finish = resolve;
    fail = reject;
  });
  let done = false;
  const follower = await log.follow({
    after: 0,
    onCommit: (commit) => {
      if (done) return;
      commits.push(commit);
      done = isLast(commit);
      if (done) finish();
    },
    onStatus: (status, error) => {
      if (status !== "live" && status !== "interrupted")
        fail(error ?? new Error(`The follower is ${status}.`));
    },
  });
  try {
    await within(what, deadlineMs, finished);
  } finally {
    await follower.stop();
  }
  return commits;
}

/** What a subscription with this filter is to get after a sequence: one line per event, in order. */
export function expectedEvents(commits: readonly StoredCommit[], filter: Filter, after = 0): string[] {
  return commits
    .filter(({ sequence, workflowId, type }) => sequence > after && matchesRun(filter, workflowId, type))
    .flatMap(({ sequence, workflowId, events }) =>
      events
        .filter(({ type }) => matchesEvent(filter, type))
        .map(({ type, data }) => eventLine(sequence, workflowId, type, data)),
    );
}

/** A commit and the row of its run after it. */
export interface FoldedCommit {
  readonly commit: StoredCommit;
  readonly row: WorkflowRow;
  readonly line: string;
}

/** The row after each commit, folded from the log alone. */
export function foldCommits(commits: readonly StoredCommit[]): FoldedCommit[] {
  const states = new Map<string, RunState>();
  return commits.map((commit) => {
    const { workflowId, type, sequence } = commit;
    const before = states.get(workflowId) ?? initialRunState(workflowId, type);
    const state = evolveCommit(before, commit);
    states.set(workflowId, state);
    const row = toRow(state);
    return { commit, row, line: stateLine(sequence, workflowId, row) };
  });
}

/** As `expectedEvents`, with `shape: "state"`: one line per commit that has a matching event. */
export function expectedStates(folded: readonly FoldedCommit[], filter: Filter, after = 0): string[] {
  return folded
    .filter(
      ({ commit: { sequence, workflowId, type, events } }) =>
        sequence > after &&
        matchesRun(filter, workflowId, type) &&
        events.some((event) => matchesEvent(filter, event.type)),
    )
    .map(({ line }) => line);
}

export function eventLine(sequence: number, workflowId: string, type: string, data: unknown): string {
  return `${sequence} ${workflowId} ${type} ${shortened(data)}`;
}

export function stateLine(sequence: number, workflowId: string, row: WorkflowRow): string {
  return `${sequence} ${workflowId} state ${shortened(row)}`;
}

const shownChars = 120;

/** The value itself, or a hash that stands for it: hundreds of clients keep what they got. */
function shortened(value: unknown): string {
  const text = JSON.stringify(value);
  return text.length <= shownChars ? text : `${text.length}:${fnv1a(text)}`;
}
