/**
 * What happens to a schedule next. Pure: the time and what is known of its runs are given.
 *
 * S1 A tick is decided once: `through` only rises, and every decision is appended with an expectation.
 * S2 A tick's run has an id that follows from schedule and tick, so that starting it again starts nothing.
 * S3 Under every policy but `allow`, a run is decided only when no other of the schedule is open.
 * S4 Nothing is dropped without a trace: what starts no run is counted in `skipped`, with the reason.
 * S5 A null answer means that there is nothing to record.
 */
import {
  limits,
  type EventData,
  type ScheduledRun,
  type ScheduleMemo,
  type ScheduleSpec,
  type ScheduleState,
  type SkippedTicks,
  type StoredScheduleSpec,
  type WorkflowEvent,
} from "@millrace/schemas";
import { sameJson } from "../../core/decide.ts";
import { dueAt, nextOf, runIdOf, ticksOf } from "./schedule-ticks.ts";

export interface Operator {
  readonly reason?: string;
  readonly by?: string;
}

export type ScheduleEvent = Extract<WorkflowEvent, { type: `Schedule${string}` }>;

/** Why a schedule pauses itself. */
const historyFull: Operator = {
  reason: `its history has ${limits.scheduleCommits} commits, the limit: create it anew under another id`,
  by: "millrace",
};

/** Ticks looked at in one decision: bounds its time when an owner was away for long. */
const ticksLookedAt = 1_000;

/** `before`: commits of a deleted schedule under the same id, whose history it goes on with. */
export function decideCreate(
  id: string,
  spec: ScheduleSpec,
  operator: Operator,
  at: number,
  before = 0,
): ScheduleEvent {
  const memo: ScheduleMemo = {
    specSequence: null,
    createdAt: at,
    commits: before + 1,
    paused: null,
    through: at,
    ...nextOf(id, spec, at),
    open: [],
    waiting: [],
    backfills: [],
    counts: { triggered: 0, skipped: 0, missed: 0 },
    recent: [],
    failure: null,
  };
  return { type: "ScheduleCreated", data: { ...operator, ...storedSpec(spec), memo } };
}

export function decideUpdate(
  state: ScheduleState,
  spec: ScheduleSpec,
  operator: Operator,
  at: number,
): ScheduleEvent | null {
  if (sameJson(spec, state.spec)) return null;
  const timing = ({ cron, timeZone, everyMs, startAt, endAt }: ScheduleSpec) => [
    cron,
    timeZone,
    everyMs,
    startAt,
    endAt,
  ];
  const sameTicks = sameJson(timing(spec), timing(state.spec));
  // New ticks begin now: those that the new timing would have had before are nobody's debt.
  const through = sameTicks ? state.through : Math.max(state.through, at);
  const memo: ScheduleMemo = {
    ...memoOf(state),
    specSequence: null,
    through,
    ...nextOf(state.id, spec, through),
    backfills: sameTicks ? state.backfills : [],
  };
  return { type: "ScheduleUpdated", data: { ...operator, ...storedSpec(spec), memo } };
}

export function decidePause(state: ScheduleState, operator: Operator, at: number): ScheduleEvent | null {
  if (state.paused !== null) return null;
  const paused = { since: at, reason: operator.reason ?? null, by: operator.by ?? null };
  return { type: "SchedulePaused", data: { ...operator, memo: { ...memoOf(state), paused } } };
}

/** Ticks of the pause are not caught up: that is what a pause is for. */
export function decideResume(state: ScheduleState, operator: Operator, at: number): ScheduleEvent | null {
  if (state.paused === null) return null;
  const through = Math.max(state.through, at);
  const memo = { ...memoOf(state), paused: null, through, ...nextOf(state.id, state.spec, through) };
  return { type: "ScheduleResumed", data: { ...operator, memo } };
}

export function decideDelete(state: ScheduleState, operator: Operator): ScheduleEvent | null {
  if (state.status === "deleted") return null;
  const memo = { ...memoOf(state), waiting: [], backfills: [], nextTickAt: null, nextDueAt: null };
  return { type: "ScheduleDeleted", data: { ...operator, memo } };
}

/** A run now, paused or not. While another is open it waits for that one, except under `allow`. */
export function decideTrigger(
  state: ScheduleState,
  id: string,
  by: string | undefined,
  at: number,
  isOpen: (runId: string) => boolean,
): EventData<"ScheduleTriggered"> {
  const draft = draftOf(state, isOpen);
  const run: ScheduledRun = { tick: at, id, kind: "manual" };
  if (draft.mayStart()) draft.start(run);
  else draft.waiting.push(run);
  const data = draft.data(at);
  return {
    ...data,
    ...(by === undefined ? {} : { by }),
    ...(data.runs.length > 0 ? {} : { waiting: [run] }),
  };
}

