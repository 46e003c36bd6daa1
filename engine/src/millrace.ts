/** What `connect` gives: the public door of the engine. Implementations live beside it. */
import type { EventLog } from "@millrace/event-log";
import type { Attributes, BeginOutcome, ErrorInfo, Fleet } from "@millrace/schemas";
import type { WorkflowDefinition } from "./definition.ts";
import type { AskOptions } from "./questions.ts";
import type { Schedules } from "./schedules/schedules.ts";
import type { Tasks } from "./tasks/task-api.ts";
import type { OperatorHandle } from "./operator-handle.ts";
import type { Worker, WorkerOptions } from "./worker.ts";

export interface StartOptions {
  /** Workflow id; a ULID when left out. */
  readonly id?: string;
  /** Default: the definition's, else the registered one, else "1". */
  readonly version?: string;
  /** Search attributes: strings, numbers, booleans; dates as ISO 8601 strings. At most `limits.attributes`. */
  readonly attributes?: Attributes;
  /** `external`: a driver begins and ends the steps; needs no registered type. Default `code`. */
  readonly driver?: "code" | "external";
  /** Planned step names, for `totalSteps`. Default: the definition's. */
  readonly steps?: readonly string[];
  /** Accept a type that nobody has registered. Default false. */
  readonly allowUnregistered?: boolean;
  /** Time limit of the run, milliseconds. Default: the definition's, else none. */
  readonly timeoutMs?: number;
  /** Signal-with-start: the run gets it, whether this call began it or it was there. An `id` makes it come once. */
  readonly signal?: { readonly name: string; readonly payload?: unknown; readonly id?: string };
  /** W3C trace context of the caller; stored with the run. Default: what an interceptor gives, else none. */
  readonly traceparent?: string;
}

export interface SignalOptions {
  /** A signal with an id that the run has had is not taken again. */
  readonly id?: string;
  /** Who sends it. */
  readonly by?: string;
}

export interface UpdateRequestOptions extends AskOptions {
  /** The same id again: the same update, and its answer. Default: a new one. */
  readonly id?: string;
}

export interface StartResult<Output = unknown> {
  readonly handle: WorkflowHandle<Output>;
  /** False when the same start had been made before: one run, the same handle. */
  readonly created: boolean;
  readonly sequence: number;
}

export interface Mutation {
  readonly sequence: number;
}

export interface OperatorReason {
  readonly reason?: string;
  readonly by?: string;
}

export interface WorkflowHandle<Output = unknown> extends OperatorHandle {
  readonly id: string;
  /**
   * The run's output, pushed when it closes. Rejects with `workflow_failed`, `cancelled`, `terminated`,
   * `workflow_timed_out`, `workflow_not_found`, or the signal's reason.
   */
  result(options?: { readonly signal?: AbortSignal }): Promise<Output>;
  /**
   * Appends a fact that the code may wait for; kept when it comes early. Rejects with `workflow_closed`,
   * `workflow_not_found`, or `invalid_input` when the handle knows the definition and its schema refuses.
   */
  signal(name: string, payload?: unknown, options?: SignalOptions): Promise<Mutation>;
  /**
   * Reads the code's variables, without a trace in the log; also of a run that is over. Rejects with `query_unknown`,
   * `query_failed`, `timeout` or `unavailable` when no worker answers.
   */
  query<Answer = unknown>(name: string, input?: unknown, options?: AskOptions): Promise<Answer>;
  /**
   * Validated by the code, recorded, and answered with what its handler returns. Goes on waiting while no worker is
   * there; safe to repeat under its id. Rejects with `update_unknown`, `update_refused`, `update_failed`,
   * `workflow_closed`, or the signal's reason.
   */
  update<Answer = unknown>(name: string, input?: unknown, options?: UpdateRequestOptions): Promise<Answer>;
  /** Asks the run to stop; the code sees `ctx.signal` and pending steps reject. Idempotent. */
  cancel(reason?: OperatorReason): Promise<Mutation>;
  /** Ends the run at once, without asking the code. */
  terminate(reason?: OperatorReason): Promise<Mutation>;
}

