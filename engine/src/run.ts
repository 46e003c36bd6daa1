/**
 * The turn loop of one run: the heart of the engine.
 *
 * Owns: the order of everything that happens to one run in this process. Does not own: which runs there are
 * (`worker.ts`), the user's code (`activation.ts`), what happens because of it (`dispatcher.ts`).
 *
 * R1 One turn, one commit: what came in, and what the code decided on it, are stored together.
 * R2 A step is started only after everything that led to it is in the log.
 * R3 Every append expects the commit that this run was folded up to; on a conflict nothing of the turn counts: the
 *    run is rebuilt from the log, and outcomes not yet recorded are brought to it again.
 * R4 A step's function is not run again in this process while its outcome is known or it still runs.
 * R5 A failed turn (non-determinism, a bug) loses nothing: the run waits, visibly stuck.
 * R6 While a run is paused, outcomes are recorded, and nothing that the code decides is.
 *
 * Tested by `run.test.ts` and, with conflicts, evictions and crashes at random, `run.sim.test.ts`.
 */
import type { AppendRequest, EventLog, StoredCommit } from "@millrace/event-log";
import {
  evolveCommit,
  initialRunState,
  isClosed,
  isClosingEvent,
  isMillraceError,
  limits,
  MillraceError,
  stepKey,
  type EventData,
  type RunCondition,
  type RunState,
  type WorkflowEvent,
} from "@millrace/schemas";
import type { Activation } from "./activation.ts";
import { retryDelayMs } from "./core/attempt.ts";
import { identityOf } from "./core/event-identity.ts";
import { parseInput, type AnyWorkflowDefinition } from "./definition.ts";
import { Dispatcher, type Children, type Completion, type TaskQueues } from "./dispatcher.ts";
import { fromErrorInfo, toErrorInfo } from "./failures.ts";
import { newUlid } from "./new-ulid.ts";
import { assertOpened, assertOpenedPayload } from "./payloads/payloads.ts";
import { presentRun, replay } from "./replay.ts";
import { TurnLines } from "./run-logger.ts";
import { requestKey, type Request } from "./requests.ts";
import type { StepExecutionDeps } from "./step-execution.ts";
import type { StepSlots } from "./step-slots.ts";

export interface RunDeps extends StepExecutionDeps {
  readonly log: EventLog;
  readonly slots: Pick<StepSlots, "run">;
  readonly tasks: TaskQueues;
  readonly children: Children;
  /** Session of this engine process, written on every commit. */
  readonly writer: string;
  /** Throw the code away after each commit and replay it: shows code that a replay would not follow. */
  readonly replayAlways: boolean;
  /** Refuse to workflow code what a replay cannot answer. */
  readonly guard: boolean;
  /** The definition of a version; null when this worker does not host it. */
  readonly definition: (type: string, version: string) => AnyWorkflowDefinition | null;
  /** A commit of this run closed it. */
  readonly onClosed: (run: Run, events: readonly WorkflowEvent[]) => void;
  /** Nothing is to be done until something comes in or `dueAt` passes: the run may be parked. */
  readonly onIdle: (run: Run) => void;
  /** The run is closed, or not for this worker: forget it. Not called after `stop`. */
  readonly onDone: (run: Run) => void;
}

/** What the code does to an output that it was given must not change what is recorded. */
function asReplayed(completion: Completion): Completion {
  if (completion.type !== "StepCompleted" || typeof completion.data.output !== "object") return completion;
  return {
    type: completion.type,
    data: { ...completion.data, output: structuredClone(completion.data.output) },
  };
}

/** Between tries of an append or load that the broker did not answer; it may be away for minutes. */
const retryPolicy = { initialDelayMs: 100, maxDelayMs: 5_000 };
/** The warning comes at this part of the limit, once. */
const historyWarnedAt = Math.floor(limits.runCommits * 0.8);

/** Recorded by whoever works on a task. */
function isOfTask(event: WorkflowEvent): event is Extract<WorkflowEvent, { data: { occurrence: number } }> {
  switch (event.type) {
    case "StepScheduled":
    case "StepStarted":
    case "StepRetryScheduled":
    case "StepCompleted":
    case "StepFailed":
      return true;
    default:
      return false;
  }
}

