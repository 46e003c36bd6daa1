/**
 * The turn loop of one run: the heart of the engine.
 *
 * Owns: the order of everything that happens to one run in this process. Does not own: which runs there are
 * (`worker.ts`), the user's code (`activation.ts`), an attempt (`step-execution.ts`).
 *
 * R1 One turn, one commit: what came in, and what the code decided on it, are stored together.
 * R2 A step is started only after everything that led to it is in the log.
 * R3 Every append expects the commit that this run was folded up to; on a conflict nothing of the turn counts: the
 *    run is rebuilt from the log, and outcomes not yet recorded are brought to it again.
 * R4 A step's function is not run again in this process while its outcome is known or it still runs.
 * R5 A failed turn (non-determinism, a bug) loses nothing: the run waits, visibly stuck.
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
  stepKey,
  type RunState,
  type WorkflowEvent,
} from "@millrace/schemas";
import { newUlid } from "./new-ulid.ts";
import { Activation, type StepRequest } from "./activation.ts";
import { retryDelayMs } from "./core/attempt.ts";
import { parseInput, type AnyWorkflowDefinition } from "./definition.ts";
import { toErrorInfo } from "./failures.ts";
import type { Logger } from "./logger.ts";
import { StepExecution, type StepExecutionDeps, type StepOutcome } from "./step-execution.ts";
import type { StepSlots } from "./step-slots.ts";

export interface RunDeps extends StepExecutionDeps {
  readonly log: EventLog;
  readonly logger: Logger;
  readonly slots: Pick<StepSlots, "run">;
  /** Session of this engine process, written on every commit. */
  readonly writer: string;
  /** The definition of a version; null when this worker does not host it. */
  readonly definition: (type: string, version: string) => AnyWorkflowDefinition | null;
  /** A commit of this run closed it. */
  readonly onClosed: (id: string, events: readonly WorkflowEvent[]) => void;
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

type Completion = StepOutcome | Extract<WorkflowEvent, { type: "StepStarted" }>;

/** Between tries of an append or load that the broker did not answer; it may be away for minutes. */
const retryPolicy = { initialDelayMs: 100, maxDelayMs: 5_000 };

export class Run {
  readonly id: string;
  readonly type: string;
  readonly #deps: RunDeps;
  #state: RunState;
  #activation: Activation | null = null;
  /** Known beginning of the history, so that a new run needs no load. */
  #history: readonly StoredCommit[] | null;
  #external: StoredCommit[] = [];
  #completions: Completion[] = [];
  /** What the turn in hand has taken: brought to the code again when the turn does not count. */
  #uncommitted: Completion[] = [];
  /** Events of the turn in hand so far: recorded even when the code then fails the turn. */
  #delivered: WorkflowEvent[] = [];
  readonly #executions = new Map<string, StepExecution>();
  readonly #retryTimers = new Map<string, () => void>();
  #stray: Error | null = null;
  #phase: "open" | "stuck" | "done" | "stopped" = "open";
  #looping: Promise<void> | null = null;
  #endBackoff = (): void => undefined;

  constructor(deps: RunDeps, id: string, type: string, history: readonly StoredCommit[] | null) {
    this.#deps = deps;
    this.id = id;
    this.type = type;
    this.#history = history;
    this.#state = initialRunState(id, type);
  }

  /** The folded state as far as this run knows it; for its owner to read, not to change. */
  get state(): RunState {
    return this.#state;
  }

  /** Goes on until there is nothing left to do now. Idempotent. */
  wake(): void {
    if (this.#phase === "done" || this.#phase === "stopped") return;
    this.#looping ??= this.#loop().finally(() => {
      this.#looping = null;
      if (this.#phase === "open" && (this.#hasInput() || this.#activation === null)) this.wake();
    });
  }