/** The ticks in `[from, to]` that a backfill asks for, at most one more than the limit. */
export function ticksBetween(spec: ScheduleSpec, from: number, to: number): number[] {
  const { next } = ticksOf(spec);
  const found: number[] = [];
  for (let tick = next(from - 1); tick !== null && tick <= to; tick = next(tick)) {
    found.push(tick);
    if (found.length > limits.scheduleBackfillTicks) break;
  }
  return found;
}

/** Null when the same backfill waits already. */
export function decideBackfill(
  state: ScheduleState,
  from: number,
  to: number,
  by: string | undefined,
): ScheduleEvent | null {
  const asked = { after: from - 1, to };
  if (state.backfills.some((other) => sameJson(other, asked))) return null;
  const memo = { ...memoOf(state), backfills: [...state.backfills, asked] };
  return {
    type: "ScheduleTriggered",
    data: {
      runs: [],
      skipped: [],
      backfill: { from, to },
      memo,
      ...(by === undefined ? {} : { by }),
    },
  };
}

export function decideStartFailed(
  state: ScheduleState,
  run: ScheduledRun,
  error: string,
  at: number,
): ScheduleEvent {
  const message = error.slice(0, limits.messageChars);
  const memo: ScheduleMemo = {
    ...memoOf(state),
    open: state.open.filter(({ id }) => id !== run.id),
    failure: { id: run.id, tick: run.tick, message, at },
  };
  return { type: "ScheduleStartFailed", data: { run, error: message, memo } };
}

/** What is due at `now`: ticks by the overlap policy, runs that waited, backfills. */
export function decideDue(
  state: ScheduleState,
  now: number,
  isOpen: (runId: string) => boolean,
): ScheduleEvent | null {
  if (state.status === "deleted") return null;
  if (state.commits >= limits.scheduleCommits) return decidePause(state, historyFull, now);
  const draft = draftOf(state, isOpen);
  let changed = drainWaiting(state, draft);
  if (state.status === "active") {
    const due = takeDue(state, draft, now);
    changed = due || changed;
    changed = drainBackfills(state, draft) || changed;
  }
  return changed ? { type: "ScheduleTriggered", data: draft.data(now) } : null;
}

/** Open runs that are to be asked to cancel: under `cancel-previous`, when something newer waits for their end. */
export function runsToCancel(state: ScheduleState): readonly ScheduledRun[] {
  if (state.spec.overlap !== "cancel-previous" || state.status === "deleted") return [];
  const waits = state.waiting.some(
    ({ kind }) => kind !== "backfill" && (state.status === "active" || kind === "manual"),
  );
  return waits ? state.open : [];
}

interface Draft {
  readonly runs: ScheduledRun[];
  readonly waiting: ScheduledRun[];
  readonly skipped: SkippedTicks[];
  through: number;
  backfills: ScheduleMemo["backfills"];
  /** S3 */
  mayStart(): boolean;
  start(run: ScheduledRun): void;
  skip(tick: number): void;
  full(): boolean;
  data(at: number): EventData<"ScheduleTriggered">;
}

function draftOf(state: ScheduleState, isOpen: (runId: string) => boolean): Draft {
  const open = state.open.filter(({ id }) => isOpen(id));
  const runs: ScheduledRun[] = [];
  const waiting = [...state.waiting];
  const skipped: SkippedTicks[] = [];
  return {
    runs,
    waiting,
    skipped,
    through: state.through,
    backfills: state.backfills,
    mayStart: () => state.spec.overlap === "allow" || (open.length === 0 && runs.length === 0),
    start: (run) => void runs.push(run),
    skip(tick) {
      const last = skipped.at(-1);
      if (last?.reason === "overlap")
        skipped[skipped.length - 1] = { ...last, to: tick, count: last.count + 1 };
      else skipped.push({ reason: "overlap", from: tick, to: tick, count: 1 });
    },
    full: () => runs.length >= limits.scheduleRunsPerCommit,
    data(at) {
      const countOf = (reason: SkippedTicks["reason"]) =>
        skipped.reduce((sum, each) => sum + (each.reason === reason ? each.count : 0), 0);
      const { counts } = state;
      const memo: ScheduleMemo = {
        ...memoOf(state),
        through: this.through,
        ...(this.through === state.through ? {} : nextOf(state.id, state.spec, this.through)),
        open: [...open, ...runs].slice(-limits.scheduleOpenRuns),
        waiting,
        backfills: this.backfills,
        counts: {
          triggered: counts.triggered + runs.length,
          skipped: counts.skipped + countOf("overlap"),
          missed: counts.missed + countOf("missed"),
        },
        recent: [...runs.map((run) => ({ ...run, at })).reverse(), ...state.recent].slice(
          0,
          limits.scheduleRecentRuns,
        ),
      };
      return { runs, skipped, memo };
    },
  };
}

