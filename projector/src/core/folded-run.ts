import {
  attributesAfter,
  attributeText,
  initialRunState,
  noAttributes,
  stepKey,
  type AttributeValue,
  type Attributes,
  type RunState,
  type WorkflowEvent,
} from "@millrace/schemas";

/** A value begins or ends to hold with a commit. */
export interface AttributeChange {
  readonly key: string;
  readonly sequence: number;
  /** Null: what held until now ends. */
  readonly value: AttributeValue | null;
}

/** A run in the projector's memory: its state, and what of it the tables do not have yet. */
export interface FoldedRun {
  /** Key of the run's rows: sequence of its first commit, so that the rows of one time lie side by side. */
  readonly run: number;
  readonly state: RunState;
  /** Place of each step, by step key: the order in which they were begun. */
  readonly positions: Map<string, number>;
  /** Sequence of the commit that stopped this row; null while it goes on. */
  quarantinedSequence: number | null;
  /** `state.startedSequence` as the tables have it; null when the run has no row yet. */
  storedStart: number | null;
  /** Keys of the steps whose rows are out of date. */
  readonly changedSteps: Set<string>;
  /** As the history alone says (`evolveAttributes`), also behind a commit that stopped the row: what filters see. */
  attributes: Attributes;
  /** Not in the tables yet, in order. */
  readonly attributeChanges: AttributeChange[];
  /** Rows of its waits in the tables; null when that is not known. */
  storedWaits: number | null;
  /** What it waits for may be another than in the tables. */
  waitsChanged: boolean;
  /** A new run number began: the steps in the tables are those of an earlier one. */
  stepsReplaced: boolean;
  /** About how much memory this takes: bytes of the bodies folded in. */
  bytes: number;
}

export function beginFoldedRun(run: number, id: string, type: string): FoldedRun {
  return {
    run,
    state: initialRunState(id, type),
    positions: new Map(),
    quarantinedSequence: null,
    storedStart: null,
    changedSteps: new Set(),
    attributes: noAttributes,
    attributeChanges: [],
    storedWaits: 0,
    waitsChanged: false,
    stepsReplaced: false,
    bytes: 0,
  };
}

/** Notes which steps an event touched, after it was folded in. Steps are numbered as `evolve` adds them. */
export function noteStep(run: FoldedRun, event: WorkflowEvent): void {
  if (event.type === "WorkflowReset" || event.type === "WorkflowContinuedAsNew") {
    run.positions.clear();
    run.changedSteps.clear();
    run.stepsReplaced = true;
    return;
  }
  if (!("occurrence" in event.data)) return;
  const key = stepKey(event.data.name, event.data.occurrence);
  // A closed run takes no step.
  if (!run.state.steps.has(key)) return;
  if (!run.positions.has(key)) run.positions.set(key, run.positions.size);
  run.changedSteps.add(key);
}

const waitTypes: ReadonlySet<WorkflowEvent["type"]> = new Set<WorkflowEvent["type"]>([
  "StepScheduled",
  "StepStarted",
  "StepRetryScheduled",
  "TimerStarted",
  "WaitStarted",
  "ChildWorkflowStarted",
]);

/** Notes whether an event can change what the run waits for: it begins a wait, or may end one that is in the tables. */
export function noteWaits(run: FoldedRun, { type }: WorkflowEvent): void {
  run.waitsChanged ||= run.storedWaits !== 0 || waitTypes.has(type);
}

/** Notes what a commit's events change of the attributes, by text and number, which is all that a search looks at. */
export function noteAttributes(run: FoldedRun, sequence: number, events: readonly WorkflowEvent[]): void {
  const before = run.attributes;
  const after = attributesAfter(before, events);
  if (after === before) return;
  for (const key of new Set([...Object.keys(before), ...Object.keys(after)])) {
    const old = Object.hasOwn(before, key) ? before[key] : undefined;
    const value = Object.hasOwn(after, key) ? after[key] : undefined;
    if (old !== undefined && value !== undefined && sameToSearch(old, value)) continue;
    if (old !== undefined) run.attributeChanges.push({ key, sequence, value: null });
    if (value !== undefined) run.attributeChanges.push({ key, sequence, value });
  }
  run.attributes = after;
}

function sameToSearch(a: AttributeValue, b: AttributeValue): boolean {
  return attributeText(a) === attributeText(b) && (typeof a === "number") === (typeof b === "number");
}
