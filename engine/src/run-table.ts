/**
 * Which runs this worker holds, and as what: in memory, parked, or waiting for a place in memory.
 *
 * Owns: the open runs and the links between parents and children. Does not own: a run's turns (`run.ts`), the tail
 * (`worker.ts`), which shards are this worker's (`fleet/shard-ownership.ts`).
 *
 * W2 A run is held at most once. Beyond `runsMax` in memory the idle ones are parked, longest idle first; what is busy
 *    stays, and others wait as ids and are loaded from the log in their turn.
 * W4 Only runs of lanes (type and version) and shards that the worker holds are executed.
 * W5 A child that closes reaches its parent, and a parent that closes reaches its children, whichever of them was in
 *    memory: who is not is brought back and finds it in the log.
 */
import type { CommitHead, StoredCommit } from "@millrace/event-log";
import {
  isClosed,
  isClosingEvent,
  type EventData,
  type ClosingEvent,
  type HostedType,
  type RunCondition,
  type RunState,
} from "@millrace/schemas";
import type { DueTimers } from "./due-timers.ts";
import type { Logger } from "./logger.ts";
import { ParkedRuns } from "./parked-runs.ts";
import { storedLog } from "./payloads/sealed-log.ts";
import type { Results } from "./results.ts";
import { Run, type RunDeps, type RunPlace } from "./run.ts";
import { StepGate } from "./step-gate.ts";
import type { StepSlots } from "./step-slots.ts";

export interface RunTableDeps {
  readonly run: Omit<RunDeps, "onClosed" | "onIdle" | "onDone" | "children"> & {
    readonly children: Omit<RunDeps["children"], "watchParent">;
  };
  readonly slots: StepSlots;
  /** Null when this worker does not host the version. */
  readonly definition: RunPlace["definition"];
  readonly runsMax: number;
  /** What this worker may execute. */
  readonly scope: RunScope;
  readonly results: Results;
  readonly logger: Logger;
  readonly timers: DueTimers;
}

export interface RunScope {
  /** A part of the shard of this run is held, for some version of the type. */
  holdsType(type: string, id: string): boolean;
  holds(hosted: HostedType, id: string): boolean;
  /** Some live worker, here or elsewhere, hosts it. */
  isHosted(hosted: HostedType): boolean;
}

export class RunTable {
  readonly #deps: RunTableDeps;
  readonly #runDeps: RunDeps;
  readonly #runs = new Map<string, Run>();
  /** Runs that wait for a place in memory, with their types. */
  readonly #waiting = new Map<string, string>();
  readonly #parked: ParkedRuns;
  /** Runs in memory that had nothing to do, longest first; some may be busy again. */
  readonly #idle = new Set<Run>();
  /** Open runs in shards of ours that are not ours to execute, and of which lane they are. */
  readonly #unhosted = new Map<string, HostedType>();
  /** Runs on their way to another worker: still ours until they are at rest. */
  readonly #leaving = new Set<string>();
  /** Open children held here, by parent. */
  readonly #childrenOf = new Map<string, Set<string>>();
  #open = true;

