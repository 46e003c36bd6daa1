import { openEventLog, type EventLog, type EventLogOptions, type StoredCommit } from "@millrace/event-log";
import {
  assertAttributes,
  assertTraceparent,
  assertWorkflowId,
  assertWorkflowType,
  isClosed,
  isClosingEvent,
  isMillraceError,
  isoTime,
  MillraceError,
  parseStepRef,
  scheduleType,
  type EventData,
  type Fleet,
  type RunState,
  type ScheduledRun,
  type ScheduleState,
  type WorkflowEvent,
} from "@millrace/schemas";
import { asStored } from "./as-stored.ts";
import { childClosed } from "./run-table.ts";
import { resetRun } from "./copy-history.ts";
import { newUlid } from "./new-ulid.ts";
import { Commands, createDriver, foldHistory } from "./commands.ts";
import { sameJson } from "./core/decide.ts";
import {
  parseInput,
  assertSignal,
  type AnyWorkflowDefinition,
  type WorkflowDefinition,
} from "./definition.ts";
import type { Children, ParentRef } from "./dispatcher.ts";
import { DueTimers, systemClock, type Clock } from "./due-timers.ts";
import { readFleet } from "./fleet/read-fleet.ts";
import { Interceptors, type Interceptor, type StartCall } from "./interceptors.ts";
import { silentLogger, type Logger } from "./logger.ts";
import { assertOpenedPayload, type PayloadOptions } from "./payloads/payloads.ts";
import { sealLog, type SealedLog } from "./payloads/sealed-log.ts";
import { RunHandle, type RunHandleDeps } from "./run-handle.ts";
import { createDrivenRun } from "./drive.ts";
import type {
  DrivenRun,
  DriveOptions,
  Millrace,
  StartOptions,
  StartResult,
  WorkflowHandle,
  OperatorReason,
} from "./millrace.ts";
import { Results } from "./results.ts";
import { createScheduleCommands } from "./schedules/schedule-commands.ts";
import type { Schedules } from "./schedules/schedules.ts";
import { startWorkerOf } from "./tasks/start-worker.ts";
import { createTasks, type Tasks } from "./tasks/task-api.ts";
import { TaskCommands } from "./tasks/task-commands.ts";
import { createTaskDispatcher } from "./tasks/task-dispatcher.ts";
import { startWorker, type ScheduleActions, type Worker, type WorkerOptions } from "./worker.ts";

export interface ConnectOptions extends Partial<EventLogOptions> {
  /** An event log that is open already; it stays open on `close`. Default: one is opened from the other options. */
  readonly log?: EventLog;
  readonly logger?: Logger;
  readonly clock?: Clock;
  /** In [0, 1): jitter. Default `Math.random`. */
  readonly random?: () => number;
  /** How payloads stand in the log: a codec, where the large ones go, how large one may be. */
  readonly payloads?: PayloadOptions;
  /** Around starts, signals, steps and tasks of this connection, the first one outermost. */
  readonly interceptors?: readonly Interceptor[];
}

/**
 * Connects to the event log. The connection starts, drives, cancels and awaits runs; `worker` executes them.
 * Rejects with `unavailable`, `broker_auth_failed` or `broker_version_unsupported`.
 *
 * @example
 * const millrace = await connect({ servers: "nats://127.0.0.1:4222" });
 * const worker = await millrace.worker({ workflows: [greet] });
 * const handle = await millrace.start(greet, { name: "Ada" });
 * console.log(await handle.result());
 */
export async function connect(options: ConnectOptions = {}): Promise<Millrace> {
  const { log: given, logger, clock, random, payloads, interceptors, ...logOptions } = options;
  const stored =
    given ?? (await openEventLog({ servers: "nats://127.0.0.1:4222", namespace: "default", ...logOptions }));
  return new Connection({
    log: sealLog(stored, payloads),
    interceptors: new Interceptors(interceptors ?? []),
    ownsLog: given === undefined,
    logger: logger ?? silentLogger,
    clock: clock ?? systemClock,
    random: random ?? Math.random,
  });
}

