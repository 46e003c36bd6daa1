/**
 * One activation of workflow code: the user's function, running, and what it has asked for.
 *
 * Owns: the code's promises and the order in which completions reach it. Does not own: the log, the execution of
 * steps, time. It is the same for a live run and for a replay, which is why a replay cannot differ.
 *
 * A1 Completions reach the code one at a time; all microtasks have run before the next one.
 * A2 What the code decides is collected in order; a recorded decision must be the next one that the code takes.
 * A3 A recorded step outcome that the code is not waiting for is a `NonDeterminismError`.
 * A4 Code that acts outside of a turn, or that waits for nothing of ours, is a `non_deterministic_call`.
 *
 * Tested by `activation.test.ts` and, against an oracle, by `run.sim.test.ts`.
 */
import { createHash } from "node:crypto";
import {
  limits,
  MillraceError,
  parseStepRef,
  stepKey,
  type EventData,
  type WorkflowEvent,
} from "@millrace/schemas";
import type { StepContext, StepOptions, WorkflowContext } from "./context.ts";
import type { AnyWorkflowDefinition } from "./definition.ts";
import {
  CancelledError,
  isProgramError,
  NonDeterminismError,
  StepFailedError,
  toErrorInfo,
} from "./failures.ts";

/** Refusals in a row: far more than a clean-up has steps, few enough to stop a loop at once. */
const refusedMax = 1_000;

/** A step that the code waits for. */
export interface StepRequest {
  readonly key: string;
  readonly name: string;
  readonly occurrence: number;
  readonly fn: (step: StepContext) => unknown;
  readonly options: StepOptions;
  readonly resolve: (output: unknown) => void;
  readonly reject: (error: Error) => void;
}

export interface ActivationInput {
  readonly definition: AnyWorkflowDefinition;
  readonly workflowId: string;
  /** Parsed by the definition's schema. */
  readonly input: unknown;
  /** Commit id of the run's first commit: where `random` and `uuid` come from. */
  readonly seed: string;
  /** What `ctx.now()` answered so far, as recorded. */
  readonly recordedNow: readonly number[];
  readonly now: () => number;
  /** The code acted outside of a turn. */
  readonly onStray: (error: Error) => void;
}

export class Activation {
  readonly pending = new Map<string, StepRequest>();
  readonly #what: ActivationInput;
  /** Made on first use: most code never looks at its signal. */
  #cancel: AbortController | null = null;
  readonly #occurrences = new Map<string, number>();
  #cancelled: CancelledError | null = null;
  #decided: WorkflowEvent[] = [];
  #requested: StepRequest[] = [];
  #nowCalls = 0;
  /** Steps that were refused at once, one after the other. */
  #refused = 0;
  #derived = 0;
  #inTurn = false;
  #finished = false;
  /** An error that fails the turn, not the run. */
  #turnError: Error | null = null;

  constructor(what: ActivationInput) {
    this.#what = what;
  }

  /** True once the function has returned or thrown: nothing more reaches it. */
  get finished(): boolean {
    return this.#finished;
  }

  /** What the code decided since the last call: to be appended behind what was delivered. */
  takeDecided(): WorkflowEvent[] {
    const decided = this.#decided;
    this.#decided = [];
    return decided;
  }

  /** Steps asked for since the last call. */
  takeRequested(): StepRequest[] {
    const requested = this.#requested;
    this.#requested = [];
    return requested;
  }

