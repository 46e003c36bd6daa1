/**
 * Which part of a run's history goes on after a reset, retry or fork. Pure.
 *
 * K1 What is kept is a beginning of the history, and so one that the code can be replayed over: its decisions follow
 *    from what stands before them. Bookkeeping of operators and of former copies is left out.
 * K2 Signals that came later are kept behind it: they are facts from outside, and nobody will send them again.
 * K3 A task that is open in what is kept gets a new token: its worker may have ended it in the part that is dropped.
 * K4 The same history and the same request give the same list: a copy that was broken off can be gone on with.
 */
import { isClosingEvent, MillraceError, stepKey, type WorkflowEvent } from "@millrace/schemas";

/** Up to where a history is kept. `failed`: up to the last failure of a step, else up to the run's end. */
export type KeepUpTo =
  { readonly kind: "start" } | { readonly kind: "step"; readonly step: string } | { readonly kind: "failed" };

export interface KeepRequest {
  readonly upTo: KeepUpTo;
  /** Told apart from the tokens of before. */
  readonly tokenSuffix: string;
  /** The version that the code goes on with. */
  readonly version: string;
  readonly keepsSignals: boolean;
}

export interface KeptHistory {
  readonly events: readonly WorkflowEvent[];
  /** The step that is done anew; null when it is none in particular. */
  readonly step: string | null;
  /** Compensations that were carried out for what is kept: the code will believe that they were not. */
  readonly compensated: readonly string[];
  /** Children that are open in what is kept. */
  readonly openChildren: readonly string[];
}

const leftOut: ReadonlySet<WorkflowEvent["type"]> = new Set<WorkflowEvent["type"]>([
  "WorkflowReset",
  "WorkflowForked",
  "HistoryCopied",
  "WorkflowMigrated",
  "WorkflowPaused",
  "WorkflowResumed",
  "WorkflowTurnFailed",
  "HistoryLimitApproached",
]);
const finalTypes: ReadonlySet<WorkflowEvent["type"]> = new Set<WorkflowEvent["type"]>([
  "StepCompleted",
  "StepFailed",
  "StepTimedOut",
  "StepCancelled",
  "CompensationCompleted",
  "CompensationFailed",
]);
const failureTypes: ReadonlySet<WorkflowEvent["type"]> = new Set<WorkflowEvent["type"]>([
  "StepFailed",
  "StepTimedOut",
  "CompensationFailed",
]);

/** `events` are those of the present run number. `step_not_begun` when the step is not in them. */
export function keepHistory(id: string, events: readonly WorkflowEvent[], request: KeepRequest): KeptHistory {
  const { upTo, version, keepsSignals } = request;
  const end = events.findIndex(isClosingEvent);
  const open = end === -1 ? events : events.slice(0, end);
  const { at, step } = cutOf(id, open, upTo);
  const kept = open.slice(0, at);
  const dropped = events.slice(at);
  const again = upTo.kind === "failed" ? step : null;
  return {
    events: [
      ...keptOf(kept, again, request).map((event) => withVersion(event, version)),
      ...(keepsSignals ? dropped.filter(({ type }) => type === "SignalReceived") : []),
    ],
    step,
    compensated: compensatedOf(kept, dropped),
    openChildren: openChildrenOf(kept),
  };
}

function cutOf(
  id: string,
  open: readonly WorkflowEvent[],
  upTo: KeepUpTo,
): { readonly at: number; readonly step: string | null } {
  switch (upTo.kind) {
    case "start":
      return { at: open.findIndex(({ type }) => type === "WorkflowStarted") + 1, step: null };
    case "step": {
      const at = open.findIndex((event) => keyOf(event) === upTo.step);
      if (at !== -1) return { at, step: upTo.step };
      const known = [...new Set(open.map(keyOf).filter((key) => key !== null))];
      throw new MillraceError(
        "step_not_begun",
        `Step ${upTo.step} of run ${id} was never begun, so nothing goes on from it. ` +
          (known.length === 0 ? "It has no steps yet." : `It has: ${known.slice(-20).join(", ")}.`),
        { details: { step: upTo.step, steps: known.slice(-20) } },
      );
    }
    case "failed": {
      const at = open.findLastIndex(({ type }) => failureTypes.has(type));
      const failed = open[at];
      return failed === undefined ? { at: open.length, step: null } : { at, step: keyOf(failed) };
    }
  }
}

/** K1, K3. Of `again` and of tasks that are open nothing is kept but that the code asked for them. */
function keptOf(
  kept: readonly WorkflowEvent[],
  again: string | null,
  { tokenSuffix }: KeepRequest,
): WorkflowEvent[] {
  const finished = new Set(kept.filter(({ type }) => finalTypes.has(type)).map(keyOf));
  const asked = new Set<string>();
  const result: WorkflowEvent[] = [];
  for (const event of kept) {
    if (leftOut.has(event.type)) continue;
    const key = keyOf(event);
    const isOpen = key !== null && !finished.has(key);
    if (event.type === "StepScheduled" && isOpen) {
      if (key === null || asked.has(key)) continue;
      asked.add(key);
      const [base = ""] = event.data.token.split("-", 1);
      result.push({ type: "StepScheduled", data: { ...event.data, token: `${base}-${tokenSuffix}` } });
      continue;
    }
    const isAttempt = event.type === "StepStarted" || event.type === "StepRetryScheduled";
    if (isAttempt && isOpen && (key === again || (key !== null && asked.has(key)))) continue;
    result.push(event);
  }
  return result;
}

function withVersion(event: WorkflowEvent, version: string): WorkflowEvent {
  if (event.type !== "WorkflowStarted" || event.data.version === version) return event;
  return { type: "WorkflowStarted", data: { ...event.data, version } };
}

function compensatedOf(kept: readonly WorkflowEvent[], dropped: readonly WorkflowEvent[]): string[] {
  const registered = new Set(kept.filter(({ type }) => type === "CompensationRegistered").map(keyOf));
  return dropped
    .filter(({ type }) => type === "CompensationStarted")
    .map(keyOf)
    .filter((key): key is string => key !== null && registered.has(key));
}

function openChildrenOf(kept: readonly WorkflowEvent[]): string[] {
  const children = new Set<string>();
  for (const event of kept) {
    if (event.type === "ChildWorkflowStarted") children.add(event.data.child);
    else if (event.type === "ChildWorkflowClosed") children.delete(event.data.child);
  }
  return [...children];
}

/** Null for what is about no step. */
function keyOf({ data }: WorkflowEvent): string | null {
  return "occurrence" in data ? stepKey(data.name, data.occurrence) : null;
}