interface ConnectionDeps {
  readonly log: SealedLog;
  readonly interceptors: Interceptors;
  readonly ownsLog: boolean;
  readonly logger: Logger;
  readonly clock: Clock;
  readonly random: () => number;
}

/** Folded states of driven runs kept per connection. */
const commandCacheMax = 10_000;

class Connection implements Millrace {
  readonly log: SealedLog;
  readonly driver;
  readonly schedules: Schedules;
  readonly tasks: Tasks;
  readonly #deps: ConnectionDeps;
  readonly #results: Results;
  readonly #commands: Commands;
  readonly #handleDeps: RunHandleDeps;
  readonly #definitions = new Map<string, AnyWorkflowDefinition>();
  readonly #workers: Worker[] = [];
  #closing: Promise<void> | null = null;

  constructor(deps: ConnectionDeps) {
    this.#deps = deps;
    this.log = deps.log;
    this.#results = new Results(deps.log, deps.clock);
    this.#commands = new Commands({
      log: deps.log,
      clock: deps.clock,
      random: deps.random,
      cacheMax: commandCacheMax,
    });
    const { clock, interceptors } = deps;
    this.#handleDeps = {
      ...{ log: deps.log, clock, interceptors },
      commands: this.#commands,
      results: this.#results,
    };
    this.driver = createDriver(this.#commands, deps.random);
    this.schedules = createScheduleCommands({
      log: deps.log,
      clock: deps.clock,
      checkStart: (type, definition, input, allowUnregistered) =>
        this.#checkStart(type, definition, input, allowUnregistered),
      start: (schedule, run) =>
        this.#startScheduled(schedule, run, this.#definitions.get(schedule.spec.workflow.type) ?? null),
    });
    const { log, logger, random } = deps;
    this.tasks = createTasks({
      log,
      logger,
      commands: new TaskCommands({ log, commands: this.#commands, random, keep: false }),
      retryRun: (id, steps, reason) => this.#retryTasks(id, steps, reason),
    });
  }

  /** The run goes on from the first of these steps that failed: what was begun after it is done anew with it. */
  async #retryTasks(id: string, steps: readonly string[], reason: OperatorReason): Promise<void> {
    const state = foldHistory(await this.log.stored.load(id));
    const failed = [...(state?.steps.entries() ?? [])].find(
      ([key, { status }]) => steps.includes(key) && (status === "failed" || status === "timed_out"),
    );
    const step = failed === undefined ? {} : { step: failed[0] };
    await this.#commands.inTurn(id, () => resetRun(this.log, id, { kind: "retry", ...step, ...reason }));
  }

  async worker(options: WorkerOptions): Promise<Worker> {
    const { log, logger, clock, random, interceptors } = this.#deps;
    const { payloads } = log;
    const children: Omit<Children, "watchParent"> = {
      start: (parent, started) => this.#startChild(parent, started),
      requestCancel: (child, terminate, reason) => this.#cancelChild(child, terminate, reason),
    };
    const schedules: ScheduleActions = {
      start: (schedule, run, definition) => this.#startScheduled(schedule, run, definition),
      cancel: async (id, reason) => {
        await this.#handle(id).cancel({ reason });
      },
    };
    const { workflows = [], tasks, queues } = options;
    const onlyTasks = workflows.length === 0 && (tasks !== undefined || queues !== undefined);
    const deps = {
      ...{ log, logger, clock, random, payloads, interceptors, children, schedules, results: this.#results },
      tasks: createTaskDispatcher(log.tasks),
    };
    const timers = new DueTimers(clock);
    const commands = new TaskCommands({ log, commands: this.#commands, random, keep: true });
    const worker = await startWorkerOf(
      {
        startRuns: onlyTasks ? null : () => startWorker(deps, { ...options, workflows }),
        tasks: { ...{ log, logger, clock, random, timers, commands }, interceptors },
        timers,
      },
      options,
    );
    if (this.#closing !== null) {
      await worker.drain({ deadlineMs: 0 });
      throw new MillraceError(
        "draining",
        "The connection was closed while the worker started. Connect again.",
      );
    }
    for (const definition of workflows) this.#definitions.set(definition.type, definition);
    this.#workers.push(worker);
    return worker;
  }

  fleet(): Promise<Fleet> {
    return readFleet(this.log);
  }

  async start<Input, Output>(
    definition: WorkflowDefinition<Input, Output>,
    input: Input,
    options: StartOptions = {},
  ): Promise<WorkflowHandle<Output>> {
    const stored = this.#storedInput(definition.type, input);
    await parseInput(definition, stored);
    const { signal } = options;
    if (signal !== undefined) assertSignal(definition, signal.name, signal.payload);
    const given = { ...defaultsOf(definition), ...options, allowUnregistered: true };
    const { handle } = await this.#start(definition.type, stored, given, definition);
    return handle as WorkflowHandle<Output>;
  }

  async startByType(type: string, input: unknown, options: StartOptions = {}): Promise<StartResult> {
    assertWorkflowType(type);
    const stored = this.#storedInput(type, input);
    const definition = this.#definitions.get(type);
    if (definition !== undefined && options.driver !== "external") {
      await parseInput(definition, stored);
      if (options.signal !== undefined) assertSignal(definition, options.signal.name, options.signal.payload);
      return this.#start(type, stored, { ...defaultsOf(definition), ...options }, definition);
    }
    return this.#start(type, stored, options);
  }

  async drive(type: string, id: string, options: DriveOptions = {}): Promise<DrivenRun> {
    assertWorkflowType(type);
    const { input, ...rest } = options;
    await this.#start(type, this.#storedInput(type, input), { ...rest, id, driver: "external" });
    return createDrivenRun(this.driver, this.#deps.clock, id, this.log.payloads.bytesMax);
  }

  handle<Output = unknown>(id: string): WorkflowHandle<Output> {
    assertWorkflowId(id);
    return this.#handle(id);
  }

  #handle<Output>(
    id: string,
    startedAt?: number,
    definition?: AnyWorkflowDefinition,
  ): WorkflowHandle<Output> {
    return new RunHandle(this.#handleDeps, { id, startedAt, definition });
  }

  async #checkStart(
    type: string,
    given: AnyWorkflowDefinition | null,
    input: unknown,
    allowUnregistered: boolean,
  ): Promise<unknown> {
    const stored = this.#storedInput(type, input);
    const definition = given ?? this.#definitions.get(type);
    if (definition !== undefined) await parseInput(definition, stored);
    else if (!allowUnregistered && this.log.registeredType(type) === null)
      throw typeUnknown("Schedule", type);
    return stored;
  }

  async #startScheduled(
    schedule: ScheduleState,
    run: ScheduledRun,
    definition: AnyWorkflowDefinition | null,
  ): Promise<boolean> {
    const { type, input, attributes, timeoutMs } = schedule.spec.workflow;
    // A worker without the codec's key must not start runs on what it cannot read.
    assertOpenedPayload(input);
    if (definition !== null) await parseInput(definition, input);
    const { created } = await this.#start(type, input, {
      ...(definition === null ? {} : defaultsOf(definition)),
      ...(timeoutMs === null ? {} : { timeoutMs }),
      id: run.id,
      attributes: { ...attributes, schedule: schedule.id, scheduledAt: isoTime(run.tick) },
      allowUnregistered: true,
    });
    return created;
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    try {
      await Promise.all(this.#workers.map((worker) => worker.drain()));
    } finally {
      await this.#results.close();
      if (this.#deps.ownsLog) await this.log.close();
    }
  }

  #start(
    type: string,
    input: unknown,
    options: StartOptions,
    definition?: AnyWorkflowDefinition,
  ): Promise<StartResult> {
    const { id: workflowId = newUlid(), driver = "code", traceparent = null } = options;
    assertWorkflowId(workflowId);
    return this.#deps.interceptors.start({ workflowId, type, driver, input, traceparent }, async (call) => {
      if (call.traceparent !== null) assertTraceparent(call.traceparent, `Start of ${workflowId}`);
      const stored = call.input === input ? input : this.#storedInput(type, call.input);
      return this.#startNow({ ...call, workflowId, type, driver, input: stored }, options, definition);
    });
  }

  async #startNow(
    call: StartCall,
    options: StartOptions,
    definition?: AnyWorkflowDefinition,
  ): Promise<StartResult> {
    const { workflowId: id, type, driver, input, traceparent } = call;
    const registered = this.log.registeredType(type);
    if (
      registered === null &&
      driver === "code" &&
      options.allowUnregistered !== true &&
      !this.#definitions.has(type)
    ) {
      throw typeUnknown(`Start of ${id}`, type, ', or drive it from outside with "driver": "external"');
    }
    const plan = options.steps ?? (driver === "code" ? registered?.plan : undefined) ?? [];
    for (const step of plan) parseStepRef(step);
    assertAttributes(options.attributes ?? {}, `Start of ${id}`);
    const { timeoutMs, signal } = options;
    if (timeoutMs !== undefined && !(Number.isFinite(timeoutMs) && timeoutMs > 0)) {
      throw new MillraceError(
        "invalid_request",
        `Start of ${id} refused: timeoutMs is ${timeoutMs}. Give a number of milliseconds, or leave it out.`,
      );
    }
    if (options.version === "") {
      throw new MillraceError(
        "invalid_request",
        `Start of ${id} refused: the version is empty. Leave it out.`,
      );
    }
    const event = {
      type: "WorkflowStarted" as const,
      data: {
        version: options.version ?? (driver === "code" ? registered?.version : undefined) ?? "1",
        input: input ?? null,
        driver,
        ...(plan.length === 0 ? {} : { plan: [...plan] }),
        ...(options.attributes === undefined ? {} : { attributes: { ...options.attributes } }),
        ...(timeoutMs === undefined ? {} : { timeoutMs }),
      },
    };
    const events: WorkflowEvent[] = [event];
    if (signal !== undefined) {
      parseStepRef(signal.name);
      const payload = asStored(
        signal.payload,
        `payload of signal ${signal.name}`,
        this.log.payloads.bytesMax,
      );
      const signalId = signal.id === undefined ? {} : { id: signal.id };
      events.push({ type: "SignalReceived", data: { name: signal.name, payload, ...signalId } });
    }
    try {
      const { sequence } = await this.log.append({
        commitId: newUlid(),
        workflowId: id,
        type,
        expected: "new",
        events,
        condition: driver === "code" ? "running" : "waiting",
        ...(traceparent === null ? {} : { traceparent }),
      });
      return { handle: this.#handle(id, sequence, definition), created: true, sequence };
    } catch (error) {
      if (!isMillraceError(error, "conflict")) throw error;
      const before = await this.#startedBefore(id, type, event.data, definition, error);
      // Signal-with-start: the run is there already, the signal is not. With an id of its own it comes once.
      if (signal !== undefined)
        await before.handle.signal(signal.name, signal.payload, {
          ...(signal.id === undefined ? {} : { id: signal.id }),
        });
      return before;
    }
  }

  /** The input as the run will read it: what is checked at start must be what its code is given. */
  #storedInput(type: string, input: unknown): unknown {
    try {
      return asStored(input, `input of workflow type ${type}`, this.log.payloads.bytesMax);
    } catch (cause) {
      if (isMillraceError(cause, "payload_too_large")) throw cause;
      throw new MillraceError(
        "invalid_input",
        `Input of workflow type ${type} refused: it cannot be stored as JSON (${String(cause)}). Send plain data.`,
        { cause, details: { type } },
      );
    }
  }

  /** Idempotent: after a crash the parent's next owner asks again. */
  async #startChild(
    parent: ParentRef,
    started: EventData<"ChildWorkflowStarted">,
  ): Promise<EventData<"ChildWorkflowClosed"> | null> {
    const { child, type, input, onClose, version, plan, attributes, timeoutMs } = started;
    const registered = this.log.registeredType(type);
    const steps = plan ?? registered?.plan ?? [];
    try {
      await this.log.append({
        commitId: newUlid(),
        workflowId: child,
        type,
        expected: "new",
        events: [
          {
            type: "WorkflowStarted",
            data: {
              version: version ?? registered?.version ?? "1",
              input: input ?? null,
              driver: "code",
              ...(steps.length === 0 ? {} : { plan: [...steps] }),
              ...(attributes === undefined ? {} : { attributes }),
              ...(timeoutMs === undefined ? {} : { timeoutMs }),
              parent: { id: parent.id, child, onClose },
            },
          },
        ],
        condition: "running",
        parent: parent.id,
        ...(parent.traceparent === null ? {} : { traceparent: parent.traceparent }),
      });
      return null;
    } catch (error) {
      if (!isMillraceError(error, "conflict")) throw error;
    }
    const history = await this.log.stored.load(child);
    const state = foldHistory(history);
    if (state?.parent?.id !== parent.id || state.type !== type) {
      throw new MillraceError(
        "workflow_exists",
        `Child ${child} of ${parent.id} refused: a run with this id exists that is not its child. Give the child another id.`,
      );
    }
    if (!isClosed(state.status)) return null;
    const closed = history.findLast(({ events }) => events.some(isClosingEvent));
    if (closed === undefined) return null;
    const closing = (await this.log.payloads.openCommit(closed)).events.findLast(isClosingEvent);
    return closing === undefined ? null : childClosed(child, closing);
  }

  /** A child that is over already is what was wanted. */
  async #cancelChild(child: string, terminate: boolean, reason: string): Promise<void> {
    try {
      await this.#commands.execute(child, () => ({ kind: terminate ? "terminate" : "cancel", reason }));
    } catch (error) {
      if (!isMillraceError(error, "workflow_closed") && !isMillraceError(error, "workflow_not_found"))
        throw error;
    }
  }

  /** The id is taken: by the same start, which is then answered again, or by another one. */
  async #startedBefore(
    id: string,
    type: string,
    wanted: { readonly input: unknown; readonly driver: string; readonly plan?: readonly string[] },
    definition: AnyWorkflowDefinition | undefined,
    conflict: Error,
  ): Promise<StartResult> {
    const history = await this.log.stored.load(id);
    // As it was started: a run that was continued as new has another input by now.
    const state = foldHistory(history.slice(0, 1));
    if (state === null) throw conflict;
    if (state.type === scheduleType) {
      throw new MillraceError(
        "workflow_exists",
        `Start of ${id} refused: the id belongs to a schedule. Use another id, or trigger the schedule.`,
        { details: { difference: "type", type: scheduleType } },
      );
    }
    // Not knowing what the first start's input was is no reason to call it another one.
    state.input = await this.log.payloads.openMessage(id, state.input, "input");
    const difference = differenceOf(state, type, wanted);
    if (difference === null)
      return {
        handle: this.#handle(id, undefined, definition),
        created: false,
        sequence: state.startedSequence,
      };
    throw new MillraceError(
      "workflow_exists",
      `Start of ${id} refused: a run with this id exists since sequence ${state.startedSequence} with another ${difference} ` +
        `(type ${state.type}, ${statusOf(history)}). Use another id, or repeat the same start.`,
      { details: { difference, type: state.type, sequence: state.startedSequence } },
    );
  }
}

function defaultsOf({ version, steps, timeoutMs }: AnyWorkflowDefinition): StartOptions {
  return { version, steps, ...(timeoutMs === null ? {} : { timeoutMs }) };
}

function typeUnknown(what: string, type: string, orElse = ""): MillraceError {
  return new MillraceError(
    "workflow_type_unknown",
    `${what} refused: no worker has ever registered workflow type ${type}. Start a worker that hosts it, ` +
      `pass "allowUnregistered": true${orElse}.`,
  );
}

/** How the run closed, or that it did not. */
function statusOf(history: readonly StoredCommit[]): string {
  const status = foldHistory(history)?.status;
  return status !== undefined && isClosed(status) ? status : "open";
}

/** What makes a start another one. The version does not: the same start may be repeated after a deploy. */
function differenceOf(
  state: RunState,
  type: string,
  wanted: { readonly input: unknown; readonly driver: string; readonly plan?: readonly string[] },
): string | null {
  if (state.type !== type) return "type";
  if (state.driver !== wanted.driver) return "driver";
  if (!sameJson(state.input, wanted.input)) return "input";
  if (state.driver === "external" && !sameJson(state.plan, wanted.plan ?? [])) return "list of steps";
  return null;
}