  constructor(deps: RunTableDeps) {
    this.#deps = deps;
    this.#parked = new ParkedRuns(deps.timers, (id, type) => this.admit(id, type, null));
    this.#runDeps = {
      ...deps.run,
      children: {
        ...deps.run.children,
        watchParent: (parent, child) => this.#watchParent(parent, child),
      },
      onClosed: (run, events) => {
        deps.results.settle(run.id, events);
        const closing = events.findLast(isClosingEvent);
        this.#closed(run.id, run.state.parent?.id ?? null, closing && childClosed(run.id, closing), false);
      },
      onIdle: (run) => this.#onIdle(run),
      onDone: (run) => this.#onDone(run),
    };
  }

  get sizes(): {
    readonly runs: number;
    readonly waiting: number;
    readonly parked: number;
    readonly unhosted: number;
  } {
    return {
      runs: this.#runs.size,
      waiting: this.#waiting.size,
      parked: this.#parked.size,
      unhosted: [...this.#unhosted.values()].filter((lane) => !this.#deps.scope.isHosted(lane)).length,
    };
  }

  /** Its end will be told to the results by this table. */
  holds(id: string): boolean {
    return this.#runs.has(id) || this.#parked.has(id) || this.#waiting.has(id);
  }

  /** Runs in memory. */
  inMemory(): readonly Run[] {
    return [...this.#runs.values()];
  }

  /** The run, in memory, whatever it costs; null when this table does not hold it. */
  bring(id: string): Run | null {
    const type = this.#waiting.get(id) ?? this.#parked.take(id);
    if (type !== null && type !== undefined) {
      this.#waiting.delete(id);
      this.#insert(id, type, null);
    }
    return this.#runs.get(id) ?? null;
  }

  /** A run of a former owner, as its last commit shows it. */
  takeOver({ workflowId, type, condition, dueAt, parent }: CommitHead): void {
    this.#unhosted.delete(workflowId);
    if (!needsOwner(condition) && condition !== "waiting") return;
    // A child may have missed its parent's end, so it is loaded to look.
    if (needsOwner(condition) || parent !== null) this.admit(workflowId, type, null);
    else if (!this.holds(workflowId) && this.#deps.scope.holdsType(type, workflowId))
      this.#parked.park(workflowId, type, dueAt);
  }

  /** A commit of another writer, on a run of a hosted type. */
  receive(commit: StoredCommit): void {
    const { workflowId, type, condition, parent } = commit;
    if (condition === "closed") {
      this.#waiting.delete(workflowId);
      this.#unhosted.delete(workflowId);
    } else if (parent !== null) this.#link(parent, workflowId);
    const run = this.#runs.get(workflowId);
    if (run !== undefined) return run.receive(commit);
    if (condition === "closed") return void this.#parked.take(workflowId);
    // A run stays on its version until an operator moves it: loading it for every commit of its worker finds the same.
    if (this.#unhosted.has(workflowId) && commit.writer !== null) return;
    this.#unhosted.delete(workflowId);
    if (!needsOwner(condition)) return;
    this.#parked.take(workflowId);
    this.admit(workflowId, type, isFirst(commit, this.#deps.logger) ? [commit] : null);
  }

  /** A run has closed, of whatever type and owner: who waits for it here is told. */
  observeClosed(commit: StoredCommit): void {
    if (!this.#childrenOf.has(commit.workflowId) && (commit.parent === null || !this.holds(commit.parent)))
      return;
    const closing = commit.events.findLast(isClosingEvent);
    const closed = closing && childClosed(commit.workflowId, closing);
    this.#closed(commit.workflowId, commit.parent, closed, true);
  }

  admit(id: string, type: string, history: readonly StoredCommit[] | null): void {
    // W2: during take-over the tail may have told of it already.
    if (!this.#open || !this.#deps.scope.holdsType(type, id)) return;
    if (this.#runs.has(id) || this.#waiting.has(id)) return;
    this.#parked.take(id);
    if (this.#runs.size >= Math.max(1, this.#deps.runsMax) && !this.#parkOne()) {
      this.#waiting.set(id, type);
      return;
    }
    this.#insert(id, type, history);
  }

  /** Forgets what waits or is parked and is not ours any more; gives the runs in memory that are to leave. */
  leave(isLeaving: (id: string, lane: HostedType | null) => boolean): readonly Run[] {
    const { scope } = this.#deps;
    for (const [id, type] of [...this.#waiting])
      if (isLeaving(id, null) && !scope.holdsType(type, id)) this.#waiting.delete(id);
    for (const [id, type] of [...this.#parked.entries()])
      if (isLeaving(id, null) && !scope.holdsType(type, id)) this.#parked.take(id);
    for (const [id, { type }] of [...this.#unhosted])
      if (isLeaving(id, null) && !scope.holdsType(type, id)) this.#unhosted.delete(id);
    // Not loaded yet: its lane is not known, and nothing runs of it that could be disturbed.
    return [...this.#runs.values()].filter(({ id, type, state: { version, sequence } }) =>
      isLeaving(id, sequence === 0 ? null : { type, version }),
    );
  }

  /** Starts no step of these runs any more; resolves when those that run have ended. */
  async closeSteps(runs: readonly Run[]): Promise<void> {
    for (const { id } of runs) this.#leaving.add(id);
    await Promise.all(runs.map((run) => run.closeSteps()));
  }

  /** They have been stopped. */
  forget(runs: readonly Run[]): void {
    for (const run of runs) {
      this.#leaving.delete(run.id);
      this.#idle.delete(run);
      if (this.#runs.get(run.id) === run) this.#runs.delete(run.id);
      const parent = run.state.parent?.id;
      if (parent !== undefined) this.#unlink(parent, run.id);
      // Taken out before its lane was known, and that is still ours.
      this.admit(run.id, run.type, null);
    }
    this.#admitNext();
  }

  /** Nothing more is admitted. */
  close(): void {
    this.#open = false;
    this.#waiting.clear();
    this.#parked.clear();
  }

  #insert(id: string, type: string, history: readonly StoredCommit[] | null): void {
    const run = new Run(
      this.#runDeps,
      { slots: new StepGate(this.#deps.slots), definition: this.#definitionIn(id) },
      id,
      type,
      history,
    );
    this.#runs.set(id, run);
    run.wake();
  }

  /** W4: a version that another worker holds in this shard is not hosted here. */
  #definitionIn(id: string): RunPlace["definition"] {
    return (type, version) =>
      this.#leaving.has(id) || this.#deps.scope.holds({ type, version }, id)
        ? this.#deps.definition(type, version)
        : null;
  }

  #onIdle(run: Run): void {
    if (this.#runs.get(run.id) !== run) return;
    if (this.#waiting.size > 0 || this.#runs.size > this.#deps.runsMax) {
      this.#park(run);
      this.#admitNext();
      return;
    }
    this.#idle.delete(run);
    this.#idle.add(run);
  }

  #parkOne(): boolean {
    for (const run of this.#idle) {
      this.#idle.delete(run);
      if (!run.idle || this.#runs.get(run.id) !== run) continue;
      this.#park(run);
      return true;
    }
    return false;
  }

  #park(run: Run): void {
    const { dueAt } = run;
    this.#runs.delete(run.id);
    this.#idle.delete(run);
    this.#parked.park(run.id, run.type, dueAt);
    run.letGo();
  }

  #admitNext(): void {
    for (const [id, type] of this.#waiting) {
      if (this.#runs.size >= Math.max(1, this.#deps.runsMax)) return;
      this.#waiting.delete(id);
      this.admit(id, type, null);
    }
  }

  #onDone(run: Run): void {
    if (this.#runs.get(run.id) !== run) return;
    this.#runs.delete(run.id);
    this.#idle.delete(run);
    const { version, status, startedSequence, driver, parent } = run.state;
    if (isClosed(status)) {
      // Closed from outside: who began to wait between that commit and now relied on this run.
      this.#deps.results.observe({ workflowId: run.id, condition: "closed" });
      // Found closed on the way, as by a commit of ours whose acknowledgement was lost: nobody else has told.
      if (!run.closedHere) this.#closed(run.id, parent?.id ?? null, closedAsChild(run.state), false);
    } else if (driver === "code" && startedSequence !== 0)
      this.#keepAside(run.id, { type: run.type, version });
    this.#admitNext();
  }

  #keepAside(id: string, lane: HostedType): void {
    const { scope, logger } = this.#deps;
    // Lost while it was loaded: it is with the shard's next owner.
    if (!scope.holdsType(lane.type, id)) return;
    this.#unhosted.set(id, lane);
    if (scope.isHosted(lane)) return;
    logger.warn(
      { workflowId: id, ...lane },
      `Run ${id} waits: no worker hosts version ${lane.version} of ${lane.type}. Deploy it beside the newer one.`,
    );
  }

  /** W5 */
  #closed(
    id: string,
    parent: string | null,
    closed: EventData<"ChildWorkflowClosed"> | undefined,
    stored: boolean,
  ): void {
    if (parent !== null) {
      this.#unlink(parent, id);
      const run = this.#runs.get(parent);
      if (run !== undefined && closed !== undefined) run.childClosed(closed, stored);
      // Brought back, it asks for its children again and finds this one closed.
      else if (this.#parked.has(parent)) this.bring(parent);
    }
    for (const child of this.#childrenOf.get(id) ?? []) {
      const run = this.#runs.get(child);
      if (run !== undefined) run.parentClosed();
      else if (this.#parked.has(child)) this.bring(child);
    }
    this.#childrenOf.delete(id);
  }

  async #watchParent(parent: string, child: string): Promise<boolean> {
    this.#link(parent, child);
    const log = storedLog(this.#runDeps.log);
    const last = await log.last(parent);
    if (last === null) return true;
    if (last.condition !== null) return last.condition === "closed";
    const history = await log.load(parent);
    return history.findLast(({ condition }) => condition !== null)?.condition === "closed";
  }

  #link(parent: string, child: string): void {
    const known = this.#childrenOf.get(parent);
    if (known === undefined) this.#childrenOf.set(parent, new Set([child]));
    else known.add(child);
  }

  #unlink(parent: string, child: string): void {
    const children = this.#childrenOf.get(parent);
    children?.delete(child);
    if (children?.size === 0) this.#childrenOf.delete(parent);
  }
}

/** How a child's end stands in its parent's history. */
export function childClosed(child: string, closing: ClosingEvent): EventData<"ChildWorkflowClosed"> {
  switch (closing.type) {
    case "WorkflowCompleted":
      return { child, status: "completed", output: closing.data.output ?? null };
    case "WorkflowFailed":
      return { child, status: "failed", error: closing.data.error };
    case "WorkflowCancelled":
      return { child, status: "cancelled" };
    case "WorkflowTerminated":
      return { child, status: "terminated" };
    case "WorkflowTimedOut":
      return { child, status: "timed_out" };
  }
}

/** Closed runs are over; a commit that says `waiting` is a driver's, whose run needs no worker, or a run's at rest. */
function needsOwner(condition: RunCondition | null): boolean {
  return condition !== "closed" && condition !== "waiting";
}

function isFirst(commit: StoredCommit, logger: Logger): boolean {
  try {
    return commit.events[0]?.type === "WorkflowStarted";
  } catch (error) {
    logger.error(
      { workflowId: commit.workflowId, sequence: commit.sequence },
      `Commit cannot be read: ${String(error)}`,
    );
    return false;
  }
}

/** The same as {@link childClosed}, from the state of a run that is closed. */
function closedAsChild({
  id,
  status,
  output,
  error,
}: RunState): EventData<"ChildWorkflowClosed"> | undefined {
  switch (status) {
    case "completed":
      return { child: id, status, output };
    case "failed":
      return { child: id, status, ...(error === null ? {} : { error }) };
    case "cancelled":
    case "terminated":
    case "timed_out":
      return { child: id, status };
    default:
      return undefined;
  }
}
