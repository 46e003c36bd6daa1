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
import { asReplayed, isHeldWhilePaused, isRepeated, isWanted, type Completion } from "./completions.ts";
import { conditionAfter, dueAfter } from "./core/commit-header.ts";
import { parseInput, type AnyWorkflowDefinition } from "./definition.ts";
import { Dispatcher, type Children, type TaskQueues } from "./dispatcher.ts";
import { toErrorInfo } from "./failures.ts";
import { newUlid } from "./new-ulid.ts";
import { assertOpened, assertOpenedPayload } from "./payloads/payloads.ts";
import { Persistence } from "./persistence.ts";
import { presentRun, replay } from "./replay.ts";
import { TurnLines } from "./run-logger.ts";
import type { StepExecutionDeps } from "./step-execution.ts";
import type { StepGate } from "./step-gate.ts";
import { UpdateAskers, updateOf } from "./update-askers.ts";

export interface RunDeps extends StepExecutionDeps {
  readonly log: EventLog;
  readonly tasks: TaskQueues;
  readonly children: Children;
  /** Session of this engine process, written on every commit. */
  readonly writer: string;
  /** Throw the code away after each commit and replay it: shows code that a replay would not follow. */
  readonly replayAlways: boolean;
  /** Refuse to workflow code what a replay cannot answer. */
  readonly guard: boolean;
  /** A commit of this run closed it. */
  readonly onClosed: (run: Run, events: readonly WorkflowEvent[]) => void;
  /** Nothing is to be done until something comes in or `dueAt` passes: the run may be parked. */
  readonly onIdle: (run: Run) => void;
  /** The run is closed, or not for this worker: forget it. Not called after `stop`. */
  readonly onDone: (run: Run) => void;
}

/** What each run has of its own from its worker. */
export interface RunPlace {
  readonly slots: StepGate;
  /** The definition of a version; null when this worker does not host it, or not for this run. */
  readonly definition: (type: string, version: string) => AnyWorkflowDefinition | null;
}

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

export class Run {
  readonly id: string;
  readonly type: string;
  readonly #deps: RunDeps;
  readonly #place: RunPlace;
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
  /** R6: what has come in and would begin something, while the run is paused. */
  #heldCompletions: Completion[] = [];
  #dispatchHeld = false;
  /** Keys of tasks of which others have recorded something that is not acted upon yet. */
  #movedTasks: Set<string> | null = null;
  readonly #askers = new UpdateAskers();
  readonly #persistence: Persistence;
  #parentWatched = false;
  #closedHere = false;
  /** Questions on their way to the code: it must stay until they are answered. */
  #readers = 0;
  #stray: Error | null = null;
  #phase: "open" | "stuck" | "done" | "stopped" = "open";
  #looping: Promise<void> | null = null;