interface UpdateAsker {
  readonly resolve: (output: unknown) => void;
  readonly reject: (error: Error) => void;
}

export class Run {
  readonly id: string;
  readonly type: string;
  readonly #deps: RunDeps;
  readonly #dispatcher: Dispatcher;
  #state: RunState;
  #activation: Activation | null = null;
  /** Known beginning of the history, so that a new run needs no load. */
  #history: readonly StoredCommit[] | null;
  /** What `ctx.log` wrote since the last turn that is in the log. */
  readonly #lines = new TurnLines();
  /** W3C trace context that the run was started with: on every commit, attempt and child of it. */
  #traceparent: string | null = null;
  /** Commits of the present run number. */
  #commitCount = 0;
  #warned = false;
  #external: StoredCommit[] = [];
  #completions: Completion[] = [];
  /** What the turn in hand has taken: brought to the code again when the turn does not count. */
  #uncommitted: Completion[] = [];
  /** Events of the turn in hand so far: recorded even when the code then fails the turn. */
  #delivered: WorkflowEvent[] = [];
  /** R6: what the code decided, and what has come in and would begin something, while the run is paused. */
  #held: WorkflowEvent[] = [];
  #heldCompletions: Completion[] = [];
  /** Keys of tasks of which others have recorded something that is not acted upon yet. */
  readonly #movedTasks = new Set<string>();
  readonly #askers = new Map<string, UpdateAsker[]>();
  #parentWatched = false;
  /** Questions on their way to the code: it must stay until they are answered. */
  #readers = 0;
  #stray: Error | null = null;
  #phase: "open" | "stuck" | "done" | "stopped" = "open";
  #looping: Promise<void> | null = null;
  readonly #endBackoffs = new Set<() => void>();