/** The driver protocol: a service in any language is the orchestrator. Same calls as over HTTP. */
export interface Driver {
  /** `step` is `name` or `name#occurrence`. Idempotent: a driver that crashed calls it again. */
  begin(workflowId: string, step: string, options?: { readonly maxAttempts?: number }): Promise<BeginOutcome>;
  /** `attempt_superseded` for a stale token. */
  completeStep(workflowId: string, step: string, token: string, output: unknown): Promise<Mutation>;
  failStep(
    workflowId: string,
    step: string,
    token: string,
    error: ErrorInfo,
  ): Promise<Mutation & { readonly final: boolean; readonly nextAttemptAt: number | null }>;
  complete(workflowId: string, output: unknown): Promise<Mutation>;
  fail(workflowId: string, error: ErrorInfo): Promise<Mutation>;
}

export interface DrivenStepOptions {
  /** Attempts in all. Default 3. */
  readonly maxAttempts?: number;
  readonly signal?: AbortSignal;
}

/** A run that this process drives. After a crash, drive it again: finished steps answer from the log. */
export interface DrivenRun {
  readonly id: string;
  /**
   * Begins the step, runs `fn`, records its outcome; a step that is recorded already gives its output without running.
   * Retries with backoff; rejects with `step_failed` after the last attempt, `attempt_superseded` when another driver
   * took the step over, `workflow_closed`, or the signal's reason. The same name again is its next occurrence.
   */
  step<T>(
    name: string,
    fn: (step: { readonly attempt: number; readonly idempotencyKey: string }) => T | Promise<T>,
    options?: DrivenStepOptions,
  ): Promise<T>;
  complete(output?: unknown): Promise<Mutation>;
  fail(error: unknown): Promise<Mutation>;
}

export interface DriveOptions {
  readonly input?: unknown;
  /** Planned step names, for `totalSteps`. */
  readonly steps?: readonly string[];
  readonly attributes?: Attributes;
}

export interface Millrace {
  readonly log: EventLog;
  /** The driver protocol call by call; {@link Millrace.drive} is the comfortable form. */
  readonly driver: Driver;
  /** Runs that are started by the clock. */
  readonly schedules: Schedules;
  /** Task queues for those who are no worker of ours, and for operators. */
  readonly tasks: Tasks;
  /**
   * Starts a run that this process orchestrates, or goes on with it when the same start was made before.
   *
   * @example
   * const run = await millrace.drive("permit", "case-1", { steps: ["check", "decide"] });
   * const complete = await run.step("check", () => isComplete("case-1"));
   * await run.complete({ granted: await run.step("decide", () => complete) });
   */
  drive(type: string, id: string, options?: DriveOptions): Promise<DrivenRun>;
  /** Starts a run, or finds the one that the same start began. `workflow_exists` for a different start under the id. */
  start<Input, Output>(
    definition: WorkflowDefinition<Input, Output>,
    input: Input,
    options?: StartOptions,
  ): Promise<WorkflowHandle<Output>>;
  /** As `start`, by type name, and says whether the run is new. */
  startByType(type: string, input: unknown, options?: StartOptions): Promise<StartResult>;
  /** A handle on a run that exists; `workflow_not_found` shows on first use. */
  handle<Output = unknown>(id: string): WorkflowHandle<Output>;
  /**
   * Executes runs of the given workflows in this process, which shares them with the other workers of its group.
   * Rejects with `workflow_type_claimed` when a live worker of another group hosts one of the types.
   *
   * @example
   * const worker = await millrace.worker({ workflows: [order], group: "orders" });
   * process.once("SIGTERM", () => void worker.drain());
   */
  worker(options: WorkerOptions): Promise<Worker>;
  /**
   * The live workers of the namespace, which shards each executes, and which types and versions are hosted at all: a
   * run of another one waits. As it is now; read from the broker.
   */
  fleet(): Promise<Fleet>;
  /** Drains the workers of this connection and closes it. Idempotent. */
  close(): Promise<void>;
}
