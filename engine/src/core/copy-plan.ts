/**
 * A reset, a retry and a fork as commits to append. Pure: a function of histories and the request.
 *
 * C1 What is too large for one commit begins `partial` and ends with `HistoryCopied`; nobody runs the code between.
 * C2 A copy that was broken off is gone on with by the same request, and begun anew by another one. A request that was
 *    carried out, and after which the run did nothing of its own, gives no commits.
 * C3 What comes from outside during a copy stands behind it (`run-numbers.ts`).
 */
import {
  evolveCommit,
  initialRunState,
  isClosed,
  isOutsideEvent,
  MillraceError,
  type EventData,
  type RunState,
  type WorkflowEvent,
} from "@millrace/schemas";
import { sameJson } from "./decide.ts";
import { keepHistory, type KeepUpTo, type KeptHistory } from "./kept-history.ts";
import { runNumbers, type HistoryCommit, type RunNumber } from "./run-numbers.ts";
import { splitEvents } from "./split-events.ts";

export interface ResetRequest {
  readonly kind: "reset" | "retry";
  /** The step that is done anew with all that followed it; absent: all of it (`reset`), the failed step (`retry`). */
  readonly step?: string;
  /** Of the code that goes on. Default: the run's present one. */
  readonly version?: string;
  /** Also when compensations ran for what is kept. */
  readonly force?: boolean;
  readonly reason?: string;
  readonly by?: string;
}

export type ForkRequest = Omit<ResetRequest, "kind" | "force">;

export interface CopyPlan {
  /** In order; none: it was carried out before. */
  readonly commits: readonly (readonly WorkflowEvent[])[];
  /** The run number that begins with it. */
  readonly run: number;
  readonly step: string | null;
  readonly driver: RunState["driver"];
  readonly parent: string | null;
}

/** Throws `workflow_not_failed`, `step_not_begun`, `reset_unsafe`. `history` is not empty. */
export function planReset(
  id: string,
  type: string,
  history: readonly HistoryCommit[],
  request: ResetRequest,
  eventsMax?: number,
): CopyPlan {
  const runs = runNumbers(history);
  const present = runs.at(-1);
  if (present === undefined) throw new Error(`Run ${id} has no history.`);
  const going = goingOn(id, type, history, runs, request, eventsMax);
  if (going !== null) return going;
  const base = present.copying ? completeBefore(runs, present) : present;
  const before = stateBefore(id, type, history, base.end);
  const run = stateBefore(id, type, history, Infinity).run + 1;
  const { kept, wanted } = wantedOf(id, before, base, run, request, lateBetween(runs, base));
  if (request.kind === "retry" && !isRetried(before)) throw notFailed(before);
  if (kept.compensated.length > 0 && request.force !== true) throw unsafe(id, request.kind, kept);
  const header = (partial: boolean): WorkflowEvent => ({
    type: "WorkflowReset",
    data: {
      run,
      kind: request.kind,
      ...(kept.step === null ? {} : { step: kept.step }),
      ...operatorOf(request),
      ...(partial ? { partial } : {}),
    },
  });
  return planOf(before, run, kept.step, commitsOf(wanted, 0, header, eventsMax));
}

/** As `planReset`, for a new run. `target` is the new run's history: empty, or that of this fork. */
export function planFork(
  source: { readonly id: string; readonly type: string; readonly history: readonly HistoryCommit[] },
  target: { readonly id: string; readonly history: readonly HistoryCommit[] },
  request: ForkRequest,
  eventsMax?: number,
): CopyPlan {
  const runs = runNumbers(source.history);
  const last = runs.at(-1);
  if (last === undefined) throw new Error(`Run ${source.id} has no history.`);
  const base = last.copying ? completeBefore(runs, last) : last;
  const before = stateBefore(source.id, source.type, source.history, base.end);
  const kept = keepHistory(source.id, base.events, {
    upTo: upToOf({ kind: "reset", ...request }),
    tokenSuffix: `${target.id}-1`,
    version: request.version ?? before.version,
    keepsSignals: false,
  });
  if (kept.openChildren.length > 0) {
    throw new MillraceError(
      "reset_unsafe",
      `Fork of ${source.id} refused: at that step its child ${kept.openChildren[0]} was open, and a child has one parent. ` +
        "Fork from a step before the child was started, or after it closed.",
      { details: { children: kept.openChildren.slice(0, 20) } },
    );
  }
  const wanted = kept.events.map(withoutParent);
  const forked: EventData<"WorkflowForked"> = {
    from: source.id,
    ...(kept.step === null ? {} : { step: kept.step }),
    seed: base.seed,
    ...operatorOf(request),
  };
  const plan = (commits: CopyPlan["commits"]) => planOf({ ...before, parent: null }, 1, kept.step, commits);
  const [present] = runNumbers(target.history);
  if (present !== undefined && target.history.length > 0) {
    const same =
      present.header?.type === "WorkflowForked" &&
      present.header.data.from === source.id &&
      isPrefix(present.copied, wanted, !present.copying);
    if (!same) {
      throw new MillraceError(
        "workflow_exists",
        `Fork of ${source.id} to ${target.id} refused: a run with this id exists, and it is not this fork. Use another id.`,
      );
    }
    return plan(present.copying ? rest(wanted, present.copied.length, eventsMax) : []);
  }
  const header = (partial: boolean): WorkflowEvent => ({
    type: "WorkflowForked",
    data: partial ? { ...forked, partial } : forked,
  });
  return plan(commitsOf(wanted, 1, header, eventsMax));
}

