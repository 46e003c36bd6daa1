/** A history as run numbers: each begins with a start, by `continueAsNew`, or with an operator's reset or fork. */
import { isOutsideEvent, type RunCondition, type WorkflowEvent } from "@millrace/schemas";

/** The part of a commit that folding and copying need. */
export interface HistoryCommit {
  readonly sequence: number;
  readonly at: number;
  readonly commitId: string;
  /** Null for a fact from outside. */
  readonly condition: RunCondition | null;
  readonly events: readonly WorkflowEvent[];
}

export interface RunNumber {
  /** What began it, when it has a part of another history. */
  readonly header: Extract<WorkflowEvent, { type: "WorkflowReset" | "WorkflowForked" }> | null;
  /** In the order in which the code gets them: what came from outside during a copy stands behind the copy. */
  readonly events: readonly WorkflowEvent[];
  /** Of `events`, those that were copied. */
  readonly copied: readonly WorkflowEvent[];
  /** The copy was not brought to its end. */
  readonly copying: boolean;
  /** What came from outside while it is being copied: not in `events` yet. */
  readonly late: readonly WorkflowEvent[];
  /** Where its random numbers come from. */
  readonly seed: string;
  /** Sequence of the commit with which the next one began; Infinity for the last. */
  readonly end: number;
}

interface Draft {
  header: RunNumber["header"];
  readonly events: WorkflowEvent[];
  copied: number;
  copying: boolean;
  readonly late: WorkflowEvent[];
  seed: string;
  end: number;
}

export function runNumbers(history: readonly HistoryCommit[]): RunNumber[] {
  const runs: Draft[] = [];
  let run = begin(null, "");
  for (const { sequence, commitId, condition, events } of history) {
    // A copy in one commit: what stands in the commit with the header was copied.
    let header = false;
    const fromOutside = condition === null && events.every(isOutsideEvent);
    for (const event of events) {
      if (event.type === "WorkflowReset" || event.type === "WorkflowContinuedAsNew") {
        run.end = sequence;
        runs.push(run);
        header = event.type === "WorkflowReset";
        run = begin(event.type === "WorkflowReset" ? event : null, header ? run.seed : "");
        run.copying = event.type === "WorkflowReset" && event.data.partial === true;
        continue;
      }
      if (event.type === "WorkflowForked") {
        header = true;
        run.header = event;
        run.copying = event.data.partial === true;
        run.seed = event.data.seed ?? run.seed;
        run.copied = run.events.length;
        continue;
      }
      if (event.type === "HistoryCopied") {
        run.copied = run.events.length;
        run.copying = false;
        run.events.push(...run.late.splice(0));
        continue;
      }
      if (event.type === "WorkflowStarted" && run.seed === "") run.seed = commitId;
      if (run.copying && fromOutside) run.late.push(event);
      else run.events.push(event);
    }
    if (header || run.copying) run.copied = run.events.length;
  }
  runs.push(run);
  return runs.map(({ copied, ...each }) => ({ ...each, copied: each.events.slice(0, copied) }));
}

function begin(header: RunNumber["header"], seed: string): Draft {
  return { header, events: [], copied: 0, copying: false, late: [], seed, end: Infinity };
}
