/**
 * One activation of workflow code: the user's function, running, and what it has asked for.
 *
 * Owns: the code's promises and the order in which events reach it. Does not own: the log, the execution of steps,
 * time, what `ctx` looks like (`workflow-context.ts`). It is the same for a live run and for a replay, which is why a
 * replay cannot differ.
 *
 * A1 Events reach the code one at a time; all microtasks have run before the next one.
 * A2 What the code decides is collected in order; a recorded decision must be the next one that the code takes.
 * A3 A recorded outcome that the code is not waiting for is a `NonDeterminismError`.
 * A4 Code that acts outside of a turn, or that waits for nothing of ours, is a `non_deterministic_call`.
 *
 * Tested by `activation.test.ts` and, against an oracle, by `run.sim.test.ts`.
 */
import {
  isMillraceError,
  MillraceError,
  noAttributes,
  stepKey,
  type Attributes,
  type EventData,
  type WorkflowEvent,
} from "@millrace/schemas";
import { asStored, messageBytesMax } from "./as-stored.ts";
import { guarded, unguarded } from "./determinism-guard.ts";
import { signalIssue, type AnyWorkflowDefinition } from "./definition.ts";
import {
  CancelledError,
  ChildFailedError,
  isProgramError,
  NonDeterminismError,
  StepFailedError,
  toErrorInfo,
} from "./failures.ts";
import { identityOf } from "./core/event-identity.ts";
import { Handlers } from "./handlers.ts";
import { Mailbox } from "./mailbox.ts";
import { requestKey, type Request, type StepRequest, type WaitRequest } from "./requests.ts";
import type { TurnLines } from "./run-logger.ts";
import { Scope } from "./scope.ts";
import { ContinueAsNew, createContext } from "./workflow-context.ts";

/** Refusals in a row: far more than a clean-up has steps, few enough to stop a loop at once. */
const refusedMax = 1_000;
/** Conditions that become true one through the other within one event; more is a loop. */
const conditionRoundsMax = 1_000;

export interface ActivationInput {
  readonly definition: AnyWorkflowDefinition;
  readonly workflowId: string;
  /** Parsed by the definition's schema. */
  readonly input: unknown;
  readonly start: EventData<"WorkflowStarted">;
  /** Counts how often the run was continued as new or reset, from 1. */
  readonly run: number;
  /** Where `random` and `uuid` come from: the same for every activation of this run number. */
  readonly seed: string;
  /** What `ctx.now()` answered so far, as recorded. */
  readonly recordedNow: readonly number[];
  /** Patches that the history has. */
  readonly recordedPatches: readonly string[];
  readonly now: () => number;
  /** Bytes of JSON of one payload. */
  readonly payloadBytesMax: number;
  /** Where `ctx.log` writes. */
  readonly lines: TurnLines;
  /** The code acted outside of a turn. */
  readonly onStray: (error: Error) => void;
  /** Refuse clocks, randomness, timers and the network to the code (`determinism-guard.ts`). */
  readonly guard?: boolean;
}

interface Compensation {
  readonly name: string;
  readonly occurrence: number;
  readonly fn: StepRequest["fn"];
  readonly options: StepRequest["options"];
}

/** More patient than a step: what is not undone is left to a person. */
const compensationRetry = { maxAttempts: 10 };

export class Activation {
  /** What the code waits for, in the order in which it asked. */
  readonly pending = new Map<string, Request>();
  readonly what: ActivationInput;
  readonly root = new Scope(null, false);
  /** Calls of each kind so far: their answers are recorded or derived by number. Shared by all contexts of the code. */
  readonly counts = { now: 0, derived: 0, children: 0 };
  readonly handlers: Handlers;
  readonly compensations: Compensation[] = [];
  attributes: Attributes;
  /** True while events are brought behind which the history has decisions of the code. */
  replaying = false;
  /** True while events are brought whose reactions this or another process has seen already: no line is written again. */
  silent = false;
  readonly #occurrences = new Map<string, number>();
  #mailbox: Mailbox | null = null;
  #updateIds: Set<string> | null = null;
  /** Keys of tasks that the code does not wait for any more. */
  #cancelledTasks: Set<string> | null = null;
  #patches: Map<string, boolean> | null = null;
  #decided: WorkflowEvent[] = [];
  #requested: Request[] = [];
  #eventCount = 0;
  /** Calls that were refused at once, one after the other. */
  #refused = 0;
  #cancelledAny = false;
  #inTurn = false;
  #finished = false;
  /** The run number is over and the next one is decided: what comes in from outside goes there. */
  #continued = false;
  #cancelRequest: EventData<"WorkflowCancelRequested"> | null = null;
  #unasked: NonDeterminismError | null = null;
  /** An error that fails the turn, not the run. */
  #turnError: Error | null = null;