  /** Brings one event, recorded or new, to the code and lets it run until it waits again. */
  async deliver(event: WorkflowEvent, sequence: number): Promise<void> {
    switch (event.type) {
      case "WorkflowStarted":
        return this.#turn(() => this.#begin());
      case "StepCompleted": {
        const request = this.#expect(event, sequence);
        if (request === null) return;
        this.pending.delete(request.key);
        return this.#turn(() => request.resolve(event.data.output ?? null));
      }
      case "StepFailed":
      case "StepTimedOut": {
        const request = this.#expect(event, sequence);
        if (request === null) return;
        this.pending.delete(request.key);
        const error = new StepFailedError(event.data, event.type === "StepTimedOut");
        return this.#turn(() => request.reject(error));
      }
      case "StepStarted":
      case "StepRetryScheduled":
        this.#expect(event, sequence);
        return;
      case "WorkflowCancelRequested": {
        if (this.#finished || this.#cancelled !== null) return;
        const error = new CancelledError(event.data.reason ?? null);
        this.#cancelled = error;
        return this.#turn(() => {
          this.#cancel?.abort(error);
          for (const request of this.pending.values()) request.reject(error);
          this.pending.clear();
        });
      }
      case "WorkflowTurnFailed":
      case "WorkflowTerminated":
      default:
        return;
      case "ProgressReported":
      case "SideEffectRecorded":
      case "WorkflowCompleted":
      case "WorkflowFailed":
      case "WorkflowCancelled":
        return this.#match(event, sequence);
    }
  }

  async #turn(act: () => void): Promise<void> {
    if (this.#finished) return;
    this.#inTurn = true;
    act();
    await microtasksDrained();
    this.#inTurn = false;
    if (this.#turnError !== null) throw this.#turnError;
    if (!this.#finished && this.pending.size === 0) {
      throw new MillraceError(
        "non_deterministic_call",
        `Workflow code of ${this.#what.workflowId} waits for something that is not a ctx call, so nothing in the log ` +
          "can ever wake it. Move the wait (fetch, a timer, a file) into ctx.step.",
      );
    }
  }

  #begin(): void {
    const { definition, input } = this.#what;
    // `never` in AnyWorkflowDefinition's parameter: the definition's own schema has parsed this input.
    const running = Promise.resolve().then(() => definition.run(this.#context(), input as never));
    running.then(
      (output) =>
        this.#finish(() => ({
          type: "WorkflowCompleted",
          data: { output: asStored(output, "output of the workflow") },
        })),
      (error: unknown) => this.#finish(() => this.#failure(error)),
    );
  }

  #finish(outcome: () => WorkflowEvent): void {
    if (this.#finished || !this.#mayAct("finish")) return;
    let event: WorkflowEvent;
    try {
      event = outcome();
    } catch (error) {
      event = { type: "WorkflowFailed", data: { error: toErrorInfo(error) } };
    }
    if (this.#turnError !== null) return;
    this.#decided.push(event);
    this.#finished = true;
  }

  #failure(error: unknown): WorkflowEvent {
    if (this.#cancelled !== null && error instanceof CancelledError) {
      const { reason } = this.#cancelled;
      return { type: "WorkflowCancelled", data: reason === null ? {} : { reason } };
    }
    const turnFails =
      isProgramError(error) ||
      (error instanceof MillraceError &&
        (error.code === "non_determinism" || error.code === "non_deterministic_call"));
    if (turnFails) this.#turnError ??= error as Error;
    return { type: "WorkflowFailed", data: { error: toErrorInfo(error) } };
  }

  /** The request that a recorded or new step event is about; null when the code has finished without it. */
  #expect(
    event: Extract<WorkflowEvent, { data: { occurrence: number } }>,
    sequence: number,
  ): StepRequest | null {
    const key = stepKey(event.data.name, event.data.occurrence);
    const request = this.pending.get(key);
    if (request !== undefined) return request;
    if (this.#finished) return null;
    throw this.#diverged(event.type, sequence, key);
  }

  /** A2: in a replay the code has taken this decision already, and it is the oldest one not yet matched. */
  #match(event: WorkflowEvent, sequence: number): void {
    const next = this.#decided.shift();
    if (next?.type !== event.type) throw this.#diverged(event.type, sequence);
  }

  #diverged(recorded: string, sequence: number, step?: string): NonDeterminismError {
    const { workflowId, definition } = this.#what;
    return new NonDeterminismError({
      workflowId,
      version: definition.version,
      sequence,
      recorded,
      ...(step === undefined ? {} : { step }),
    });
  }

  /** A4: false, and the turn is failed, when code acts after an await that is not ours. */
  #mayAct(what: string): boolean {
    if (this.#inTurn) return true;
    const error = new MillraceError(
      "non_deterministic_call",
      `Workflow code of ${this.#what.workflowId} called ${what} outside of a turn: it awaited something that is not a ` +
        "ctx call. Move that wait into ctx.step.",
    );
    this.#turnError ??= error;
    this.#what.onStray(error);
    return false;
  }

  #act(what: string): void {
    if (!this.#mayAct(what)) throw this.#turnError as Error;
  }

  #decide(event: WorkflowEvent): void {
    if (!this.#finished) this.#decided.push(event);
  }

  #context(): WorkflowContext {
    const { workflowId, definition } = this.#what;
    const signal = (): AbortSignal => this.#signal();
    return {
      workflowId,
      type: definition.type,
      version: definition.version,
      get signal() {
        return signal();
      },
      step: <T>(name: string, fn: (step: StepContext) => T | Promise<T>, options: StepOptions = {}) =>
        this.#step(name, fn, options) as Promise<T>,
      progress: (progress) => {
        if (!this.#mayAct("ctx.progress")) return;
        const { current, total, message } = progress;
        const data: EventData<"ProgressReported"> = {
          ...(Number.isFinite(current) ? { current } : {}),
          ...(Number.isFinite(total) ? { total } : {}),
          ...(message === undefined ? {} : { message: message.slice(0, limits.messageChars) }),
        };
        this.#decide({ type: "ProgressReported", data });
      },
      now: () => {
        this.#act("ctx.now");
        const index = ++this.#nowCalls;
        const value = this.#what.recordedNow[index - 1] ?? this.#what.now();
        this.#decide({ type: "SideEffectRecorded", data: { kind: "now", index, value } });
        return value;
      },
      random: () => {
        this.#act("ctx.random");
        // 48 bits: what a double holds exactly, with room.
        return this.#derive().readUIntBE(0, 6) / 2 ** 48;
      },
      uuid: () => {
        this.#act("ctx.uuid");
        const bytes = this.#derive();
        // Version 4 and variant bits: RFC 9562, section 5.4.
        bytes[6] = ((bytes[6] ?? 0) & 0x0f) | 0x40;
        bytes[8] = ((bytes[8] ?? 0) & 0x3f) | 0x80;
        const hex = bytes.toString("hex");
        return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20, 32)}`;
      },
    };
  }

  #signal(): AbortSignal {
    this.#cancel ??= new AbortController();
    if (this.#cancelled !== null) this.#cancel.abort(this.#cancelled);
    return this.#cancel.signal;
  }

  /** Code that catches each refusal and asks again would never give the process back. */
  #endLoop(name: string): Promise<never> {
    this.#turnError ??= new MillraceError(
      "non_deterministic_call",
      `Workflow code of ${this.#what.workflowId} asked ${this.#refused} times in a row for a step (${name}) that was ` +
        "refused at once. After a cancel, let the CancelledError pass.",
    );
    return neverSettles();
  }

  #derive(): Buffer {
    return createHash("sha256").update(`${this.#what.seed}/${++this.#derived}`).digest();
  }

  #step(name: string, fn: (step: StepContext) => unknown, options: StepOptions): Promise<unknown> {
    // The turn has failed. A rejection that nobody awaits would end the process, and all other runs with it.
    if (!this.#mayAct(`ctx.step(${JSON.stringify(name)})`)) return neverSettles();
    const occurrence = (this.#occurrences.get(name) ?? 0) + 1;
    this.#occurrences.set(name, occurrence);
    const key = stepKey(name, occurrence);
    const promise = new Promise<unknown>((resolve, reject) => {
      assertStep(key, name, options);
      if (this.#cancelled !== null) throw this.#cancelled;
      const request: StepRequest = { key, name, occurrence, fn, options, resolve, reject };
      this.#refused = 0;
      this.pending.set(key, request);
      this.#requested.push(request);
    });
    // A step may fail or be cancelled before the code awaits it: its outcome is in the log, not an unhandled rejection.
    promise.catch(() => undefined);
    if (!this.pending.has(key) && ++this.#refused > refusedMax) return this.#endLoop(name);
    return promise;
  }
}

/** A name or an option that no step can have. */
function assertStep(key: string, name: string, { timeoutMs }: StepOptions): void {
  parseStepRef(key);
  if (name.includes("#")) {
    throw new MillraceError(
      "invalid_id",
      `Step name ${JSON.stringify(name)} has a "#". Occurrences are counted for you.`,
    );
  }
  if (timeoutMs !== undefined && !(Number.isFinite(timeoutMs) && timeoutMs >= 0)) {
    throw new RangeError(
      `Step ${key} has a time limit of ${timeoutMs} ms. Give a number of milliseconds, or leave it out.`,
    );
  }
}

function neverSettles(): Promise<never> {
  return new Promise(() => undefined);
}

/**
 * A value as a reader of the log will see it: live code must not get more than a replay can give it.
 * `payload_too_large` beyond what one commit can hold beside its envelope.
 */
export function asStored(value: unknown, what: string): unknown {
  if (value === undefined || value === null || typeof value === "boolean") return value ?? null;
  if (typeof value === "string" && value.length < 10_000) return value;
  const text = JSON.stringify(value) as string | undefined;
  if (text === undefined) {
    throw new TypeError(`The ${what} is a ${typeof value}, which JSON cannot hold. Return plain data.`);
  }
  const limit = limits.commitBytes - 1_000;
  const actual = text.length > limit / 3 ? Buffer.byteLength(text) : text.length;
  if (actual > limit) {
    throw new MillraceError(
      "payload_too_large",
      `The ${what} has ${actual} bytes of JSON, the limit is ${limit}. Store the data elsewhere and return a reference.`,
      { details: { limit, actual } },
    );
  }
  return JSON.parse(text) as unknown;
}

/** Resolves when no microtask is left: ticks queued from a microtask run only after the microtask queue is empty. */
function microtasksDrained(): Promise<void> {
  return new Promise((resolve) => queueMicrotask(() => process.nextTick(resolve)));
}
