/**
 * What happens outside of the code because of what it asked for: attempts of steps, timers, tasks handed to queues,
 * children started. One per run.
 *
 * Owns: the executions, due times and hand-overs in flight of one run. Does not own: the order of events (`run.ts`),
 * what is due (that stands in the log).
 *
 * R2 Nothing is started before everything that led to it is in the log: `start` is called only after a commit.
 * R4 A step's function is not run again in this process while its outcome is known or it still runs.
 *
 * Tested with the run, by `run.test.ts` and `run.sim.test.ts`.
 */
import type { HeartbeatKey } from "@millrace/event-log";
import { MillraceError, stepKey, type EventData, type RunState, type StepState } from "@millrace/schemas";
import type { Activation } from "./activation.ts";
import type { Completion } from "./completions.ts";
import { afterFailedAttempt } from "./core/attempt.ts";
import { taskDeadline } from "./core/task-deadline.ts";
import { newUlid } from "./new-ulid.ts";
import {
  requestKey,
  type ChildRequest,
  type Request,
  type StepRequest,
  type TaskRequest,
} from "./requests.ts";
import { StepExecution, type StepExecutionDeps } from "./step-execution.ts";
import type { StepSlots } from "./step-slots.ts";

/** Puts tasks into their queues. */
export interface TaskQueues {
  /** Resolves when the queue has it. Idempotent by token. */
  publish(task: PublishedTask): Promise<void>;
  /** Of the attempt with this token, milliseconds since 1970; null when there was none. */
  lastHeartbeatAt(key: HeartbeatKey, token: string): Promise<number | null>;
  /** The task has failed for good without a worker to say so. Idempotent by token. */
  bury(task: PublishedTask, reason: string): Promise<void>;
}

export interface PublishedTask extends EventData<"StepScheduled"> {
  readonly workflowId: string;
  readonly type: string;
  readonly run: number;
  /** W3C trace context of the run. */
  readonly traceparent: string | null;
  /** Of a commit at which the step was scheduled under this token. */
  readonly sequence: number;
}

export interface ParentRef {
  readonly id: string;
  readonly run: number;
  readonly traceparent: string | null;
}

/** Starts children, or finds them: after a crash it is asked again. */
export interface Children {
  /** How the child closed; null while it is open. */
  start(
    parent: ParentRef,
    started: EventData<"ChildWorkflowStarted">,
  ): Promise<EventData<"ChildWorkflowClosed"> | null>;
  requestCancel(child: string, terminate: boolean, reason: string): Promise<void>;
  /** Tells from now on when the parent closes; true when it has closed already, or is not there. */
  watchParent(parent: string, child: string): Promise<boolean>;
}

export interface DispatcherDeps extends StepExecutionDeps {
  readonly tasks: TaskQueues;
  readonly children: Children;
}

/** The run that it works for. */
export interface DispatcherHost {
  readonly id: string;
  readonly type: string;
  readonly slots: Pick<StepSlots, "run">;
  /** W3C trace context of the run. */
  traceparent(): string | null;
  /** Tries again while the broker is away, until the run is stopped. */
  persist<T>(act: () => Promise<T>): Promise<T>;
  onCompletion(completion: Completion): void;
  onError(error: unknown): void;
  /** Something was handed over: the run may be idle now. */
  onHandedOver(): void;
}

export class Dispatcher {
  readonly #deps: DispatcherDeps;
  readonly #host: DispatcherHost;
  readonly #executions = new Map<string, StepExecution>();
  readonly #dues = new Map<string, { readonly at: number; readonly cancel: () => void }>();
  /** Keys of tasks and children that were handed over, or are being so. */
  #handed: Map<string, string> | null = null;
  #inFlight = 0;
  #stopped = false;

  constructor(deps: DispatcherDeps, host: DispatcherHost) {
    this.#deps = deps;
    this.#host = host;
  }