  constructor(
    deps: RunDeps,
    place: RunPlace,
    id: string,
    type: string,
    history: readonly StoredCommit[] | null,
  ) {
    this.#deps = deps;
    this.#place = place;
    this.id = id;
    this.type = type;
    this.#history = history;
    this.#state = initialRunState(id, type);
    this.#persistence = new Persistence(deps, id);
    this.#dispatcher = new Dispatcher(deps, {
      id,
      type,
      slots: place.slots,
      traceparent: () => this.#traceparent,
      persist: (act) => this.#persist(act),
      onCompletion: (completion) => this.#complete(completion),
      onHandedOver: () => {
        if (this.idle) this.#deps.onIdle(this);
      },
      onError: (error) => this.#onStray(this.#activation, error as Error),
    });
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

  /** A commit of this object closed it, and `onClosed` was told. */
  get closedHere(): boolean {
    return this.#closedHere;
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
    return this.#withCode((activation) => activation.handlers.query(name, input));
  }

  /** Takes an update in, once per id, and answers when its handler has ended. */
  async update(update: EventData<"UpdateAccepted">): Promise<unknown> {
    const { id, name, input } = update;
    return this.#withCode((activation) => {
      const known = updateOf(this.#state, id) !== null;
      if (!known) activation.validateUpdate(name, input ?? null);
      const answer = this.#askers.add(id);
      if (known) this.#askers.answer(this.#state);
      else this.#complete({ type: "UpdateAccepted", data: update });
      return answer;
    });
  }

  /** Starts no step any more; resolves when those that run have ended. */
  closeSteps(): Promise<void> {
    return this.#place.slots.close();
  }

  /** Takes the run out of this process: steps are told to stop, nothing more is appended. */
  async stop(reason: Error): Promise<void> {
    if (this.#phase !== "done") this.#phase = "stopped";
    this.#release(() => reason);
    this.#persistence.stop();
    await this.#looping;
  }

  /** For a run that is {@link idle}: nothing of it is in flight, so nobody has to be told and nothing ends later. */
  letGo(): void {
    this.#phase = "stopped";
    this.#release(() => new Error(`Run ${this.id} is parked.`));
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
        this.#askers.answer(this.#state);
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
        if (isOfTask(event))
          (this.#movedTasks ??= new Set()).add(stepKey(event.data.name, event.data.occurrence));
      }
    }
    // A cancel is a fact already: what the code does not wait for any more can stop now, before our own commit.
    if (external.length > 0 && activation.takeCancelled()) this.#dispatcher.abandonUnwanted(activation);
    if (isClosed(this.#state.status)) return [];
    const paused = this.#state.paused !== null;
    const completions = this.#takeCompletions(paused);
    this.#uncommitted = completions;
    const decided: WorkflowEvent[] = [];
    // R6: what it decides while the run is paused stays with the code, where another process' record of it is matched.
    const take = (): void => void (paused || decided.push(...activation.takeDecided()));
    take();
    this.#delivered = decided;
    if (this.#commitCount >= historyWarnedAt && !this.#warned) {
      this.#warned = true;
      const data = { commits: this.#commitCount, limit: limits.runCommits };
      decided.push({ type: "HistoryLimitApproached", data });
    }
    for (const completion of completions) {
      if (decided.some(isClosingEvent)) break;
      if (!isWanted(completion, activation, this.#state) || isRepeated(completion, decided)) continue;
      if (this.#isRefused(completion, activation)) continue;
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

  /** What came before it may have changed the answer. */
  #isRefused(completion: Completion, activation: Activation): boolean {
    if (completion.type !== "UpdateAccepted") return false;
    const { id, name, input } = completion.data;
    try {
      activation.validateUpdate(name, input ?? null);
      return false;
    } catch (refusal) {
      this.#askers.refuse(id, refusal as Error);
      return true;
    }
  }

  /** Appends and folds; false on a conflict. */
  async #commit(events: readonly WorkflowEvent[], partial = false): Promise<boolean> {
    if (events.length === 0) return true;
    if (events.length > limits.commitEvents) return this.#commitInHalves(events, partial);
    const closing = events.some(isClosingEvent);
    // What ends this run number, or says that it is stuck, must still find room.
    const isLast = closing || events.some(isContinued) || events.at(-1)?.type === "WorkflowTurnFailed";
    if (this.#commitCount >= limits.runCommits && !isLast) throw this.#historyFull();
    const { condition, dueAt } = this.#headerOf(events, closing, partial);
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
      if (closing) {
        this.#closedHere = true;
        this.#deps.onClosed(this, events);
      }
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
   * yet is decided again when the run is rebuilt in between, so nothing is lost. Only what goes along when a run is
   * continued as new would be: that is one commit, or none.
   */
  async #commitInHalves(events: readonly WorkflowEvent[], partial: boolean): Promise<boolean> {
    const end = events.findIndex(isContinued);
    if (end === 0) throw this.#continuationTooLarge(events.length);
    const middle = end > 0 ? end : Math.ceil(events.length / 2);
    return (
      (await this.#commit(events.slice(0, middle), true)) &&
      (await this.#commit(events.slice(middle), partial))
    );
  }

  /** What the next owner must know. The first part of a turn that is stored in several says nothing of its end. */
  #headerOf(
    events: readonly WorkflowEvent[],
    closing: boolean,
    partial: boolean,
  ): { readonly condition: RunCondition; readonly dueAt: number | null } {
    if (closing || partial) return { condition: closing ? "closed" : "running", dueAt: null };
    const activation = this.#activation;
    const pending = activation === null || activation.finished ? null : activation.pending.values();
    const condition = conditionAfter({ pending, state: this.#state, events });
    if (condition === "running" || activation === null) return { condition, dueAt: null };
    return {
      condition,
      dueAt: dueAfter({ pending: activation.pending.values(), state: this.#state, events }),
    };
  }

  /** Starts what the code asked for, and what a committed start or retry calls for. */
  #dispatch(activation: Activation): void {
    const committed = this.#uncommitted;
    this.#uncommitted = [];
    if (this.#phase === "stopped") return;
    this.#dispatcher.forget(committed);
    this.#dispatchHeld ||= this.#state.paused !== null;
    if (this.#state.paused !== null) return;
    if (this.#dispatchHeld) {
      // What was committed while it was paused was begun by nobody: the next attempt of a step, for one.
      this.#dispatchHeld = false;
      for (const request of activation.pending.values()) this.#dispatcher.start(request, this.#state);
    }
    for (const request of activation.takeRequested()) {
      if (activation.pending.get(request.key) === request) this.#dispatcher.start(request, this.#state);
    }
    for (const { type, data } of committed) {
      if (type !== "StepStarted" && type !== "StepRetryScheduled" && type !== "StepScheduled") continue;
      const request = activation.pending.get(stepKey(data.name, data.occurrence));
      if (request !== undefined) this.#dispatcher.start(request, this.#state);
    }
    // What their workers have recorded sets other limits, or calls for the next attempt.
    for (const key of this.#movedTasks ?? []) {
      const request = activation.pending.get(key);
      if (request?.kind === "task") this.#dispatcher.start(request, this.#state);
      else this.#dispatcher.forgetDue(key);
    }
    this.#movedTasks = null;
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
    if (this.#state.sequence !== 0 && this.#state.run !== state.run) this.#dropOutcomes();
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
    const definition = this.#place.definition(this.type, state.version);
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
    this.#completions = [...this.#uncommitted, ...this.#completions];
    this.#uncommitted = [];
    this.#dispatcher.clearDues();
  }

  /** The run number is over, or goes on with other code: what it began is not wanted any more. */
  #restart(): void {
    this.#discard();
    this.#external = [];
    this.#dropOutcomes();
  }

  /** What the run number before began is not wanted any more: its steps may have the names of those to come. */
  #dropOutcomes(): void {
    this.#completions = this.#completions.filter(({ type }) => type === "UpdateAccepted");
    this.#heldCompletions = [];
    this.#dispatcher.release(() => new Error(`Run ${this.id} begins anew.`));
  }

  #onStray(activation: Activation | null, error: Error): void {
    if (activation !== this.#activation) return;
    this.#stray = error;
    this.wake();
  }

  async #turnFailed(error: unknown): Promise<void> {
    if (this.#phase === "stopped") return;
    if (isClosed(this.#state.status)) {
      // Whoever closed it has done so for good; that our code would have gone another way changes nothing any more.
      this.#deps.logger.warn(
        { workflowId: this.id },
        `Run ${this.id} was closed elsewhere: ${String(error)}`,
      );
      this.#done();
      return;
    }
    this.#phase = "stuck";
    // They may say why.
    this.#lines.flush(this.#deps.logger);
    const info = toErrorInfo(error);
    const { version, status } = this.#state;
    const fields = { workflowId: this.id, type: this.type, version, code: info.code };
    this.#deps.logger.error(fields, `Run ${this.id} is stuck: ${info.message}`);
    // That it goes on under the next run number is what could not be recorded: it is decided again.
    const delivered = before(this.#delivered, isContinued);
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
    this.#askers.refuseAll(() => error as Error);
  }

  #done(): null {
    this.#askers.answer(this.#state);
    this.#phase = "done";
    this.#release(() => new Error(`Run ${this.id} is ${this.#state.status}.`));
    this.#deps.onDone(this);
    return null;
  }

  #release(reason: () => Error): void {
    this.#activation = null;
    this.#dispatcher.stop();
    this.#dispatcher.release(reason);
    this.#askers.refuseAll(
      () =>
        new MillraceError("workflow_closed", `${reason().message} The update was not answered.`, {
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

  #continuationTooLarge(events: number): MillraceError {
    const { commitEvents, commitBytes } = limits;
    return new MillraceError(
      "limit_exceeded",
      `Run ${this.id} cannot continue as new: its next input and the signals that no wait has taken are ${events} events, ` +
        `and one commit holds ${commitEvents} of together ${commitBytes} bytes. Deploy code that takes signals first.`,
      { details: { limit: commitEvents, actual: events } },
    );
  }

  #historyFull(): MillraceError {
    return new MillraceError(
      "limit_exceeded",
      `Run ${this.id} has ${this.#commitCount} commits, the limit is ${limits.runCommits}. Let its code call ` +
        "ctx.continueAsNew in time (ctx.continueAsNewSuggested), and reset or terminate this run.",
      { details: { limit: limits.runCommits, actual: this.#commitCount } },
    );
  }

  #hasInput(): boolean {
    return this.#completions.length > 0 || this.#external.length > 0 || this.#stray !== null;
  }

  #persist<T>(act: () => Promise<T>): Promise<T> {
    return this.#persistence.persist(act);
  }
}

/** Commits after which the code so far is not the code of this run any more. */
function beginsAnew({ events }: StoredCommit): boolean {
  return events.some(
    ({ type }) =>
      type === "WorkflowContinuedAsNew" ||
      type === "WorkflowReset" ||
      type === "WorkflowMigrated" ||
      type === "HistoryCopied",
  );
}

function isContinued({ type }: WorkflowEvent): boolean {
  return type === "WorkflowContinuedAsNew";
}

function before(events: readonly WorkflowEvent[], isEnd: (event: WorkflowEvent) => boolean): WorkflowEvent[] {
  const end = events.findIndex(isEnd);
  return events.slice(0, end === -1 ? events.length : end);
}