  constructor(deps: RunDeps, id: string, type: string, history: readonly StoredCommit[] | null) {
    this.#deps = deps;
    this.id = id;
    this.type = type;
    this.#history = history;
    this.#state = initialRunState(id, type);
    this.#dispatcher = new Dispatcher(
      {
        ...deps,
        traceparent: () => this.#traceparent,
        persist: (act) => this.#persist(act),
        onCompletion: (completion) => this.#complete(completion),
        onHandedOver: () => {
          if (this.idle) this.#deps.onIdle(this);
        },
        onError: (error) => this.#onStray(this.#activation, error as Error),
      },
      id,
      type,
    );
  }

  /** The folded state as far as this run knows it; for its owner to read, not to change. */
  get state(): RunState {
    return this.#state;
  }

  /** True when the run can be forgotten and rebuilt from the log without any work lost or done twice. */
  get idle(): boolean {
    const { dueAt } = this;
    const resting = this.#looping === null && (this.#phase === "stuck" || this.#phase === "open");
    return (
      resting &&
      !this.#hasInput() &&
      this.#heldCompletions.length === 0 &&
      this.#askers.size === 0 &&
      this.#readers === 0 &&
      this.#dispatcher.idle &&
      // What is due already comes in within this turn of the event loop.
      (dueAt === null || dueAt > this.#deps.clock.now())
    );
  }

  /** When the run has to be there again, milliseconds since 1970; null: when something comes in. */
  get dueAt(): number | null {
    return this.#dispatcher.dueAt;
  }

  /** Goes on until there is nothing left to do now. Idempotent. */
  wake(): void {
    if (this.#phase === "done" || this.#phase === "stopped") return;
    this.#looping ??= this.#loop().finally(() => {
      this.#looping = null;
      if (this.#phase === "open" && (this.#hasInput() || this.#activation === null)) this.wake();
      else if (this.idle) this.#deps.onIdle(this);
    });
  }

  /** A commit that somebody else appended to this run. */
  receive(commit: StoredCommit): void {
    this.#external.push(commit);
    if (this.#phase === "stuck") this.#phase = "open";
    this.wake();
  }

  /** A child has closed, as its own history says. `stored`: as it stands in the log, not opened. */
  childClosed(closed: EventData<"ChildWorkflowClosed">, stored: boolean): void {
    const { child } = closed;
    const open = (): unknown =>
      this.#deps.payloads.openPayload(child, closed.output, `output of child ${child}`);
    const output = stored ? open() : closed.output;
    if (!(output instanceof Promise)) return this.#childClosedWith(closed, output);
    void output
      .catch(() => this.#persist(async () => open()))
      .then(
        (opened) => this.#childClosedWith(closed, opened),
        // Only when this run was stopped: whoever has it next asks for its children again.
        () => undefined,
      );
  }

  #childClosedWith(closed: EventData<"ChildWorkflowClosed">, output: unknown): void {
    this.#complete({
      type: "ChildWorkflowClosed",
      data: { ...closed, ...(output === undefined ? {} : { output }) },
    });
  }

  /** The parent has closed: what that means for this run was said when it was started. */
  parentClosed(): void {
    const parent = this.#state.parent ?? null;
    if (parent === null || parent.onClose === "abandon" || isClosed(this.#state.status)) return;
    const data = { reason: `Its parent ${parent.id} has closed.`, by: parent.id };
    if (parent.onClose === "terminate") this.#complete({ type: "WorkflowTerminated", data });
    else if (this.#state.cancelRequested === null) this.#complete({ type: "WorkflowCancelRequested", data });
  }

  /** Answers from the code's variables. `query_unknown`, `query_failed`, or why there is no code running here. */
  async query(name: string, input: unknown): Promise<unknown> {
    return this.#withCode((activation) => activation.query(name, input));
  }

  /** Takes an update in, once per id, and answers when its handler has ended. */
  async update(update: EventData<"UpdateAccepted">): Promise<unknown> {
    const { id, name, input } = update;
    return this.#withCode((activation) => {
      if (this.#answered(id) === null) activation.validateUpdate(name, input ?? null);
      return new Promise((resolve, reject) => {
        this.#askers.set(id, [...(this.#askers.get(id) ?? []), { resolve, reject }]);
        if (this.#answered(id) === null) this.#complete({ type: "UpdateAccepted", data: update });
        else this.#answerUpdates();
      });
    });
  }

  /** Takes the run out of this process: steps are told to stop, nothing more is appended. */
  async stop(reason: Error): Promise<void> {
    if (this.#phase !== "done") this.#phase = "stopped";
    this.#release(reason);
    for (const end of this.#endBackoffs) end();
    await this.#looping;
  }

  /** For a run that is {@link idle}: nothing of it is in flight, so nobody has to be told and nothing ends later. */
  letGo(): void {
    this.#phase = "stopped";
    this.#release(new Error(`Run ${this.id} is parked.`));
  }

  /** Resolves when the loop is at rest. */
  async settled(): Promise<void> {
    while (this.#looping !== null) await this.#looping;
  }

  async #loop(): Promise<void> {
    try {
      while (this.#phase === "open") {
        if (this.#external.some(beginsAnew)) this.#restart();
        this.#activation ??= await this.#rebuild();
        if (this.#activation === null) return;
        const decided = await this.#turn(this.#activation);
        if (!(await this.#commit(decided))) {
          this.#discard();
          continue;
        }
        this.#delivered = [];
        this.#lines.flush(this.#deps.logger);
        for (const { type, data } of this.#uncommitted)
          if (type === "StepTimedOut")
            this.#dispatcher.buryTask(stepKey(data.name, data.occurrence), this.#state);
        if (isClosed(this.#state.status)) return void this.#done();
        if (decided.some(({ type }) => type === "WorkflowContinuedAsNew")) {
          this.#restart();
          continue;
        }
        this.#answerUpdates();
        this.#dispatch(this.#activation);
        if (this.#deps.replayAlways && decided.length > 0) this.#discard();
        if (!this.#hasInput() && this.#activation !== null) return;
      }
    } catch (error) {
      await this.#turnFailed(error);
    }
  }

  /** Brings what came in to the code: first what stands in the log already, then completions of our own. */
  async #turn(activation: Activation): Promise<WorkflowEvent[]> {
    if (this.#stray !== null) throw this.#stray;
    const external = this.#external;
    this.#external = [];
    for (const received of external) {
      if (received.sequence <= this.#state.sequence) continue;
      const commit = await this.#open(received);
      evolveCommit(this.#state, commit);
      this.#commitCount++;
      for (const event of commit.events) {
        assertOpened(event);
        await activation.deliver(event, commit.sequence);
        if (isOfTask(event)) this.#movedTasks.add(stepKey(event.data.name, event.data.occurrence));
      }
    }
    // A cancel is a fact already: what the code does not wait for any more can stop now, before our own commit.
    if (external.length > 0 && activation.takeCancelled()) this.#dispatcher.abandonUnwanted(activation);
    if (isClosed(this.#state.status)) return [];
    const paused = this.#state.paused !== null;
    const completions = this.#takeCompletions(paused);
    this.#uncommitted = completions;
    const decided: WorkflowEvent[] = [];
    const take = (): void => void (paused ? this.#held : decided).push(...activation.takeDecided());
    if (!paused) decided.push(...this.#held.splice(0));
    take();
    this.#delivered = decided;
    if (this.#commitCount >= historyWarnedAt && !this.#warned) {
      this.#warned = true;
      const data = { commits: this.#commitCount, limit: limits.runCommits };
      decided.push({ type: "HistoryLimitApproached", data });
    }
    for (const completion of completions) {
      if (decided.some(isClosingEvent)) break;
      if (!this.#isWanted(completion, activation) || isRepeated(completion, decided)) continue;
      assertOpened(completion);
      decided.push(completion);
      await activation.deliver(asReplayed(completion), this.#state.sequence);
      take();
    }
    return decided;
  }

  /** What would begin something new waits until the run is resumed. */
  #takeCompletions(paused: boolean): Completion[] {
    const completions = this.#completions;
    this.#completions = [];
    if (!paused) {
      if (this.#heldCompletions.length > 0) completions.unshift(...this.#heldCompletions.splice(0));
      return completions;
    }
    const recorded: Completion[] = [];
    for (const completion of completions)
      (isHeldWhilePaused(completion) ? this.#heldCompletions : recorded).push(completion);
    return recorded;
  }

  /** The code waits for it, and it is not what another process has recorded meanwhile (a zombie, or we before a rebuild). */
  #isWanted(completion: Completion, activation: Activation): boolean {
    const { pending, finished } = activation;
    switch (completion.type) {
      case "WorkflowTimedOut":
      case "WorkflowTerminated":
        return true;
      case "WorkflowCancelRequested":
        return this.#state.cancelRequested === null;
      case "ChildWorkflowClosed":
        return Object.hasOwn(this.#state.open?.children ?? {}, completion.data.child);
      case "UpdateAccepted":
        return !finished && this.#isAcceptable(completion.data, activation);
      case "TimerFired":
        return !finished && pending.has(requestKey.timer(completion.data.timer));
      case "WaitTimedOut":
        return !finished && pending.has(requestKey.wait(completion.data.wait));
      default: {
        const request = pending.get(stepKey(completion.data.name, completion.data.occurrence));
        return !finished && request !== undefined && !this.#isStale(completion, request);
      }
    }
  }

  #isStale(completion: Extract<Completion, { data: { occurrence: number } }>, request: Request): boolean {
    const { type, data } = completion;
    const step = this.#state.steps.get(stepKey(data.name, data.occurrence));
    if (type === "StepStarted" || type === "StepScheduled")
      return step?.status !== "retrying" || step.attempt + 1 !== data.attempt;
    if (step === undefined || (type !== "StepRetryScheduled" && request.kind !== "task")) return false;
    return step.attempt > data.attempt || (step.status === "retrying" && step.attempt === data.attempt);
  }

  /** What came before it may have changed the answer. */
  #isAcceptable({ id, name, input }: EventData<"UpdateAccepted">, activation: Activation): boolean {
    if (this.#answered(id) !== null) return false;
    try {
      activation.validateUpdate(name, input ?? null);
      return true;
    } catch (refusal) {
      for (const asker of this.#askers.get(id) ?? []) asker.reject(refusal as Error);
      this.#askers.delete(id);
      return false;
    }
  }

  /** Appends and folds; false on a conflict. */
  async #commit(events: readonly WorkflowEvent[], partial = false): Promise<boolean> {
    if (events.length === 0) return true;
    if (events.length > limits.commitEvents) return this.#commitInHalves(events, partial);
    const closing = events.some(isClosingEvent);
    if (this.#commitCount >= limits.runCommits && !closing && events[0]?.type !== "WorkflowTurnFailed")
      throw this.#historyFull();
    const condition = closing ? "closed" : partial ? "running" : this.#conditionAfter(events);
    const dueAt = condition === "waiting" || condition === "handed-off" ? this.#dueAfter() : null;
    const parent = this.#state.parent?.id;
    const request: AppendRequest = {
      commitId: newUlid(),
      workflowId: this.id,
      type: this.type,
      expected: this.#state.sequence,
      events,
      condition,
      ...(dueAt === null ? {} : { dueAt }),
      ...(parent === undefined ? {} : { parent }),
      ...(this.#traceparent === null ? {} : { traceparent: this.#traceparent }),
      writer: this.#deps.writer,
    };
    try {
      const { sequence } = await this.#persist(() => this.#deps.log.append(request));
      evolveCommit(this.#state, { sequence, at: this.#deps.clock.now(), events, condition });
      this.#commitCount++;
      if (closing) this.#deps.onClosed(this, events);
      return true;
    } catch (error) {
      if (isMillraceError(error, "conflict")) return false;
      if (isMillraceError(error, "payload_too_large") && events.length > 1)
        return this.#commitInHalves(events, partial);
      throw error;
    }
  }

  /**
   * A turn that is too large for one message is stored in several, in order. What the code decided and is not stored
   * yet is decided again when the run is rebuilt in between, so nothing is lost.
   */
  async #commitInHalves(events: readonly WorkflowEvent[], partial: boolean): Promise<boolean> {
    const middle = Math.ceil(events.length / 2);
    return (
      (await this.#commit(events.slice(0, middle), true)) &&
      (await this.#commit(events.slice(middle), partial))
    );
  }

  /** What the next owner must know: whether code of this run works, or who or what it waits for. */
  #conditionAfter(events: readonly WorkflowEvent[]): RunCondition {
    const activation = this.#activation;
    // A deploy may mend what failed, so whoever takes over tries.
    const failed = events.at(-1)?.type === "WorkflowTurnFailed";
    if (failed || activation === null || activation.finished || this.#state.paused !== null) return "running";
    let handedOff = false;
    for (const request of activation.pending.values()) {
      if (request.kind === "task" || request.kind === "child") handedOff = true;
      else if (request.kind === "step" || request.kind === "compensation") {
        if (!this.#backsOff(request.key, events)) return "running";
      }
    }
    return handedOff || (this.#state.open !== null && Object.keys(this.#state.open.children).length > 0)
      ? "handed-off"
      : "waiting";
  }

  /** The attempt is over and the next one is not begun, once these events are recorded. */
  #backsOff(key: string, events: readonly WorkflowEvent[]): boolean {
    const last = events.findLast(
      ({ data }) => "occurrence" in data && stepKey(data.name, data.occurrence) === key,
    );
    if (last !== undefined) return last.type === "StepRetryScheduled";
    return this.#state.steps.get(key)?.status === "retrying";
  }

  /** Earliest time at which something of the committed state is due. Tasks and retries are loaded before theirs. */
  #dueAfter(): number | null {
    let earliest = this.#state.deadlineAt ?? Number.POSITIVE_INFINITY;
    for (const request of this.#activation?.pending.values() ?? []) {
      const dueAt = request.kind === "timer" || request.kind === "wait" ? request.dueAt : null;
      if (dueAt !== null) earliest = Math.min(earliest, dueAt);
    }
    for (const completion of this.#uncommitted)
      if (completion.type === "StepRetryScheduled")
        earliest = Math.min(earliest, completion.data.nextAttemptAt);
    for (const step of this.#state.steps.values())
      if (step.status === "retrying" && step.nextAttemptAt !== null)
        earliest = Math.min(earliest, step.nextAttemptAt);
    return Number.isFinite(earliest) ? earliest : null;
  }

  /** Starts what the code asked for, and what a committed start or retry calls for. */
  #dispatch(activation: Activation): void {
    const committed = this.#uncommitted;
    this.#uncommitted = [];
    if (this.#phase === "stopped") return;
    this.#dispatcher.forget(committed);
    if (this.#state.paused !== null) return;
    for (const request of activation.takeRequested()) {
      if (activation.pending.get(request.key) === request) this.#dispatcher.start(request, this.#state);
    }
    for (const { type, data } of committed) {
      if (type !== "StepStarted" && type !== "StepRetryScheduled" && type !== "StepScheduled") continue;
      const request = activation.pending.get(stepKey(data.name, data.occurrence));
      if (request !== undefined) this.#dispatcher.start(request, this.#state);
    }
    // What their workers have recorded sets other limits, or calls for the next attempt.
    for (const key of this.#movedTasks) {
      const request = activation.pending.get(key);
      if (request?.kind === "task") this.#dispatcher.start(request, this.#state);
      else this.#dispatcher.forgetDue(key);
    }
    this.#movedTasks.clear();
    this.#dispatcher.startDeadline(this.#state);
    if (this.#state.open !== null) this.#dispatcher.cancelChildren(this.#state);
    if (activation.takeCancelled()) this.#dispatcher.abandonUnwanted(activation);
  }

  #complete(completion: Completion): void {
    if (this.#phase === "done" || this.#phase === "stopped") return;
    this.#completions.push(completion);
    if (this.#phase === "open") this.wake();
  }

  /** Folds the history and runs the code over it; null when there is nothing to run here now. */
  async #rebuild(): Promise<Activation | null> {
    const history = await this.#loadHistory();
    this.#traceparent = history.find(({ traceparent }) => traceparent !== null)?.traceparent ?? null;
    const present = presentRun(this.id, this.type, history);
    const { state } = present;
    this.#state = state;
    this.#commitCount = present.commitCount;
    this.#warned =
      this.#commitCount >= historyWarnedAt &&
      present.events.some(({ event }) => event.type === "HistoryLimitApproached");
    this.#external = this.#external.filter(({ sequence }) => sequence > state.sequence);
    if (history.length === 0 || isClosed(state.status) || state.driver !== "code") return this.#done();
    if (state.copying || present.start === null) {
      // Whoever copies its history ends with a commit that wakes the run.
      this.#phase = this.#external.length > 0 ? "open" : "stuck";
      return null;
    }
    const definition = this.#deps.definition(this.type, state.version);
    if (definition === null) return this.#done();
    // What this process cannot read is no wrong input: the run waits for the process that can.
    assertOpenedPayload(state.input);
    let input: unknown;
    try {
      input = await parseInput(definition, state.input);
    } catch (error) {
      const failed = await this.#commit([{ type: "WorkflowFailed", data: { error: toErrorInfo(error) } }]);
      return failed ? this.#done() : this.#rebuild();
    }
    this.#watchParent();
    return replay(present, {
      definition,
      input,
      now: () => this.#deps.clock.now(),
      payloadBytesMax: this.#deps.payloads.bytesMax,
      lines: this.#lines,
      guard: this.#deps.guard,
      onStray: (activation, error) => this.#onStray(activation, error),
    });
  }

  async #loadHistory(): Promise<readonly StoredCommit[]> {
    const known = this.#history;
    if (known === null) return this.#persist(() => this.#deps.log.load(this.id));
    const opened: StoredCommit[] = [];
    for (const commit of known) opened.push(await this.#open(commit));
    this.#history = null;
    return opened;
  }

  /** What is loaded comes opened from the log; what the tail brings does not. */
  async #open(commit: StoredCommit): Promise<StoredCommit> {
    const opened = this.#deps.payloads.openCommit(commit);
    // A commit that needs nothing must not cost a turn of the event loop; one that failed is asked for again.
    if (!(opened instanceof Promise)) return opened;
    return opened.catch(() => this.#persist(async () => this.#deps.payloads.openCommit(commit)));
  }

  /** A parent may have closed while nobody had this run in memory. */
  #watchParent(): void {
    const parent = this.#state.parent ?? null;
    if (parent === null || this.#parentWatched) return;
    this.#parentWatched = true;
    this.#dispatcher.watchParent(parent.id, () => this.parentClosed());
  }

  /** R3: nothing of the turn counts. */
  #discard(): void {
    this.#activation = null;
    this.#lines.discard();
    this.#stray = null;
    this.#delivered = [];
    this.#held = [];
    this.#completions = [...this.#uncommitted, ...this.#completions];
    this.#uncommitted = [];
    this.#dispatcher.clearDues();
  }

  /** The run number is over, or goes on with other code: what it began is not wanted any more. */
  #restart(): void {
    this.#discard();
    this.#completions = this.#completions.filter(({ type }) => type === "UpdateAccepted");
    this.#heldCompletions = [];
    this.#external = [];
    this.#dispatcher.release(new Error(`Run ${this.id} begins anew.`));
  }

  #onStray(activation: Activation | null, error: Error): void {
    if (activation !== this.#activation) return;
    this.#stray = error;
    this.wake();
  }

  async #turnFailed(error: unknown): Promise<void> {
    if (this.#phase === "stopped") return;
    this.#phase = "stuck";
    // They may say why.
    this.#lines.flush(this.#deps.logger);
    const info = toErrorInfo(error);
    const { version, status } = this.#state;
    const fields = { workflowId: this.id, type: this.type, version, code: info.code };
    this.#deps.logger.error(fields, `Run ${this.id} is stuck: ${info.message}`);
    const delivered = this.#delivered;
    this.#delivered = [];
    // A history that cannot be read is for an operator: nothing may be appended to what we do not understand.
    if (isMillraceError(error, "commit_malformed") || isMillraceError(error, "event_type_unknown")) {
      this.#discard();
      return;
    }
    // Told once: a run that is stuck for the same reason after every restart must not fill its history with it.
    const told = status === "stuck" && this.#state.error?.message === info.message && delivered.length === 0;
    try {
      const failure: WorkflowEvent = { type: "WorkflowTurnFailed", data: { error: info, version } };
      if (told || (await this.#commit([...delivered, failure]))) {
        this.#dispatcher.forget(this.#uncommitted.filter((completion) => delivered.includes(completion)));
        this.#uncommitted = this.#uncommitted.filter((completion) => !delivered.includes(completion));
      } else {
        // Something new came in, which may be just what gets the run going again.
        this.#phase = "open";
      }
    } catch (appendError) {
      this.#deps.logger.error(
        fields,
        `Run ${this.id}: the failed turn could not be recorded: ${String(appendError)}`,
      );
    }
    this.#discard();
    this.#refuseAskers(error as Error);
  }

  #done(): null {
    this.#answerUpdates();
    this.#phase = "done";
    this.#release(new Error(`Run ${this.id} is ${this.#state.status}.`));
    this.#deps.onDone(this);
    return null;
  }

  #release(reason: Error): void {
    this.#activation = null;
    this.#dispatcher.stop();
    this.#dispatcher.release(reason);
    this.#refuseAskers(
      new MillraceError("workflow_closed", `${reason.message} The update was not answered.`, {
        retryable: this.#phase === "stopped",
      }),
    );
  }

  async #withCode<T>(act: (activation: Activation) => T | Promise<T>): Promise<T> {
    this.#readers++;
    try {
      return await act(await this.#ready());
    } finally {
      this.#readers--;
      if (this.idle) this.#deps.onIdle(this);
    }
  }

  /** The code, replayed up to now. Rejects when there is none: closed, stuck before its first turn, not hosted here. */
  async #ready(): Promise<Activation> {
    while (this.#activation === null) {
      if (this.#looping === null && this.#phase !== "open") break;
      this.wake();
      await this.#looping;
    }
    if (this.#activation !== null) return this.#activation;
    const { status, error } = this.#state;
    throw new MillraceError(
      isClosed(status) ? "workflow_closed" : "unavailable",
      `Run ${this.id} (${status}) has no code running here` +
        (error === null ? "." : `: ${error.message}`) +
        " Look at its history.",
      { retryable: false },
    );
  }

  /** The state of an update that was taken in before; null when there is none. */
  #answered(id: string): NonNullable<RunState["open"]>["updates"][string] | null {
    const updates = this.#state.open?.updates;
    return updates !== undefined && Object.hasOwn(updates, id) ? (updates[id] ?? null) : null;
  }

  #answerUpdates(): void {
    for (const [id, askers] of this.#askers) {
      const update = this.#answered(id);
      if (update === null || update.status === "accepted") continue;
      this.#askers.delete(id);
      for (const { resolve, reject } of askers) {
        if (update.status === "completed") resolve(update.output);
        else reject(updateFailed(this.id, update.name, update.error));
      }
    }
  }

  #refuseAskers(error: Error): void {
    for (const askers of this.#askers.values()) for (const { reject } of askers) reject(error);
    this.#askers.clear();
  }

  #historyFull(): MillraceError {
    return new MillraceError(
      "limit_exceeded",
      `Run ${this.id} has ${this.#commitCount} commits, the limit is ${limits.runCommits}. Let its code call ` +
        "ctx.continueAsNew in time (ctx.continueAsNewSuggested), and reset or terminate this run.",
      { details: { limit: limits.runCommits, actual: this.#commitCount } },
    );
  }

  #isStopped(): boolean {
    return this.#phase === "stopped";
  }

  #hasInput(): boolean {
    return this.#completions.length > 0 || this.#external.length > 0 || this.#stray !== null;
  }

  /** Tries again while the broker is away: the outcome is kept here until the log has it, or the worker stops. */
  async #persist<T>(act: () => Promise<T>): Promise<T> {
    for (let attempt = 1; ; attempt++) {
      try {
        return await act();
      } catch (error) {
        const again = isMillraceError(error) && error.retryable && error.code !== "conflict";
        if (!again || this.#isStopped()) throw error;
        this.#deps.logger.warn(
          { workflowId: this.id, code: error.code, attempt },
          `Run ${this.id} waits: ${error.message}`,
        );
        const delayMs = retryDelayMs(retryPolicy, attempt, this.#deps.random());
        await new Promise<void>((resolve) => {
          const end = (): void => {
            this.#endBackoffs.delete(end);
            resolve();
          };
          this.#endBackoffs.add(end);
          this.#deps.timers.add(this.#deps.clock.now() + delayMs, end);
        });
        if (this.#isStopped()) throw error;
      }
    }
  }
}

/** Commits after which the code so far is not the code of this run any more. */
function beginsAnew({ events }: StoredCommit): boolean {
  return events.some(
    ({ type }) => type === "WorkflowReset" || type === "WorkflowMigrated" || type === "HistoryCopied",
  );
}

/** Told in two ways within one turn: a child's end by the tail and by a look, an update by two who ask. */
function isRepeated(completion: Completion, decided: readonly WorkflowEvent[]): boolean {
  const { type } = completion;
  if (type !== "ChildWorkflowClosed" && type !== "UpdateAccepted" && type !== "WorkflowCancelRequested")
    return false;
  return decided.some((event) => event.type === type && identityOf(event) === identityOf(completion));
}

/** Outcomes of what runs are recorded; what would begin something is not. */
function isHeldWhilePaused({ type }: Completion): boolean {
  return (
    type === "StepStarted" ||
    type === "StepScheduled" ||
    type === "TimerFired" ||
    type === "WaitTimedOut" ||
    type === "UpdateAccepted"
  );
}

export function updateFailed(
  id: string,
  name: string,
  error: EventData<"UpdateCompleted">["error"] | null,
): MillraceError {
  const info = error ?? { message: "" };
  return new MillraceError("update_failed", `Update ${name} of ${id} failed: ${info.message}`, {
    cause: fromErrorInfo(info),
    details: { error: info },
  });
}