  /** A commit that somebody else appended to this run. */
  receive(commit: StoredCommit): void {
    this.#external.push(commit);
    if (this.#phase === "stuck") this.#phase = "open";
    this.wake();
  }

  /** Takes the run out of this process: steps are told to stop, nothing more is appended. */
  async stop(reason: Error): Promise<void> {
    if (this.#phase !== "done") this.#phase = "stopped";
    this.#release(reason);
    this.#endBackoff();
    await this.#looping;
  }

  /** Resolves when the loop is at rest. */
  async settled(): Promise<void> {
    while (this.#looping !== null) await this.#looping;
  }

  async #loop(): Promise<void> {
    try {
      while (this.#phase === "open") {
        this.#activation ??= await this.#rebuild();
        if (this.#activation === null) return;
        const decided = await this.#turn(this.#activation);
        if (!(await this.#commit(decided))) {
          this.#discard();
          continue;
        }
        this.#delivered = [];
        if (isClosed(this.#state.status)) return void this.#done();
        this.#dispatch(this.#activation);
        if (!this.#hasInput()) return;
      }
    } catch (error) {
      await this.#turnFailed(error);
    }
  }

  /** Brings what came in to the code: first what stands in the log already, then completions of our own. */
  async #turn(activation: Activation): Promise<WorkflowEvent[]> {
    if (this.#stray !== null) throw this.#stray;
    const external = this.#external;
    const completions = this.#completions;
    this.#external = [];
    this.#completions = [];
    this.#uncommitted = completions;
    for (const commit of external) {
      if (commit.sequence <= this.#state.sequence) continue;
      evolveCommit(this.#state, commit);
      for (const event of commit.events) await activation.deliver(event, commit.sequence);
    }
    // A cancel is a fact already: what the code does not wait for any more can stop now, before our own commit.
    if (external.length > 0) this.#abandonUnwanted(activation);
    if (isClosed(this.#state.status)) return [];
    const decided = activation.takeDecided();
    this.#delivered = decided;
    for (const completion of completions) {
      const { name, occurrence } = completion.data;
      if (!activation.pending.has(stepKey(name, occurrence)) || activation.finished) continue;
      if (this.#isStale(completion)) continue;
      decided.push(completion);
      await activation.deliver(asReplayed(completion), this.#state.sequence);
      decided.push(...activation.takeDecided());
    }
    return decided;
  }

  /** What another process has recorded of this attempt meanwhile (a zombie, or we before a rebuild) stands. */
  #isStale({ type, data }: Completion): boolean {
    const step = this.#state.steps.get(stepKey(data.name, data.occurrence));
    if (type === "StepStarted") return step?.status !== "retrying" || step.attempt + 1 !== data.attempt;
    if (type !== "StepRetryScheduled" || step === undefined) return false;
    return step.attempt > data.attempt || (step.status === "retrying" && step.attempt === data.attempt);
  }

  /** Appends and folds; false on a conflict. */
  async #commit(events: readonly WorkflowEvent[]): Promise<boolean> {
    if (events.length === 0) return true;
    if (events.length > limits.commitEvents) return this.#commitInHalves(events);
    const request: AppendRequest = {
      commitId: newUlid(),
      workflowId: this.id,
      type: this.type,
      expected: this.#state.sequence,
      events,
      condition: events.some(isClosingEvent) ? "closed" : "running",
      writer: this.#deps.writer,
    };
    try {
      const { sequence } = await this.#persist(() => this.#deps.log.append(request));
      evolveCommit(this.#state, { sequence, at: this.#deps.clock.now(), events });
      if (request.condition === "closed") this.#deps.onClosed(this.id, events);
      return true;
    } catch (error) {
      if (isMillraceError(error, "conflict")) return false;
      if (isMillraceError(error, "payload_too_large") && events.length > 1)
        return this.#commitInHalves(events);
      throw error;
    }
  }

  /**
   * A turn that is too large for one message is stored in several, in order. What the code decided and is not stored
   * yet is decided again when the run is rebuilt in between, so nothing is lost.
   */
  async #commitInHalves(events: readonly WorkflowEvent[]): Promise<boolean> {
    const middle = Math.ceil(events.length / 2);
    return (await this.#commit(events.slice(0, middle))) && (await this.#commit(events.slice(middle)));
  }

  /** Starts what the code asked for, and what a committed start or retry calls for. */
  #dispatch(activation: Activation): void {
    const committed = this.#uncommitted;
    this.#uncommitted = [];
    if (this.#phase === "stopped") return;
    this.#forget(committed);
    for (const request of activation.takeRequested()) {
      if (activation.pending.get(request.key) === request) this.#startOrWait(request);
    }
    for (const { type, data } of committed) {
      if (type !== "StepStarted" && type !== "StepRetryScheduled") continue;
      const request = activation.pending.get(stepKey(data.name, data.occurrence));
      if (request !== undefined) this.#startOrWait(request);
    }
    if (this.#executions.size > activation.pending.size) this.#abandonUnwanted(activation);
  }

  #startOrWait(request: StepRequest): void {
    const { key, name, occurrence } = request;
    if (this.#executions.has(key) || this.#retryTimers.has(key)) return;
    const step = this.#state.steps.get(key);
    if (step?.status === "retrying") {
      const attempt = step.attempt + 1;
      const cancel = this.#deps.timers.add(step.nextAttemptAt ?? 0, () => {
        this.#complete({ type: "StepStarted", data: { name, occurrence, attempt } });
      });
      this.#retryTimers.set(key, cancel);
      return;
    }
    const execution = new StepExecution(this.#deps, this.id, request, step?.attempt ?? 1, (outcome) =>
      this.#complete(outcome),
    );
    this.#executions.set(key, execution);
    this.#deps.slots.run(() => execution.run());
  }

  /** R4: only now, since a rebuilt run may ask for the step anew while its outcome is still on the way to a turn. */
  #forget(taken: readonly Completion[]): void {
    for (const { data } of taken) {
      const key = stepKey(data.name, data.occurrence);
      this.#executions.delete(key);
      this.#retryTimers.delete(key);
    }
  }

  #complete(completion: Completion): void {
    if (this.#phase === "done" || this.#phase === "stopped") return;
    this.#completions.push(completion);
    if (this.#phase === "open") this.wake();
  }

  /** Folds the history and runs the code over it; null when there is nothing to run here. */
  async #rebuild(): Promise<Activation | null> {
    const history = this.#history ?? (await this.#persist(() => this.#deps.log.load(this.id)));
    this.#history = null;
    const first = history[0];
    const state = initialRunState(this.id, this.type);
    for (const commit of history) evolveCommit(state, commit);
    this.#state = state;
    if (first === undefined || isClosed(state.status) || state.driver !== "code") return this.#done();
    const definition = this.#deps.definition(this.type, state.version);
    if (definition === null) return this.#done();
    let input: unknown;
    try {
      input = await parseInput(definition, state.input);
    } catch (error) {
      const failed = await this.#commit([{ type: "WorkflowFailed", data: { error: toErrorInfo(error) } }]);
      return failed ? this.#done() : this.#rebuild();
    }
    const activation = new Activation({
      definition,
      workflowId: this.id,
      input,
      seed: first.commitId,
      recordedNow: state.nowValues,
      now: () => this.#deps.clock.now(),
      onStray: (error) => this.#onStray(activation, error),
    });
    for (const commit of history) {
      for (const event of commit.events) await activation.deliver(event, commit.sequence);
    }
    return activation;
  }

  /** R3: nothing of the turn counts. */
  #discard(): void {
    this.#activation = null;
    this.#stray = null;
    this.#delivered = [];
    this.#completions = [...this.#uncommitted, ...this.#completions];
    this.#uncommitted = [];
    for (const cancel of this.#retryTimers.values()) cancel();
    this.#retryTimers.clear();
  }

  #onStray(activation: Activation, error: Error): void {
    if (activation !== this.#activation) return;
    this.#stray = error;
    this.wake();
  }

  async #turnFailed(error: unknown): Promise<void> {
    if (this.#phase === "stopped") return;
    this.#phase = "stuck";
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
        this.#forget(this.#uncommitted.filter((completion) => delivered.includes(completion)));
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
  }

  #done(): null {
    this.#phase = "done";
    this.#release(new Error(`Run ${this.id} is ${this.#state.status}.`));
    this.#deps.onDone(this);
    return null;
  }

  #release(reason: Error): void {
    this.#activation = null;
    for (const execution of this.#executions.values()) execution.abandon(reason);
    this.#executions.clear();
    for (const cancel of this.#retryTimers.values()) cancel();
    this.#retryTimers.clear();
  }

  /** Steps that lost a race or were cancelled: the code does not wait for them any more. */
  #abandonUnwanted(activation: Activation): void {
    for (const [key, execution] of this.#executions) {
      if (activation.pending.has(key)) continue;
      this.#executions.delete(key);
      execution.abandon(new Error(`Run ${this.id} does not wait for step ${key} any more.`));
    }
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
          this.#endBackoff = resolve;
          this.#deps.timers.add(this.#deps.clock.now() + delayMs, resolve);
        });
        if (this.#isStopped()) throw error;
      }
    }
  }
}