/** A pause holds back what its ticks left waiting, not what somebody asked for. */
function drainWaiting(state: ScheduleState, draft: Draft): boolean {
  let changed = false;
  while (draft.mayStart() && !draft.full()) {
    const next = draft.waiting.findIndex(({ kind }) => state.status === "active" || kind === "manual");
    const [run] = next === -1 ? [] : draft.waiting.splice(next, 1);
    if (run === undefined) return changed;
    draft.start(run);
    changed = true;
  }
  return changed;
}

function takeDue(state: ScheduleState, draft: Draft, now: number): boolean {
  const { id, spec } = state;
  const { next } = ticksOf(spec);
  const before = draft.through;
  const horizon = now - spec.catchUpWindowMs;
  let tick = next(draft.through);
  if (tick !== null && tick < horizon) {
    const missed = missedBefore(next, tick, horizon);
    draft.skipped.push(missed);
    draft.through = Math.max(missed.to, horizon - 1);
    tick = next(draft.through);
  }
  const due: number[] = [];
  while (tick !== null && due.length < ticksLookedAt && dueAt(id, spec, tick) <= now) {
    due.push(tick);
    tick = next(tick);
  }
  for (const [n, each] of due.entries()) {
    if (draft.full()) break;
    // Of several that came together, only the last would not be cancelled at once.
    if (spec.overlap === "cancel-previous" && n < due.length - 1) draft.skip(each);
    else takeTick(state, draft, each);
    draft.through = each;
  }
  return draft.through !== before;
}

function takeTick(state: ScheduleState, draft: Draft, tick: number): void {
  const run: ScheduledRun = { tick, id: runIdOf(state.id, tick), kind: "tick" };
  const { waiting } = draft;
  if (draft.mayStart() && (state.spec.overlap === "allow" || waiting.length === 0)) return draft.start(run);
  const buffered = waiting.findIndex(({ kind }) => kind === "tick");
  switch (state.spec.overlap) {
    case "allow":
    case "skip":
      return draft.skip(tick);
    case "buffer-one":
      if (buffered === -1) waiting.push(run);
      else draft.skip(tick);
      return;
    case "cancel-previous": {
      const [replaced] = buffered === -1 ? [] : waiting.splice(buffered, 1);
      if (replaced !== undefined) draft.skip(replaced.tick);
      waiting.push(run);
      return;
    }
  }
}

/** Counted up to a limit: a per-second schedule that nobody hosted for a month must not cost seconds. */
function missedBefore(next: (after: number) => number | null, first: number, horizon: number): SkippedTicks {
  let last = first;
  let count = 1;
  for (let tick = next(first); tick !== null && tick < horizon; tick = next(tick)) {
    if (count === limits.scheduleMissedCounted)
      return { reason: "missed", from: first, to: horizon - 1, count };
    last = tick;
    count++;
  }
  return { reason: "missed", from: first, to: last, count };
}

/** One by one behind everything else, but all at once under `allow`. */
function drainBackfills(state: ScheduleState, draft: Draft): boolean {
  const { id, spec } = state;
  const { next } = ticksOf(spec);
  const before = draft.backfills;
  while (draft.backfills[0] !== undefined && !draft.full()) {
    const [{ after, to }, ...rest] = draft.backfills;
    const tick = next(after);
    if (tick === null || tick > to) {
      draft.backfills = rest;
      continue;
    }
    if (!draft.mayStart() || draft.waiting.length > 0) break;
    draft.start({ tick, id: runIdOf(id, tick), kind: "backfill" });
    draft.backfills = [{ after: tick, to }, ...rest];
  }
  return draft.backfills !== before;
}

function storedSpec(spec: ScheduleSpec): { readonly spec: StoredScheduleSpec; readonly input: unknown } {
  const { input, ...workflow } = spec.workflow;
  return { spec: { ...spec, workflow }, input };
}

function memoOf(state: ScheduleState): ScheduleMemo {
  const { specSequence, paused, through, nextTickAt, nextDueAt, open, waiting, backfills, counts } = state;
  const { createdAt, recent, failure } = state;
  return {
    ...{ createdAt, commits: state.commits + 1, specSequence, paused, through, nextTickAt, nextDueAt },
    ...{ open, waiting, backfills, counts, recent, failure },
  };
}
