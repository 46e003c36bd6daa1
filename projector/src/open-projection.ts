/**
 * Answers queries from one SQLite file.
 *
 * Owns: a read-only handle, who waits for the checkpoint. Does not own: the file.
 *
 * I1 Everything in one answer is of one sequence: what needs more than one query is read in one transaction.
 * I2 While there is no file (the projector has not made it yet, or is making it anew), answers are those of an empty
 *    projection at sequence 0, and `waitFor` waits.
 * I3 When another file is put at the path, the next call reads that one.
 *
 * Tested by `open-projection.sqlite.test.ts`.
 */
import type { Checkpoint, EventLog } from "@millrace/event-log";
import {
  decodeCommit,
  evolveCommit,
  initialRunState,
  isoTime,
  limits,
  MillraceError,
  noAttributes,
  toScheduleRow,
  type Attributes,
  type EventRow,
  type Page,
  type RunState,
  type ScheduleRow,
  type WorkflowRow,
} from "@millrace/schemas";
import { CheckpointWaiters, projectorBehind } from "./checkpoint-waiters.ts";
import type { CommitPage, Projection } from "./projection.ts";
import { projectorTopic } from "./projector.ts";
import { attributesAround, attributeSpans } from "./sqlite/attribute-history.ts";
import { readCommitPage } from "./sqlite/commit-pages.ts";
import { countRuns, listRuns } from "./sqlite/list-runs.ts";
import { matchingRuns } from "./sqlite/matching-runs.ts";
import { openSnapshot } from "./sqlite/open-snapshot.ts";
import { ReadHandle } from "./sqlite/read-handle.ts";
import { commitsOfRun, quarantineEntries } from "./sqlite/history.ts";
import { listSchedules, scheduleById } from "./sqlite/schedule-record.ts";
import { rowOf, toRunState } from "./sqlite/run-record.ts";
import type { StoredRun } from "./sqlite/run-reader.ts";

const listLimitDefault = 50;
const noCheckpoint: Checkpoint = { sequence: 0, commitId: "", streamCreated: "" };

export interface OpenProjectionOptions {
  /** The projector's file; need not exist yet. */
  readonly path: string;
  /**
   * Brings the projector's hints from whatever process it runs in. Without it (and without {@link OpenedProjection.advance})
   * `waitFor` looks at the file only when called and at its deadline.
   */
  readonly log?: EventLog;
}

export interface OpenedProjection extends Projection {
  /** Says that the file has advanced: the shortest way for a projector in the same process (`onAdvance`). */
  advance(): void;
}

/**
 * Opens the read model. Reads are synchronous and short; a page is at most `limits.pageItems` long. Never blocks the
 * projector. Throws `data_folder_not_writable` or `internal` when the file is there and cannot be read.
 *
 * @example
 * const projection = openProjection({ log, path: "data/projection.sqlite" });
 * await projection.waitFor(sequence, 2_000);
 * projection.workflow("order-42")?.status;
 */