/** C2: the present run number is this request's, whole or in part. */
function goingOn(
  id: string,
  type: string,
  history: readonly HistoryCommit[],
  runs: readonly RunNumber[],
  request: ResetRequest,
  eventsMax: number | undefined,
): CopyPlan | null {
  const present = runs.at(-1);
  if (present?.header?.type !== "WorkflowReset" || present.header.data.kind !== request.kind) return null;
  const { run, step = null } = present.header.data;
  const base = completeBefore(runs, present);
  const before = stateBefore(id, type, history, base.end);
  if (request.kind === "retry" && !isRetried(before)) return null;
  if (request.step !== undefined && request.step !== step) return null;
  const { wanted } = wantedOf(id, before, base, run, request, lateBetween(runs.slice(0, -1), base));
  if (!isPrefix(present.copied, wanted, !present.copying)) return null;
  if (present.copying) return planOf(before, run, step, rest(wanted, present.copied.length, eventsMax));
  return present.events.slice(present.copied.length).every(isOutsideEvent)
    ? planOf(before, run, step, [])
    : null;
}

function wantedOf(
  id: string,
  before: RunState,
  base: RunNumber,
  run: number,
  request: ResetRequest,
  late: readonly WorkflowEvent[],
): { readonly kept: KeptHistory; readonly wanted: readonly WorkflowEvent[] } {
  const kept = keepHistory(id, base.events, {
    upTo: upToOf(request),
    tokenSuffix: String(run),
    version: request.version ?? before.version,
    keepsSignals: true,
  });
  const wanted = [...kept.events, ...late.filter(({ type }) => type === "SignalReceived")];
  // What an operator holds stays held.
  const { paused } = before;
  if (paused !== null) wanted.push({ type: "WorkflowPaused", data: operatorOf(paused) });
  return { kept, wanted };
}

/** What came from outside during copies that were given up since. */
function lateBetween(runs: readonly RunNumber[], base: RunNumber): readonly WorkflowEvent[] {
  return runs.slice(runs.indexOf(base) + 1).flatMap(({ late }) => late);
}

function upToOf({ kind, step }: ResetRequest): KeepUpTo {
  if (step !== undefined) return { kind: "step", step };
  return kind === "retry" ? { kind: "failed" } : { kind: "start" };
}

/** C1. `at` is where the header stands. */
function commitsOf(
  wanted: readonly WorkflowEvent[],
  at: number,
  header: (partial: boolean) => WorkflowEvent,
  eventsMax: number | undefined,
): WorkflowEvent[][] {
  const withHeader = (partial: boolean) => [...wanted.slice(0, at), header(partial), ...wanted.slice(at)];
  const whole = splitEvents(withHeader(false), eventsMax);
  if (whole.length === 1) return whole;
  return splitEvents([...withHeader(true), { type: "HistoryCopied", data: {} }], eventsMax);
}

function rest(
  wanted: readonly WorkflowEvent[],
  from: number,
  eventsMax: number | undefined,
): WorkflowEvent[][] {
  return splitEvents([...wanted.slice(from), { type: "HistoryCopied", data: {} }], eventsMax);
}

function planOf(
  { driver, parent }: RunState,
  run: number,
  step: string | null,
  commits: CopyPlan["commits"],
): CopyPlan {
  return { commits, run, step, driver, parent: parent?.id ?? null };
}

/** The run number that an unfinished copy is of. */
function completeBefore(runs: readonly RunNumber[], present: RunNumber): RunNumber {
  const base = runs.slice(0, runs.indexOf(present)).findLast(({ copying }) => !copying);
  if (base === undefined) throw new Error("A copy without a run number before it.");
  return base;
}

function stateBefore(id: string, type: string, history: readonly HistoryCommit[], end: number): RunState {
  const state = initialRunState(id, type);
  for (const commit of history) if (commit.sequence < end) evolveCommit(state, commit);
  return state;
}

function isPrefix(
  copied: readonly WorkflowEvent[],
  wanted: readonly WorkflowEvent[],
  whole: boolean,
): boolean {
  return (
    (whole ? copied.length === wanted.length : copied.length <= wanted.length) &&
    copied.every((event, n) => sameJson(event, wanted[n]))
  );
}

function withoutParent(event: WorkflowEvent): WorkflowEvent {
  if (event.type !== "WorkflowStarted" || event.data.parent === undefined) return event;
  const { parent: _parent, ...data } = event.data;
  return { type: "WorkflowStarted", data };
}

function isRetried({ status }: RunState): boolean {
  return status === "failed" || status === "timed_out" || status === "stuck";
}

function operatorOf(request: { readonly reason?: string | null; readonly by?: string | null }): {
  reason?: string;
  by?: string;
} {
  const { reason, by } = request;
  return {
    ...(reason === undefined || reason === null ? {} : { reason }),
    ...(by === undefined || by === null ? {} : { by }),
  };
}

function notFailed(state: RunState): MillraceError {
  return new MillraceError(
    "workflow_not_failed",
    `Retry of ${state.id} refused: it is ${state.status}, and only a failed, timed out or stuck run is retried. ` +
      (isClosed(state.status)
        ? "Reset it to a step, or start a new run."
        : "Wait for its end, or reset it to a step."),
    { details: { runStatus: state.status } },
  );
}

function unsafe(id: string, kind: string, { compensated }: KeptHistory): MillraceError {
  return new MillraceError(
    "reset_unsafe",
    `${kind === "retry" ? "Retry" : "Reset"} of ${id} refused: compensation ${compensated[0]} ran for a step that would be kept, ` +
      "so the code would go on with what was undone. Reset to an earlier step, or give force when it is harmless.",
    { details: { compensations: compensated.slice(0, 20) } },
  );
}
