/** A history brought to workflow code: what a live run, a query on a closed run and a replay test have in common. */
import type { StoredCommit } from "@millrace/event-log";
import {
  evolveCommit,
  initialRunState,
  isOutsideEvent,
  type EventData,
  type RunState,
  type WorkflowEvent,
} from "@millrace/schemas";
import { Activation } from "./activation.ts";
import type { AnyWorkflowDefinition } from "./definition.ts";

/** The part of a commit that folding and replaying need. */
export type HistoryCommit = Pick<StoredCommit, "sequence" | "at" | "commitId" | "condition" | "events">;

/** The present run number of a history: an earlier one was continued as new or reset, and is over. */
export interface PresentRun {
  readonly state: RunState;
  /** Null while a reset or fork has not brought it. */
  readonly start: EventData<"WorkflowStarted"> | null;
  readonly seed: string;
  readonly events: readonly { readonly event: WorkflowEvent; readonly sequence: number }[];
  /** Commits of this run number. */
  readonly commitCount: number;
}

export function presentRun(id: string, type: string, history: readonly HistoryCommit[]): PresentRun {
  const state = initialRunState(id, type);
  let start: EventData<"WorkflowStarted"> | null = null;
  let seed = "";
  let commitCount = 0;
  let events: { event: WorkflowEvent; sequence: number }[] = [];
  for (const commit of history) {
    evolveCommit(state, commit);
    commitCount++;
    for (const event of commit.events) {
      if (event.type === "WorkflowReset" || event.type === "WorkflowContinuedAsNew") {
        events = [];
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
      events.push({ event, sequence: commit.sequence });
    }
  }
  return { state, start, seed, events, commitCount };
}

export interface ReplayOptions {
  readonly definition: AnyWorkflowDefinition;
  /** Parsed by the definition's schema. */
  readonly input: unknown;
  readonly now: () => number;
  readonly onStray: (activation: Activation, error: Error) => void;
  /** A recorded event with its payloads as the code is to see them. Default: as it stands. */
  readonly open?: (event: WorkflowEvent) => WorkflowEvent | Promise<WorkflowEvent>;
}

/** Runs the code over what is recorded. Rejects with `non_determinism` or `non_deterministic_call`. */
export async function replay(present: PresentRun, options: ReplayOptions): Promise<Activation> {
  const { state, start, seed, events } = present;
  if (start === null) throw new Error(`The history of ${state.id} has no start to replay from.`);
  const { definition, input, now, onStray, open } = options;
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
    onStray: (error) => onStray(activation, error),
  });
  // What the code did is shown up to here; what stands behind it came from outside, and was not seen by it yet.
  const lastOwn = events.findLastIndex(({ event }) => !isOutsideEvent(event));
  for (const [index, { event, sequence }] of events.entries()) {
    activation.replaying = index < lastOwn;
    await activation.deliver(open === undefined ? event : await open(event), sequence);
  }
  activation.replaying = false;
  return activation;
}