  get #id(): string {
    return this.#host.id;
  }

  /** Nothing runs here: the run can be rebuilt elsewhere or later without any work done twice. */
  get idle(): boolean {
    return this.#executions.size === 0 && this.#inFlight === 0;
  }

  /** Earliest due time, milliseconds since 1970; null when nothing is. */
  get dueAt(): number | null {
    let earliest: number | null = null;
    for (const { at } of this.#dues.values()) if (earliest === null || at < earliest) earliest = at;
    return earliest;
  }

  /** Begins what the committed state calls for. Idempotent: what runs already goes on. */
  start(request: Request, state: RunState): void {
    if (this.#stopped) return;
    switch (request.kind) {
      case "step":
      case "compensation":
        return this.#startStep(request, state);
      case "timer":
        return this.#due(request.key, request.dueAt, () => ({
          type: "TimerFired",
          data: { timer: request.timer },
        }));
      case "wait":
        if (request.dueAt === null) return;
        return this.#due(request.key, request.dueAt, () => ({
          type: "WaitTimedOut",
          data: { wait: request.wait },
        }));
      case "task":
        return this.#startTask(request, state);
      case "child":
        return this.#startChild(request, state);
    }
  }

  /** The run's own time limit. */
  startDeadline(state: RunState): void {
    const { deadlineAt } = state;
    if (deadlineAt === null || this.#stopped) return;
    const timeoutMs = deadlineAt - state.startedAt;
    this.#due("", deadlineAt, () => ({ type: "WorkflowTimedOut", data: { timeoutMs } }));
  }

  /** Children that the code cancelled: told again after a crash, until they are closed. */
  cancelChildren(state: RunState): void {
    for (const [child, { cancelRequested, onClose }] of Object.entries(state.open?.children ?? {})) {
      if (!cancelRequested || this.#handed?.get(`cancel ${child}`) !== undefined) continue;
      (this.#handed ??= new Map()).set(`cancel ${child}`, "");
      const reason = `Its parent ${this.#id} does not wait for it any more.`;
      this.#handOver(() => this.#deps.children.requestCancel(child, onClose === "terminate", reason));
    }
  }

  watchParent(parent: string, onClosed: () => void): void {
    this.#handOver(async () => {
      if (await this.#deps.children.watchParent(parent, this.#id)) onClosed();
    });
  }

  /** R4: only once a turn has recorded it, since a rebuilt run may ask anew while the outcome is on its way. */
  forget(taken: readonly Completion[]): void {
    for (const { type, data } of taken) {
      if (type === "TimerFired") this.#cancelDue(requestKey.timer(data.timer));
      else if (type === "WaitTimedOut") this.#cancelDue(requestKey.wait(data.wait));
      if (!("occurrence" in data)) continue;
      const key = stepKey(data.name, data.occurrence);
      this.#executions.delete(key);
      this.#cancelDue(key);
    }
  }

  /** A task that ended elsewhere has no limits any more. */
  forgetDue(key: string): void {
    this.#cancelDue(key);
  }

  /** What the code does not wait for any more is told to stop. */
  abandonUnwanted(activation: Activation): void {
    for (const [key, execution] of this.#executions) {
      if (activation.pending.has(key)) continue;
      this.#executions.delete(key);
      execution.abandon(new Error(`Run ${this.#id} does not wait for step ${key} any more.`));
    }
    for (const key of this.#dues.keys()) if (key !== "" && !activation.pending.has(key)) this.#cancelDue(key);
    for (const key of this.#handed?.keys() ?? [])
      if (!key.startsWith("cancel ") && !activation.pending.has(key)) this.#handed?.delete(key);
  }

  /** Due times are set anew by `start` when the run is rebuilt; attempts that run go on. */
  clearDues(): void {
    for (const { cancel } of this.#dues.values()) cancel();
    this.#dues.clear();
  }

  /** Ends everything; outcomes are dropped. */
  release(reason: () => Error): void {
    // An error costs its stack: most runs end with nothing left to tell.
    if (this.#executions.size > 0) {
      const error = reason();
      for (const execution of this.#executions.values()) execution.abandon(error);
      this.#executions.clear();
    }
    this.#handed?.clear();
    this.clearDues();
  }

  stop(): void {
    this.#stopped = true;
  }

  #startStep(request: StepRequest, state: RunState): void {
    const { key, name, occurrence } = request;
    if (this.#executions.has(key) || this.#dues.has(key)) return;
    const step = state.steps.get(key);
    if (step?.status === "retrying") {
      const attempt = step.attempt + 1;
      this.#due(key, step.nextAttemptAt ?? 0, () => ({
        type: "StepStarted",
        data: { name, occurrence, attempt },
      }));
      return;
    }
    const execution = new StepExecution(
      this.#deps,
      { id: this.#id, type: this.#host.type, run: state.run, traceparent: this.#host.traceparent() },
      request,
      step?.attempt ?? 1,
      (outcome) => this.#host.onCompletion(outcome),
    );
    this.#executions.set(key, execution);
    this.#host.slots.run(() => execution.run());
  }

  #startTask(request: TaskRequest, state: RunState): void {
    const { key, scheduled } = request;
    const step = state.steps.get(key);
    if (step?.task === undefined || step.task === null) return;
    if (step.status === "retrying") {
      this.#due(key, step.nextAttemptAt ?? 0, () => ({
        type: "StepScheduled",
        data: { ...scheduled, attempt: step.attempt + 1, token: newUlid() },
      }));
      return;
    }
    const { attempt, token } = step;
    if (step.status === "scheduled" && token !== null && this.#handed?.get(key) !== token) {
      (this.#handed ??= new Map()).set(key, token);
      const task = this.#published({ ...scheduled, attempt, token }, state);
      this.#handOver(() => this.#deps.tasks.publish(task));
    }
    this.#watchTask(key, step, state.run, scheduled.retry ?? {});
  }

  #published(scheduled: EventData<"StepScheduled">, { run, sequence }: RunState): PublishedTask {
    const traceparent = this.#host.traceparent();
    return { ...scheduled, workflowId: this.#id, type: this.#host.type, run, sequence, traceparent };
  }

  /** A task whose last attempt ran into a limit has no worker that could bring it to the dead letters. */
  buryTask(key: string, state: RunState): void {
    const step = state.steps.get(key);
    if (step?.task === null || step?.task === undefined || step.token === null || this.#stopped) return;
    const { name, occurrence, attempt, error } = step;
    const { queue, priority, input } = step.task;
    // The token of its message, whichever attempt was begun by it.
    const [token = step.token] = step.token.split("~");
    const task = this.#published({ name, occurrence, attempt, queue, token, priority, input }, state);
    this.#handOver(() => this.#deps.tasks.bury(task, error?.message ?? step.status));
  }

  /** One due time per task: whichever of its limits passes first, as its state is now. */
  #watchTask(
    key: string,
    step: StepState,
    run: number,
    retry: NonNullable<EventData<"StepScheduled">["retry"]>,
  ): void {
    this.#cancelDue(key);
    const deadline = taskDeadline(step, null);
    if (deadline === null) return;
    const { name, occurrence, attempt, token } = step;
    const { timers, clock, random } = this.#deps;
    const expire = (which: string, limitMs: number): void => {
      const error = {
        message: `Attempt ${attempt} of task ${key} of ${this.#id} ran into its ${which} limit of ${limitMs} ms.`,
        name: "MillraceError",
        code: "step_timeout",
      };
      const failed = {
        name,
        occurrence,
        attempt,
        error,
        // Nobody took it: another message in the same queue would change nothing.
        retryable: which !== "schedule-to-start",
        timedOut: true,
        retryAfterMs: null,
      };
      this.#host.onCompletion(afterFailedAttempt(failed, retry, clock.now(), random()));
    };
    const arm = (due: NonNullable<ReturnType<typeof taskDeadline>>): void => {
      const cancel = timers.add(due.at, () => {
        if (due.which !== "heartbeat" || token === null) return expire(due.which, due.limitMs);
        // Heartbeats are not in the log: whether one came is asked only when it matters.
        this.#handOver(async () => {
          const task = { workflowId: this.#id, run, name, occurrence };
          const later = taskDeadline(step, await this.#deps.tasks.lastHeartbeatAt(task, token));
          if (this.#dues.get(key)?.at !== due.at || later === null) return;
          if (later.at > clock.now()) arm(later);
          else expire(later.which, later.limitMs);
        });
      });
      this.#dues.set(key, { at: due.at, cancel });
    };
    arm(deadline);
  }

  #startChild(request: ChildRequest, state: RunState): void {
    const { key, child, started } = request;
    if (this.#handed?.has(key)) return;
    (this.#handed ??= new Map()).set(key, child);
    this.#handOver(async () => {
      const closed = await this.#deps.children
        .start({ id: this.#id, run: state.run, traceparent: this.#host.traceparent() }, started)
        .catch((error: unknown): EventData<"ChildWorkflowClosed"> => {
          if (!(error instanceof MillraceError) || error.retryable) throw error;
          const { message, code } = error;
          return { child, status: "refused", error: { message, code, name: error.name } };
        });
      if (closed !== null) this.#host.onCompletion({ type: "ChildWorkflowClosed", data: closed });
    });
  }

  #handOver(act: () => Promise<void>): void {
    this.#inFlight++;
    this.#host
      .persist(act)
      .catch((error: unknown) => {
        if (!this.#stopped) this.#host.onError(error);
      })
      .finally(() => {
        this.#inFlight--;
        this.#host.onHandedOver();
      });
  }

  #due(key: string, at: number, completion: () => Completion): void {
    if (this.#dues.get(key)?.at === at) return;
    this.#cancelDue(key);
    const cancel = this.#deps.timers.add(at, () => this.#host.onCompletion(completion()));
    this.#dues.set(key, { at, cancel });
  }

  #cancelDue(key: string): void {
    this.#dues.get(key)?.cancel();
    this.#dues.delete(key);
  }
}
