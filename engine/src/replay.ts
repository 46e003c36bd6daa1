/** A history brought to workflow code: what a live run, a query on a closed run and a replay test have in common. */
import type { StoredCommit } from "@millrace/event-log";
import {
  evolveCommit,
  initialRunState,
  isOutsideEvent,
  limits,
  type EventData,
  type RunState,
  type WorkflowEvent,
} from "@millrace/schemas";
import { Activation } from "./activation.ts";
import type { AnyWorkflowDefinition } from "./definition.ts";
import { TurnLines } from "./run-logger.ts";
import { assertOpened } from "./payloads/payloads.ts";

/** The part of a commit that folding and replaying need. */
export type HistoryCommit = Pick<StoredCommit, "sequence" | "at" | "commitId" | "condition" | "events"> &
  Partial<Pick<StoredCommit, "writer">>;

export interface PresentEvent {
  readonly event: WorkflowEvent;
  readonly sequence: number;
  /** Kept by a reset or a fork: the code saw it in another life. */
  readonly copied: boolean;
}

/** The present run number of a history: an earlier one was continued as new or reset, and is over. */
export interface PresentRun {
  readonly state: RunState;
  /** Null while a reset or fork has not brought it. */
  readonly start: EventData<"WorkflowStarted"> | null;
  readonly seed: string;
  readonly events: readonly PresentEvent[];
  /** Commits of this run number. */
  readonly commitCount: number;
  /** Sequence up to which an engine has brought all events to the code; 0: none. */
  readonly seenUntil: number;
}

export function presentRun(id: string, type: string, history: readonly HistoryCommit[]): PresentRun {
  const state = initialRunState(id, type);
  let start: EventData<"WorkflowStarted"> | null = null;
  let seed = "";
  let commitCount = 0;
  let seenUntil = 0;
  let events: PresentEvent[] = [];
  let late: PresentEvent[] = [];
  for (const commit of history) {
    const copyingBefore = state.copying;
    evolveCommit(state, commit);
    commitCount++;
    const copied = copyingBefore || commit.events.some(isCopy);
    // The commit that continues a run as new is written by an engine before the new code has seen any of it.
    const continues = commit.events.some(({ type: each }) => each === "WorkflowContinuedAsNew");
    if (typeof commit.writer === "string" && !continues) seenUntil = commit.sequence;
    for (const event of commit.events) {
      if (event.type === "WorkflowReset" || event.type === "WorkflowContinuedAsNew") {
        events = [];
        late = [];
        start = null;
        commitCount = 1;
        // What is kept by a reset was made with the numbers of before.
        if (event.type === "WorkflowContinuedAsNew") seed = "";
        continue;
      }
      if (event.type === "WorkflowStarted" && start === null) {
        start = event.data;
        if (seed === "") seed = commit.commitId;
      }
      if (event.type === "WorkflowForked" && event.data.seed !== undefined) seed = event.data.seed;
      // What comes from outside in the middle of a copy stands behind it: the copied part was made without it.
      if (state.copying && isFromOutside(commit)) {
        late.push({ event, sequence: commit.sequence, copied: false });
      } else events.push({ event, sequence: commit.sequence, copied });
      if (event.type === "HistoryCopied") events.push(...late.splice(0));
    }
  }
  return { state, start, seed, events, commitCount, seenUntil };
}

/** A recorded history does not say what its owner declared, so it goes by the events. */
function isFromOutside({ condition, events }: HistoryCommit): boolean {
  return condition === null && events.every(isOutsideEvent);
}

function isCopy({ type }: WorkflowEvent): boolean {
  return type === "WorkflowReset" || type === "WorkflowForked";
}

export interface ReplayOptions {
  readonly definition: AnyWorkflowDefinition;
  /** Parsed by the definition's schema. */
  readonly input: unknown;
  readonly now: () => number;
  /** Bytes of JSON of one payload. Default: that of a connection. */
  readonly payloadBytesMax?: number;
  /** Where `ctx.log` writes. Default: nowhere. */
  readonly lines?: TurnLines;
  /** Refuse to the code what a replay cannot answer. Default false; whoever sets it holds the guard. */
  readonly guard?: boolean;
  readonly onStray: (activation: Activation, error: Error) => void;
}

/** Runs the code over what is recorded. Rejects with `non_determinism` or `non_deterministic_call`. */
export async function replay(present: PresentRun, options: ReplayOptions): Promise<Activation> {
  const { state, start, seed, events, seenUntil } = present;
  if (start === null) throw new Error(`The history of ${state.id} has no start to replay from.`);
  const {
    definition,
    input,
    now,
    payloadBytesMax = limits.payloadBytes,
    lines = new TurnLines(),
    guard = false,
    onStray,
  } = options;
  const activation: Activation = new Activation({
    definition,
    workflowId: state.id,
    input,
    start,
    run: state.run,
    seed,
    recordedNow: state.nowValues,
    recordedPatches: state.open?.patches ?? [],
    now,
    payloadBytesMax,
    lines,
    guard,
    onStray: (error) => onStray(activation, error),
  });
  // What the code did is shown up to here; what stands behind it came from outside, and was not seen by it yet.
  const lastOwn = events.findLastIndex(({ event }) => !isOutsideEvent(event));
  for (const [index, { event, sequence, copied }] of events.entries()) {
    activation.replaying = index < lastOwn;
    activation.silent = copied || sequence <= seenUntil;
    assertOpened(event);
    await activation.deliver(event, sequence);
  }
  activation.replaying = false;
  activation.silent = false;
  return activation;
}