  constructor(what: ActivationInput) {
    this.what = what.guard === true ? { ...what, now: () => unguarded(what.now) } : what;
    this.handlers = new Handlers(what);
    this.attributes = what.start.attributes ?? noAttributes;
  }

  /** An outcome that came after the end of the code, which had never asked for it: only other code has done that. */
  get unasked(): NonDeterminismError | null {
    return this.#unasked;
  }

  /** True once the run number is over for the code: nothing more reaches it. */
  get finished(): boolean {
    return this.#finished;
  }

  /** Events that were brought and decisions that were taken: the same in a replay. */
  get eventCount(): number {
    return this.#eventCount;
  }

  /** What the code decided since the last call: to be appended behind what was delivered. */
  takeDecided(): WorkflowEvent[] {
    const decided = this.#decided;
    this.#decided = [];
    return decided;
  }

  /** What was asked for since the last call. */
  takeRequested(): Request[] {
    const requested = this.#requested;
    this.#requested = [];
    return requested;
  }

  /** Whether anything was cancelled since the last call: what runs for it is to be told. */
  takeCancelled(): boolean {
    const cancelled = this.#cancelledAny;
    this.#cancelledAny = false;
    return cancelled;
  }

  /** Brings one event, recorded or new, to the code and lets it run until it waits again. */
  async deliver(event: WorkflowEvent, sequence: number): Promise<void> {
    switch (event.type) {
      case "WorkflowStarted":
        return this.#turn(() => this.#begin());
      case "StepCompleted":
      case "CompensationCompleted": {
        const request = this.#expect(event, sequence);
        if (request === null) return;
        return this.#settle(request, () => request.resolve(event.data.output ?? null));
      }
      case "StepFailed":
      case "CompensationFailed":
      case "StepTimedOut": {
        const request = this.#expect(event, sequence);
        if (request === null) return;
        const error = new StepFailedError(event.data, event.type === "StepTimedOut");
        return this.#settle(request, () => request.reject(error));
      }
      case "StepStarted":
      case "StepRetryScheduled": {
        const request = this.#expect(event, sequence);
        if (request !== null) request.recorded = true;
        return;
      }
      case "StepScheduled": {
        // The first attempt is what the code decided, later ones what its policy did.
        if (event.data.attempt === 1) return this.#match(event, sequence);
        this.#expect(event, sequence);
        return;
      }
      case "TimerFired": {
        const request = this.#expectKey(requestKey.timer(event.data.timer), event, sequence);
        if (request === null) return;
        return this.#settle(request, () => request.resolve(undefined));
      }
      case "WaitTimedOut": {
        const request = this.#expectKey(requestKey.wait(event.data.wait), event, sequence);
        if (request?.kind !== "wait") return;
        return this.#settle(request, () => request.resolve(request.until === null ? undefined : false));
      }
      case "ChildWorkflowClosed": {
        const request = this.pending.get(requestKey.child(event.data.child));
        // A child outlives the interest in it: what the code cancelled may close later.
        if (request === undefined) return;
        return this.#settle(request, () => {
          if (event.data.status === "completed") request.resolve(event.data.output ?? null);
          else request.reject(new ChildFailedError(event.data));
        });
      }
      case "SignalReceived":
        return this.#signal(event.data);
      case "UpdateAccepted":
        return this.#update(event.data);
      case "WorkflowCancelRequested": {
        if (this.#cancelRequest !== null) return;
        this.#cancelRequest = event.data;
        if (this.#continued) this.#decided.push(event);
        if (this.#finished) return;
        const error = new CancelledError(event.data.reason ?? null);
        return this.#turn(() => this.cancelScope(this.root, error));
      }
      case "WorkflowPaused":
      case "WorkflowResumed":
      case "WorkflowMigrated":
      case "WorkflowTurnFailed":
      case "WorkflowTerminated":
      case "WorkflowTimedOut":
      case "WorkflowForked":
      case "WorkflowReset":
      case "HistoryCopied":
      case "HistoryLimitApproached":
      case "ScheduleCreated":
      case "ScheduleUpdated":
      case "SchedulePaused":
      case "ScheduleResumed":
      case "ScheduleTriggered":
      case "ScheduleStartFailed":
      case "ScheduleDeleted":
        return;
      case "ProgressReported":
      case "AttributesUpserted":
      case "PatchRecorded":
      case "SideEffectRecorded":
      case "TimerStarted":
      case "TimerCancelled":
      case "WaitStarted":
      case "WaitSatisfied":
      case "WaitCancelled":
      case "StepCancelled":
      case "ChildWorkflowStarted":
      case "ChildWorkflowCancelRequested":
      case "UpdateCompleted":
      case "CompensationRegistered":
      case "CompensationStarted":
      case "WorkflowContinuedAsNew":
      case "WorkflowCompleted":
      case "WorkflowFailed":
      case "WorkflowCancelled":
        return this.#match(event, sequence);
    }
  }

  /** Whether an update may be taken in now. Throws `update_unknown` or `update_refused`. Changes nothing. */
  validateUpdate(name: string, input: unknown): void {
    if (this.#finished) this.handlers.update(name);
    else this.handlers.validate(name, input);
  }

  /** Code of the user whose answers a replay must give again. */
  #ofUser<T>(code: () => T): T {
    if (this.what.guard !== true) return code();
    return guarded(this.what.workflowId, (error) => void (this.#turnError ??= error), code);
  }

  #settle(request: Request, act: () => void): Promise<void> {
    this.pending.delete(request.key);
    return this.#turn(act);
  }

  async #turn(act: () => void): Promise<void> {
    this.#eventCount++;
    if (this.#finished) return;
    this.#inTurn = true;
    act();
    await microtasksDrained();
    if (this.#waits !== null) await this.#askConditions(this.#waits);
    this.#inTurn = false;
    if (this.#turnError !== null) throw this.#turnError;
    if (!this.#finished && this.pending.size === 0) {
      throw new MillraceError(
        "non_deterministic_call",
        `Workflow code of ${this.what.workflowId} waits for something that is not a ctx call, so nothing in the log ` +
          "can ever wake it. Move the wait (fetch, a timer, a file) into ctx.step.",
      );
    }
  }

  /** `waitUntil`: what one condition sets off may make another one true. */
  async #askConditions(waits: Set<WaitRequest>): Promise<void> {
    for (let rounds = 0; waits.size > 0 && !this.#finished && this.#turnError === null; rounds++) {
      const satisfied = [...waits].find((wait) => this.#holds(wait, waits));
      if (satisfied === undefined) return;
      if (rounds === conditionRoundsMax) {
        this.#turnError ??= new MillraceError(
          "non_deterministic_call",
          `Conditions of ${this.what.workflowId} made each other true ${rounds} times within one event. ` +
            "Let each turn of the loop wait for a step, a timer or a signal.",
        );
        return;
      }
      this.pending.delete(satisfied.key);
      waits.delete(satisfied);
      this.decide({ type: "WaitSatisfied", data: { wait: satisfied.wait } });
      satisfied.resolve(true);
      await microtasksDrained();
    }
  }

  /** Waits for conditions, so that a run without one does not look through all that is pending after each event. */
  #waits: Set<WaitRequest> | null = null;

  #holds(wait: WaitRequest, waits: Set<WaitRequest>): boolean {
    if (this.pending.get(wait.key) !== wait) {
      waits.delete(wait);
      return false;
    }
    try {
      return this.#ofUser(() => this.handlers.read(() => wait.until?.())) === true;
    } catch (error) {
      this.pending.delete(wait.key);
      waits.delete(wait);
      this.decide({ type: "WaitCancelled", data: { wait: wait.wait } });
      wait.reject(error as Error);
      return false;
    }
  }

  #begin(): void {
    const { definition, input } = this.what;
    // `never` in AnyWorkflowDefinition's parameter: the definition's own schema has parsed this input.
    const running = Promise.resolve().then(() =>
      this.#ofUser(() => definition.run(createContext(this, this.root), input as never)),
    );
    running.then(
      (output) =>
        this.#finish(() => [
          {
            type: "WorkflowCompleted",
            data: { output: asStored(output, "output of the workflow", this.what.payloadBytesMax) },
          },
        ]),
      (error: unknown) => this.#fail(error),
    );
  }

  /** Undoes what is registered, last in first out, then ends the run with the reason. */
  #fail(reason: unknown): void {
    if (reason instanceof ContinueAsNew) return this.#finish(() => this.#continuation(reason));
    if (this.compensations.length === 0 || failsTurn(reason))
      return this.#finish(() => [this.#failure(reason)]);
    if (this.#finished || !this.mayAct("finish")) return;
    this.#compensate().then(
      () => this.#finish(() => [this.#failure(reason)]),
      (failure: unknown) => this.#finish(() => [this.#failure(failure)]),
    );
  }

  async #compensate(): Promise<void> {
    const shielded = new Scope(this.root, true);
    for (let next = this.compensations.pop(); next !== undefined; next = this.compensations.pop()) {
      const { name, occurrence, fn, options } = next;
      const compensated = new Promise<unknown>((resolve, reject) => {
        this.decide({ type: "CompensationStarted", data: { name, occurrence } });
        this.request({
          kind: "compensation",
          key: stepKey(name, occurrence),
          scope: shielded,
          promise: null,
          resolve,
          reject,
          recorded: true,
          name,
          occurrence,
          fn,
          options: { ...options, retry: { ...compensationRetry, ...options.retry } },
        });
      });
      // One that failed for good stands in the history; the others still have to run.
      await compensated.catch((error: unknown) => {
        if (!isMillraceError(error)) throw error;
      });
    }
  }

  #finish(outcome: () => readonly WorkflowEvent[]): void {
    if (this.#finished || !this.mayAct("finish")) return;
    let events: readonly WorkflowEvent[];
    try {
      events = outcome();
    } catch (error) {
      events = [{ type: "WorkflowFailed", data: { error: toErrorInfo(error) } }];
    }
    if (this.#turnError !== null) return;
    for (const event of events) this.decide(event);
    this.#finished = true;
  }

  #failure(error: unknown): WorkflowEvent {
    const { cancelled } = this.root;
    if (cancelled !== null && error instanceof CancelledError) {
      return {
        type: "WorkflowCancelled",
        data: cancelled.reason === null ? {} : { reason: cancelled.reason },
      };
    }
    if (failsTurn(error)) this.#turnError ??= error as Error;
    return { type: "WorkflowFailed", data: { error: toErrorInfo(error) } };
  }

  /** The end of this run number, the start of the next one, a cancel request, and the signals that nobody took. */
  #continuation({ input, version }: ContinueAsNew): WorkflowEvent[] {
    const { start, run } = this.what;
    const next: EventData<"WorkflowStarted"> = {
      ...start,
      version: version ?? start.version,
      input: asStored(input, "input of the continued run", this.what.payloadBytesMax),
      ...(Object.keys(this.attributes).length === 0 ? {} : { attributes: this.attributes }),
    };
    const kept = this.#mailbox?.all() ?? [];
    this.#continued = true;
    return [
      { type: "WorkflowContinuedAsNew", data: { run: run + 1 } },
      { type: "WorkflowStarted", data: next },
      ...(this.#cancelRequest === null
        ? []
        : [{ type: "WorkflowCancelRequested", data: this.#cancelRequest } as const]),
      ...kept.map((data): WorkflowEvent => ({ type: "SignalReceived", data })),
    ];
  }

  async #signal(data: EventData<"SignalReceived">): Promise<void> {
    this.#mailbox ??= new Mailbox();
    if (!this.#mailbox.isNew(data)) return;
    // By the code's own schema, so that a replay by the same version ignores the same ones.
    if (signalIssue(this.what.definition, data.name, data.payload ?? null) !== null) return;
    // It stands in the log before the commit that continues the run, and the code is over: nobody but the next run can.
    if (this.#continued) return void this.#decided.push({ type: "SignalReceived", data });
    for (const request of this.pending.values()) {
      if (request.kind !== "wait" || request.signal !== data.name) continue;
      return this.#settle(request, () => {
        this.decide({ type: "WaitSatisfied", data: { wait: request.wait } });
        request.resolve(data.payload ?? null);
      });
    }
    this.#mailbox.keep(data);
    this.#eventCount++;
  }

  /** The oldest signal of a name that nobody took; undefined for none. */
  takeSignal(name: string): { readonly payload: unknown } | undefined {
    const data = this.#mailbox?.take(name);
    return data === undefined ? undefined : { payload: data.payload ?? null };
  }

  async #update({ id, name, input }: EventData<"UpdateAccepted">): Promise<void> {
    this.#updateIds ??= new Set();
    if (this.#updateIds.has(id)) return;
    this.#updateIds.add(id);
    return this.#turn(() => {
      Promise.resolve()
        .then(() => {
          const { handle } = this.handlers.update(name);
          return this.#ofUser(() => handle(input ?? null));
        })
        .then(
          (output) =>
            this.#answer(id, () => ({
              id,
              output: asStored(output, `output of update ${name}`, messageBytesMax),
            })),
          (error: unknown) => this.#answer(id, () => ({ id, error: this.#updateError(error) })),
        );
    });
  }

  #updateError(error: unknown): EventData<"UpdateCompleted">["error"] {
    if (failsTurn(error) && !isMillraceError(error, "update_unknown")) this.#turnError ??= error as Error;
    return toErrorInfo(error);
  }

  #answer(id: string, answer: () => EventData<"UpdateCompleted">): void {
    if (this.#finished || !this.mayAct("the end of an update")) return;
    let data: EventData<"UpdateCompleted">;
    try {
      data = answer();
    } catch (error) {
      data = { id, error: toErrorInfo(error) };
    }
    if (this.#turnError === null) this.decide({ type: "UpdateCompleted", data });
  }

  /** Ends what a scope waits for. Whatever the log knows of it is said to be over, too. */
  cancelScope(scope: Scope, error: CancelledError): void {
    scope.cancel(error);
    for (const request of this.pending.values()) {
      const { cancelled } = request.scope;
      request.scope.abort();
      if (cancelled !== null) this.cancelRequest(request, cancelled);
    }
    scope.abort();
  }

  cancelRequest(request: Request, error: Error): void {
    if (!this.pending.delete(request.key)) return;
    this.#cancelledAny = true;
    switch (request.kind) {
      case "timer":
        this.decide({ type: "TimerCancelled", data: { timer: request.timer } });
        break;
      case "wait":
        this.decide({ type: "WaitCancelled", data: { wait: request.wait } });
        break;
      case "child":
        if (request.started.onClose !== "abandon")
          this.decide({ type: "ChildWorkflowCancelRequested", data: { child: request.child } });
        break;
      case "task":
      case "step":
      case "compensation": {
        const { name, occurrence, kind, key } = request;
        if (kind === "task") (this.#cancelledTasks ??= new Set()).add(key);
        if (request.recorded) this.decide({ type: "StepCancelled", data: { name, occurrence } });
        break;
      }
    }
    request.reject(error);
  }

  /** The request that a recorded or new step event is about; null when the code has finished without it. */
  #expect(event: Extract<WorkflowEvent, { data: { occurrence: number } }>, sequence: number): Request | null {
    return this.#expectKey(stepKey(event.data.name, event.data.occurrence), event, sequence);
  }

  #expectKey(key: string, event: WorkflowEvent, sequence: number): Request | null {
    const request = this.pending.get(key);
    if (request !== undefined) return request;
    // Its worker, in whatever process, recorded it before the cancellation could be.
    if (this.#cancelledTasks?.has(key)) return null;
    if (this.#finished) {
      this.#unasked ??= this.#diverged(event, sequence);
      return null;
    }
    throw this.#diverged(event, sequence);
  }

  /** A2: in a replay the code has taken this decision already, and it is the oldest one not yet matched. */
  #match(event: WorkflowEvent, sequence: number): void {
    const next = this.#decided.shift();
    if (next === undefined || next.type !== event.type || identityOf(next) !== identityOf(event))
      throw this.#unasked ?? this.#diverged(event, sequence, next);
    // What was decided then is what holds: times and tokens are not computed again.
    if (event.type === "TimerStarted") {
      const request = this.pending.get(requestKey.timer(event.data.timer));
      if (request?.kind === "timer") request.dueAt = event.data.dueAt;
    } else if (event.type === "WaitStarted") {
      const request = this.pending.get(requestKey.wait(event.data.wait));
      if (request?.kind === "wait") request.dueAt = event.data.dueAt ?? null;
    } else if (event.type === "StepScheduled") {
      const request = this.pending.get(stepKey(event.data.name, event.data.occurrence));
      if (request?.kind === "task") request.scheduled = event.data;
    }
  }

  #diverged(recorded: WorkflowEvent, sequence: number, decided?: WorkflowEvent): NonDeterminismError {
    const { workflowId, definition } = this.what;
    return new NonDeterminismError({
      workflowId,
      version: definition.version,
      sequence,
      recorded: recorded.type,
      ...("occurrence" in recorded.data
        ? { step: stepKey(recorded.data.name, recorded.data.occurrence) }
        : identityOf(recorded) === ""
          ? {}
          : { subject: identityOf(recorded) }),
      ...(decided === undefined ? {} : { decided: `${decided.type} ${identityOf(decided)}`.trimEnd() }),
    });
  }

  /** A4: false, and the turn is failed, when code acts after an await that is not ours. */
  mayAct(what: string): boolean {
    if (this.handlers.reading) {
      throw new MillraceError(
        "non_deterministic_call",
        `Workflow code of ${this.what.workflowId} called ${what} in a query, a condition or a validation, which only ` +
          "read. Call it in the workflow itself, or in an update's handler.",
      );
    }
    if (this.#inTurn) return true;
    const error = new MillraceError(
      "non_deterministic_call",
      `Workflow code of ${this.what.workflowId} called ${what} outside of a turn: it awaited something that is not a ` +
        "ctx call. Move that wait into ctx.step.",
    );
    this.#turnError ??= error;
    unguarded(() => this.what.onStray(error));
    return false;
  }

  /** Throws when code acts outside of a turn. */
  act(what: string): void {
    if (!this.mayAct(what)) throw this.#turnError as Error;
  }

  decide(event: WorkflowEvent): void {
    if (this.#finished) return;
    this.#decided.push(event);
    this.#eventCount++;
  }

  request(request: Request): void {
    this.#refused = 0;
    this.pending.set(request.key, request);
    this.#requested.push(request);
    if (request.kind === "wait" && request.until !== null) (this.#waits ??= new Set()).add(request);
  }

  /** The request for which `ctx` gave this promise, while the code waits for it. */
  requestOf(promise: Promise<unknown>): Request | undefined {
    for (const request of this.pending.values()) if (request.promise === promise) return request;
    return undefined;
  }

  /** Which time this name is asked for, from 1. Steps, tasks and compensations share their names. */
  occurrenceOf(kind: string, name: string): number {
    const key = `${kind}\u0000${name}`;
    const occurrence = (this.#occurrences.get(key) ?? 0) + 1;
    this.#occurrences.set(key, occurrence);
    return occurrence;
  }

  patched(id: string): boolean {
    this.#patches ??= new Map();
    const known = this.#patches.get(id);
    if (known !== undefined) return known;
    const answer = this.what.recordedPatches.includes(id) || !this.replaying;
    this.#patches.set(id, answer);
    if (answer) this.decide({ type: "PatchRecorded", data: { patch: id } });
    return answer;
  }

  /** Code that catches each refusal and asks again would never give the process back: true when it must be stopped. */
  isRefusalLoop(name: string): boolean {
    if (++this.#refused <= refusedMax) return false;
    this.#turnError ??= new MillraceError(
      "non_deterministic_call",
      `Workflow code of ${this.what.workflowId} asked ${this.#refused} times in a row for a step (${name}) that was ` +
        "refused at once. After a cancel, let the CancelledError pass.",
    );
    return true;
  }
}

function failsTurn(error: unknown): boolean {
  return (
    isProgramError(error) ||
    (error instanceof MillraceError &&
      (error.code === "non_determinism" || error.code === "non_deterministic_call"))
  );
}

/** Resolves when no microtask is left: ticks queued from a microtask run only after the microtask queue is empty. */
function microtasksDrained(): Promise<void> {
  return new Promise((resolve) => queueMicrotask(() => process.nextTick(resolve)));
}