export function openProjection({ path, log }: OpenProjectionOptions): OpenedProjection {
  const handle = new ReadHandle(path);
  const readSequence = () => handle.read((file) => file.checkpoint().sequence, 0);
  const waiters = new CheckpointWaiters(readSequence);
  const advance = () => waiters.advance();
  // A hint that was lost with the connection is made up for when it is back.
  const offs = [log?.onAnnounce(projectorTopic, advance), log?.onStatus(advance)];

  return {
    advance,
    checkpoint: () => handle.read((file) => file.checkpoint(), noCheckpoint),

    workflow(id) {
      return handle.read((file) => {
        const run = file.runs.byId(id);
        return run === null || !isShown(run) ? null : rowOf(run);
      }, null);
    },

    state(id) {
      return handle.read((file) => {
        const run = file.runs.byId(id);
        return run === null || !isShown(run) ? null : stateOf(run);
      }, null);
    },

    stateAt(id, sequence) {
      return handle.read<RunState | null>((file) => {
        const reached = file.checkpoint().sequence;
        if (sequence > reached) throw projectorBehind(sequence, reached, "now");
        const run = file.runs.byId(id);
        if (run === null) return null;
        if (isShown(run) && sequence >= run.record.sequence) return stateOf(run);
        const state = initialRunState(id, run.record.type);
        for (const commit of commitsOfRun(file.queries, run.record.run, 0)) {
          // Where the row stopped, the fold stops: what comes after a commit that cannot be read is not known.
          if (commit.sequence > Math.min(sequence, run.record.sequence)) break;
          evolveCommit(state, { ...commit, events: decodeCommit(commit.body, commit.sequence) });
        }
        return state.startedSequence === 0 ? null : state;
      }, null);
    },

    attributesAt(id, sequence) {
      return handle.read<Attributes>((file) => {
        const run = file.queries.runOf(id);
        return run === null
          ? noAttributes
          : attributesAround(attributeSpans(file.queries, run, sequence), sequence).after;
      }, noAttributes);
    },

    list(options) {
      const limit = pageLimit(options.limit);
      const before = options.after === undefined ? null : runCursor(options.after);
      return handle.read<Page<WorkflowRow> & { readonly sequence: number }>(
        (file) => {
          const records = listRuns(file.queries, options, before, limit + 1);
          const page = records.slice(0, limit);
          return {
            items: page.map((record) => rowOf(file.runs.withSteps(record))),
            next: records.length > limit ? String(page.at(-1)?.run) : null,
            sequence: file.checkpoint().sequence,
          };
        },
        { items: [], next: null, sequence: 0 },
      );
    },

    count: (options, max) => handle.read((file) => countRuns(file.queries, options, max), 0),

    events(id, options) {
      const limit = pageLimit(options.limit);
      const after =
        options.after === undefined ? { sequence: 0, index: Infinity } : eventCursor(options.after);
      return handle.read<Page<EventRow>>(
        (file) => {
          const run = file.queries.runOf(id);
          const items: EventRow[] = [];
          if (run === null) return { items, next: null };
          for (const commit of commitsOfRun(file.queries, run, after.sequence)) {
            for (const [index, event] of decodeCommit(commit.body, commit.sequence).entries()) {
              if (commit.sequence === after.sequence && index <= after.index) continue;
              const last = items.at(-1);
              if (last !== undefined && items.length === limit) {
                return { items, next: `${last.sequence}.${last.index}` };
              }
              items.push({
                sequence: commit.sequence,
                index,
                type: event.type,
                at: isoTime(commit.at),
                data: event.data,
                commitId: commit.commitId,
              });
            }
          }
          return { items, next: null };
        },
        { items: [], next: null },
      );
    },

    schedule(id) {
      return handle.read<ReturnType<Projection["schedule"]>>(
        (file) => {
          const state = scheduleById(file.queries, id);
          return { row: state === null ? null : toScheduleRow(state), sequence: file.checkpoint().sequence };
        },
        { row: null, sequence: 0 },
      );
    },

    schedules({ after = "", limit, ...options }) {
      const most = pageLimit(limit);
      return handle.read<Page<ScheduleRow> & { readonly sequence: number }>(
        (file) => {
          const states = listSchedules(file.queries, { ...options, after, limit: most + 1 });
          const items = states.slice(0, most).map(toScheduleRow);
          return {
            items,
            next: states.length > most ? (items.at(-1)?.id ?? null) : null,
            sequence: file.checkpoint().sequence,
          };
        },
        { items: [], next: null, sequence: 0 },
      );
    },

    commits(filter, after, maxCommits, maxBytes) {
      if (!Number.isSafeInteger(maxCommits) || maxCommits < 1) {
        throw new MillraceError(
          "invalid_request",
          `A page of commits must hold at least one, not ${maxCommits}.`,
        );
      }
      return handle.read<CommitPage>(
        (file) => {
          const checkpoint = file.checkpoint().sequence;
          return readCommitPage(file.queries, { filter, after, maxCommits, maxBytes, checkpoint });
        },
        { commits: [], upTo: 0 },
      );
    },

    snapshot(filter, maxRows) {
      return handle.read<ReturnType<Projection["snapshot"]>>(
        (file) => {
          const rows: WorkflowRow[] = [];
          for (const record of matchingRuns(file.queries, filter)) {
            if (rows.length >= maxRows) throw snapshotTooLarge(maxRows);
            rows.push(rowOf(file.runs.withSteps(record)));
          }
          return { rows, sequence: file.checkpoint().sequence };
        },
        { rows: [], sequence: 0 },
      );
    },

    openSnapshot: (filter) => openSnapshot(path, filter),

    quarantined: () => handle.read((file) => quarantineEntries(file.queries), []),

    waitFor: (sequence, timeoutMs) => waiters.wait(sequence, timeoutMs),

    close() {
      for (const off of offs) off?.();
      waiters.close();
      handle.close();
    },
  };
}

function stateOf({ record, steps }: StoredRun): RunState {
  return toRunState(record, steps);
}

/** A run whose start has not been seen is none yet. */
function isShown({ record }: StoredRun): boolean {
  return record.started_sequence > 0;
}

function pageLimit(limit = listLimitDefault): number {
  if (Number.isSafeInteger(limit) && limit >= 1 && limit <= limits.pageItems) return limit;
  throw new MillraceError(
    "limit_exceeded",
    `A page holds 1 to ${limits.pageItems} items, not ${limit}. Ask for fewer.`,
    {
      details: { limit: limits.pageItems, actual: limit },
    },
  );
}

function runCursor(after: string): number {
  const run = /^[1-9][0-9]{0,15}$/.test(after) ? Number(after) : Number.NaN;
  if (Number.isSafeInteger(run)) return run;
  throw badCursor(after, '"174"');
}

/** `174` is after all events of that commit, `174.0` after its first one. */
function eventCursor(after: string): { sequence: number; index: number } {
  const match = /^(0|[1-9][0-9]{0,15})(?:\.(0|[1-9][0-9]{0,5}))?$/.exec(after);
  const sequence = Number(match?.[1] ?? Number.NaN);
  if (!Number.isSafeInteger(sequence)) throw badCursor(after, '"174" or "174.0"');
  return { sequence, index: match?.[2] === undefined ? Infinity : Number(match[2]) };
}

function badCursor(after: string, example: string): MillraceError {
  return new MillraceError(
    "invalid_request",
    `Page after ${JSON.stringify(after.slice(0, 80))} refused: expected e.g. ${example}. Use "next" of the page before.`,
  );
}

function snapshotTooLarge(maxRows: number): MillraceError {
  return new MillraceError(
    "limit_exceeded",
    `Snapshot refused: more than ${maxRows} runs match the filter. Narrow the filter, or page through the list.`,
    { details: { limit: maxRows } },
  );
}
