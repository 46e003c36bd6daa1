/** A run as its callers hold it. One is made for each start, so that it has methods and no closures of its own. */
import { parseStepRef } from "@millrace/schemas";
import { asStored, messageBytesMax } from "./as-stored.ts";
import type { Commands } from "./commands.ts";
import { assertSignal, type AnyWorkflowDefinition } from "./definition.ts";
import type { Clock } from "./due-timers.ts";
import type { Interceptors } from "./interceptors.ts";
import type {
  Mutation,
  OperatorReason,
  SignalOptions,
  UpdateRequestOptions,
  WorkflowHandle,
} from "./millrace.ts";
import { newUlid } from "./new-ulid.ts";
import {
  createOperatorHandle,
  type ForkOptions,
  type ForkResult,
  type OperatorHandle,
  type ResetOptions,
  type ResetResult,
} from "./operator-handle.ts";
import type { SealedLog } from "./payloads/sealed-log.ts";
import { ask, type AskOptions } from "./questions.ts";
import type { Results } from "./results.ts";

export interface RunHandleDeps {
  readonly log: SealedLog;
  readonly clock: Clock;
  readonly interceptors: Interceptors;
  readonly commands: Commands;
  readonly results: Results;
}

export interface KnownRun {
  readonly id: string;
  /** Sequence of its start; undefined when that is not known. */
  readonly startedAt?: number | undefined;
  /** What its signals are checked by; undefined when that is not known. */
  readonly definition?: AnyWorkflowDefinition | undefined;
}

export class RunHandle<Output> implements WorkflowHandle<Output> {
  readonly id: string;
  readonly #deps: RunHandleDeps;
  readonly #run: KnownRun;

  constructor(deps: RunHandleDeps, run: KnownRun) {
    this.id = run.id;
    this.#deps = deps;
    this.#run = run;
  }

  result(options: { readonly signal?: AbortSignal } = {}): Promise<Output> {
    return this.#deps.results.wait(this.id, options.signal, this.#run.startedAt) as Promise<Output>;
  }

  async signal(name: string, payload?: unknown, options: SignalOptions = {}): Promise<Mutation> {
    const { id } = this;
    const { interceptors, commands, log } = this.#deps;
    const { definition } = this.#run;
    if (definition !== undefined) assertSignal(definition, name, payload);
    parseStepRef(name);
    return interceptors.signal({ workflowId: id, name, payload }, async (call) => {
      const stored = asStored(call.payload, `payload of signal ${name}`, log.payloads.bytesMax);
      const command = { kind: "signal", name, payload: stored, ...options } as const;
      return { sequence: await commands.signal(id, command) };
    });
  }

  async query<Answer = unknown>(name: string, input?: unknown, options?: AskOptions): Promise<Answer> {
    const { log, clock } = this.#deps;
    const stored = asStored(input, `input of query ${name}`, messageBytesMax);
    return (await ask(log, clock, { kind: "query", id: this.id, name, input: stored }, options)) as Answer;
  }

  async update<Answer = unknown>(
    name: string,
    input?: unknown,
    options: UpdateRequestOptions = {},
  ): Promise<Answer> {
    const { log, clock } = this.#deps;
    const { id: updateId = newUlid(), ...rest } = options;
    const stored = asStored(input, `input of update ${name}`, messageBytesMax);
    return (await ask(
      log,
      clock,
      { kind: "update", id: this.id, updateId, name, input: stored },
      rest,
    )) as Answer;
  }

  async cancel(reason: OperatorReason = {}): Promise<Mutation> {
    const { sequence } = await this.#deps.commands.execute(this.id, () => ({ kind: "cancel", ...reason }));
    return { sequence };
  }

  async terminate(reason: OperatorReason = {}): Promise<Mutation> {
    const { sequence } = await this.#deps.commands.execute(this.id, () => ({ kind: "terminate", ...reason }));
    return { sequence };
  }

  pause(reason?: OperatorReason): Promise<Mutation> {
    return this.#operator().pause(reason);
  }

  resume(reason?: OperatorReason): Promise<Mutation> {
    return this.#operator().resume(reason);
  }

  retry(options?: Omit<ResetOptions, "step">): Promise<ResetResult> {
    return this.#operator().retry(options);
  }

  reset(options?: ResetOptions): Promise<ResetResult> {
    return this.#operator().reset(options);
  }

  fork(options?: ForkOptions): Promise<ForkResult> {
    return this.#operator().fork(options);
  }

  migrate(...of: Parameters<OperatorHandle["migrate"]>): ReturnType<OperatorHandle["migrate"]> {
    return this.#operator().migrate(...of);
  }

  #operator(): OperatorHandle {
    return createOperatorHandle(this.#deps.log, this.#deps.commands, this.id);
  }
}
