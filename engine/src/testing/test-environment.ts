/**
 * Workflows under test: the engine as it is, on a log in memory, with time that passes by itself only when a test waits
 * for it.
 *
 * Owns: the log, the clock, one worker, and when time passes. Does not own: any behaviour of runs; all of it is the engine's.
 * E1 While nobody awaits a result, an update or `advance`, time stands still.
 * E2 Time goes on to the next due moment only when everything is at rest: no step runs, no commit is on its way.
 * E3 Every run is replayed after each of its commits, and once more as a whole at its end: code that a replay would not
 *    follow fails the test.
 */
import { setImmediate as turnOfEventLoop, setTimeout as delay } from "node:timers/promises";
import { createMemoryLog, createMemoryServer, type AppendRequest, type EventLog } from "@millrace/event-log";
import { errorCodeOf, isClosed, MillraceError, type RunState } from "@millrace/schemas";
import { checkReplay } from "../check-replay.ts";
import { foldHistory } from "../commands.ts";
import { connect } from "../connect.ts";
import type { AnyWorkflowDefinition, WorkflowDefinition } from "../definition.ts";
import type { Logger } from "../logger.ts";
import type { Millrace, StartOptions, WorkflowHandle } from "../millrace.ts";
import { recordHistory, type RecordedHistory } from "../recorded-history.ts";
import type { TaskFunction } from "../tasks/task-function.ts";
import type { Worker, WorkerOptions } from "../worker.ts";
import { VirtualClock } from "./virtual-clock.ts";

export interface TestEnvironmentOptions {
  readonly workflows: readonly AnyWorkflowDefinition[];
  /** Stand-ins for tasks, by name, whatever their queue: what each returns is the task's output. */
  readonly tasks?: Readonly<Record<string, TaskFunction>>;
  /** The time at which it begins. Default 2026-01-01T00:00:00Z. */
  readonly startAt?: Date | number;
  /** Beside `replayAlways` and `guard`, which are on. */
  readonly worker?: Omit<WorkerOptions, "workflows">;
  /** What the engine has to say, its warnings about stuck runs included. Default: nothing. */
  readonly logger?: Logger;
  /** Seed of the jitter of retries. Default 1. */
  readonly seed?: number;
  /**
   * How long, in milliseconds of the real clock, a result is awaited while nothing is due and nothing happens, before
   * the await rejects and says what the run waits for. Default 1,000.
   */
  readonly stalledMs?: number;
}

export interface TestEnvironment {
  /** The ordinary doors. Awaiting through them lets no time pass; through `start` and `handle` of this object it does. */
  readonly millrace: Millrace;
  /** The present, milliseconds since 1970. */
  now(): number;
  /** As `millrace.start`; see {@link TestEnvironment.handle}. */
  start<Input, Output>(
    definition: WorkflowDefinition<Input, Output>,
    input: Input,
    options?: StartOptions,
  ): Promise<WorkflowHandle<Output>>;
  /**
   * A handle whose `result` and `update` let time pass until they are answered. `result` rejects when the run is stuck
   * (with what it is stuck on), when its history does not replay (`non_determinism`), or when it waits for something that
   * cannot come (`timeout`).
   */
  handle<Output = unknown>(id: string): WorkflowHandle<Output>;
  /** Lets this much time pass, with all that is due in it, also while steps run. */
  advance(ms: number): Promise<void>;
  /** Resolves when everything is at rest and only time or somebody outside can move it. No time passes. */
  idle(): Promise<void>;
  /** A run's history, to be kept as a file for `replayHistory`. */
  history(id: string): Promise<RecordedHistory>;
  /** Ends the worker as a crash does and starts another one, with other code when it is given. */
  restart(workflows?: readonly AnyWorkflowDefinition[]): Promise<void>;
  /** Replays the history of every run once more, then ends all. Rejects with `non_determinism` when one does not follow. */
  close(): Promise<void>;
}

/** Turns of the event loop without anything happening: the longest chain of the engine in memory has three. */
const quietTurns = 8;
const startAtDefault = Date.UTC(2026, 0, 1);
/** A task that is taken is never given to another one by time: nobody is lost here. */
const taskLeaseMs = 2 ** 31 - 1;
/** Moments that passed without anything for a run: then what is awaited is not a matter of time. */
const idleMomentsMax = 200;

/**
 * @example
 * const env = await createTestEnvironment({ workflows: [order] });
 * const run = await env.start(order, { item: "book" });
 * await env.advance(2 * 24 * 3_600_000);
 * await run.signal("approve", { by: "ada" });
 * assert.deepEqual(await run.result(), { shipped: true });
 * await env.close();
 */
export async function createTestEnvironment(options: TestEnvironmentOptions): Promise<TestEnvironment> {
  const environment = new Environment(options);
  await environment.open();
  return environment;
}

interface Waiter {
  readonly id: string;
  readonly kind: "result" | "update";
  readonly reject: (error: Error) => void;
}

class Environment implements TestEnvironment {
  readonly #options: TestEnvironmentOptions;
  readonly #clock: VirtualClock;
  readonly #log: EventLog;
  #workflows: readonly AnyWorkflowDefinition[];
  #millrace: Millrace | null = null;
  #worker: Worker | null = null;
  /** Workers of the tasks' stand-ins, by queue; null while one starts. */
  readonly #taskWorkers = new Map<string, Worker | null>();
  /** Calls of the log that are not answered yet. */
  #inFlight = 0;
  /** Calls of the log so far. */
  #calls = 0;
  /** Counts what happens: a turn in which it stays is quiet. */
  #stirs = 0;
  #onStir: (() => void)[] = [];
  /** Results and updates that are awaited, by the run's id. */
  readonly #awaited = new Set<Waiter>();
  /** Runs that were logged as stuck. */
  readonly #suspects = new Set<string>();
  #isDriven = false;

  constructor(options: TestEnvironmentOptions) {
    this.#options = options;
    this.#workflows = options.workflows;
    const { startAt = startAtDefault } = options;
    this.#clock = new VirtualClock(typeof startAt === "number" ? startAt : startAt.getTime(), () =>
      this.#stir(),
    );
    // Leases do not lapse here: nobody else is there to take over.
    const server = createMemoryServer({ clock: this.#clock.now, wake: () => () => undefined });
    this.#log = this.#watched(createMemoryLog({ server, taskLeaseMs }));
  }

  get millrace(): Millrace {
    if (this.#millrace === null) throw new MillraceError("unavailable", "The test environment is not open.");
    return this.#millrace;
  }

  async open(): Promise<void> {
    const { logger, seed = 1 } = this.#options;
    this.#millrace = await connect({
      log: this.#log,
      clock: this.#clock,
      random: seededRandom(seed),
      logger: {
        debug: (fields, message) => logger?.debug(fields, message),
        info: (fields, message) => logger?.info(fields, message),
        warn: (fields, message) => logger?.warn(fields, message),
        error: (fields, message) => {
          if ("workflowId" in fields) this.#suspects.add(String(fields.workflowId));
          logger?.error(fields, message);
        },
      },
    });
    await this.#startWorker();
  }

  now(): number {
    return this.#clock.now();
  }

  async start<Input, Output>(
    definition: WorkflowDefinition<Input, Output>,
    input: Input,
    options?: StartOptions,
  ): Promise<WorkflowHandle<Output>> {
    return this.#passing(await this.millrace.start(definition, input, options));
  }

  handle<Output = unknown>(id: string): WorkflowHandle<Output> {
    return this.#passing(this.millrace.handle<Output>(id));
  }

  async advance(ms: number): Promise<void> {
    const to = this.now() + ms;
    for (;;) {
      await this.#quiet();
      const { nextAt } = this.#clock;
      if (nextAt === null || nextAt > to) break;
      this.#clock.moveTo(nextAt);
    }
    this.#clock.moveTo(to);
    await this.#quiet();
  }

  async idle(): Promise<void> {
    for (;;) {
      await this.#quiet();
      if (!this.#stepsRun()) return;
      await this.#nextStir();
    }
  }

  async history(id: string): Promise<RecordedHistory> {
    return recordHistory(await this.#log.load(id));
  }

  async restart(workflows?: readonly AnyWorkflowDefinition[]): Promise<void> {
    if (workflows !== undefined) this.#workflows = workflows;
    await this.#letting(async () => {
      await this.#worker?.drain({ deadlineMs: 0 });
    });
    this.#suspects.clear();
    await this.#startWorker();
  }

  async close(): Promise<void> {
    const ids: string[] = [];
    await this.#log.heads(({ workflowId }) => void ids.push(workflowId));
    await this.#letting(async () => {
      const workers = [this.#worker, ...this.#taskWorkers.values()].filter((worker) => worker !== null);
      await Promise.all(workers.map((worker) => worker.drain({ deadlineMs: 0 })));
      await this.millrace.close();
    });
    try {
      for (const id of ids) await this.#checkReplay(id);
    } finally {
      await this.#log.close();
    }
  }

  async #startWorker(): Promise<void> {
    this.#worker = await this.millrace.worker({
      replayAlways: true,
      guard: true,
      ...this.#options.worker,
      workflows: this.#workflows,
    });
  }

  #passing<Output>(handle: WorkflowHandle<Output>): WorkflowHandle<Output> {
    const { id } = handle;
    return {
      id,
      signal: (...of) => handle.signal(...of),
      query: <Answer>(...of: Parameters<WorkflowHandle["query"]>) => handle.query<Answer>(...of),
      cancel: (reason) => handle.cancel(reason),
      terminate: (reason) => handle.terminate(reason),
      pause: (reason) => handle.pause(reason),
      resume: (reason) => handle.resume(reason),
      retry: (options) => handle.retry(options),
      reset: (options) => handle.reset(options),
      fork: (options) => handle.fork(options),
      migrate: (...of) => handle.migrate(...of),
      result: async (options) => {
        try {
          return await this.#await(id, "result", handle.result(options));
        } finally {
          await this.#checkReplay(id);
        }
      },
      update: <Answer>(...update: Parameters<WorkflowHandle["update"]>) =>
        this.#await(id, "update", handle.update<Answer>(...update)),
    };
  }

  /** Lets time pass until it is answered. */
  async #await<T>(id: string, kind: Waiter["kind"], answer: Promise<T>): Promise<T> {
    let reject = (_error: Error): void => undefined;
    const given = new Promise<never>((_resolve, refuse) => (reject = refuse));
    const awaited = { id, kind, reject };
    this.#awaited.add(awaited);
    if (!this.#isDriven) {
      this.#drive().catch((error: unknown) => {
        for (const each of [...this.#awaited]) this.#refuse(each, error as Error);
      });
    }
    // Whichever comes second has nobody who waits for it.
    answer.catch(() => undefined);
    try {
      return await Promise.race([answer, given]);
    } finally {
      this.#awaited.delete(awaited);
      this.#stir();
    }
  }

  /** E2 */
  async #drive(): Promise<void> {
    this.#isDriven = true;
    try {
      let calls = this.#calls;
      for (let moments = 0; this.#awaited.size > 0; moments++) {
        await this.idle();
        if (this.#suspects.size > 0) await this.#refuseStuck();
        if (this.#awaited.size === 0) return;
        // Whoever asks for an update asks again and again, without a trace in the log.
        const asks = [...this.#awaited].some(({ kind }) => kind === "update");
        if (this.#calls !== calls || asks) moments = 0;
        calls = this.#calls;
        const { nextAt } = this.#clock;
        if (nextAt !== null && moments < idleMomentsMax) this.#clock.moveTo(nextAt);
        else await this.#stalled();
      }
    } finally {
      this.#isDriven = false;
    }
  }

  /** Nothing is due and nothing happens: only the test itself can go on, and it may be waiting for this. */
  async #stalled(): Promise<void> {
    const ended = new AbortController();
    const { stalledMs = 1_000 } = this.#options;
    const late = delay(stalledMs, "late" as const, { signal: ended.signal });
    const stirred = this.#nextStir();
    const first = await Promise.race([late, stirred]);
    ended.abort();
    late.catch(() => undefined);
    if (first !== "late") return;
    for (const awaited of [...this.#awaited]) {
      const state = foldHistory(await this.#log.load(awaited.id));
      const why = state === null ? "does not exist" : whatItWaitsFor(state);
      this.#refuse(
        awaited,
        new MillraceError(
          "timeout",
          `Run ${awaited.id} is awaited for ever: it ${why}, nothing is due, and nothing happened for ${stalledMs} ms. ` +
            "Send what it waits for before its result is awaited.",
          { retryable: false },
        ),
      );
    }
  }

  async #refuseStuck(): Promise<void> {
    for (const awaited of [...this.#awaited]) {
      if (!this.#suspects.has(awaited.id)) continue;
      const state = foldHistory(await this.#log.load(awaited.id));
      if (state?.status !== "stuck") continue;
      const { error } = state;
      this.#refuse(
        awaited,
        new MillraceError(errorCodeOf(error?.code), `Run ${awaited.id} is stuck: ${error?.message ?? ""}`, {
          details: { runStatus: "stuck", error },
          retryable: false,
        }),
      );
    }
    this.#suspects.clear();
  }

  #refuse(awaited: Waiter, error: Error): void {
    awaited.reject(error);
    this.#awaited.delete(awaited);
  }

  /** E3. A run whose version is not hosted here has nothing to be replayed on. */
  async #checkReplay(id: string): Promise<void> {
    const history = await this.#log.load(id);
    const state = foldHistory(history);
    const definition = this.#workflows.find(
      ({ type, version }) => type === state?.type && version === state.version,
    );
    if (definition === undefined || state === null || state.status === "stuck") return;
    const divergence = await checkReplay(definition, { workflowId: id, type: state.type }, history, {
      // Earlier run numbers may be of other versions.
      presentOnly: true,
    });
    if (divergence === null) return;
    throw new MillraceError(divergence.code, divergence.message, {
      details: { ...divergence },
      retryable: false,
    });
  }

  /** Resolves when nothing happened for a while; steps may run. */
  async #quiet(): Promise<void> {
    for (let quiet = 0; quiet < quietTurns;) {
      const before = this.#stirs;
      await turnOfEventLoop();
      quiet = this.#stirs === before && this.#inFlight === 0 ? quiet + 1 : 0;
    }
  }

  /** Lets time pass whatever runs: for ends that would wait for it. */
  async #letting(act: () => Promise<void>): Promise<void> {
    const ended = new AbortController();
    const acted = act().finally(() => ended.abort());
    acted.catch(() => undefined);
    while (!ended.signal.aborted) {
      await this.#quiet();
      const { nextAt } = this.#clock;
      if (!ended.signal.aborted && nextAt !== null) this.#clock.moveTo(nextAt);
    }
    return acted;
  }

  #stepsRun(): boolean {
    if ((this.#worker?.stats().stepsRunning ?? 0) > 0) return true;
    return [...this.#taskWorkers.values()].some(
      (worker) => worker === null || worker.stats().tasksRunning > 0,
    );
  }

  /** A queue is known by its first task. */
  #serveQueues({ events }: AppendRequest): void {
    const { tasks } = this.#options;
    if (tasks === undefined) return;
    for (const event of events) {
      if (event.type !== "StepScheduled" || this.#taskWorkers.has(event.data.queue)) continue;
      const { queue } = event.data;
      this.#taskWorkers.set(queue, null);
      this.millrace.worker({ tasks, queues: [queue] }).then(
        (worker) => {
          this.#taskWorkers.set(queue, worker);
          this.#stir();
        },
        (error: unknown) => {
          for (const each of [...this.#awaited]) this.#refuse(each, error as Error);
        },
      );
    }
  }

  #stir(): void {
    this.#stirs++;
    for (const resolve of this.#onStir.splice(0)) resolve();
  }

  #nextStir(): Promise<void> {
    return new Promise((resolve) => this.#onStir.push(resolve));
  }

  /** The log, with its calls counted. Questions are not: an update's lasts as long as its handler. */
  #watched(log: EventLog): EventLog {
    const counted = new Set<string | symbol>(["append", "load", "last", "read", "heads"]);
    return new Proxy(log, {
      get: (target, key) => {
        const value: unknown = Reflect.get(target, key, target);
        if (typeof value !== "function") return value;
        const method = value.bind(target) as (...args: unknown[]) => unknown;
        if (!counted.has(key)) return method;
        return async (...args: unknown[]): Promise<unknown> => {
          this.#inFlight++;
          this.#calls++;
          if (key === "append") this.#serveQueues(args[0] as AppendRequest);
          try {
            return await method(...args);
          } finally {
            this.#inFlight--;
            this.#stir();
          }
        };
      },
    });
  }
}

function whatItWaitsFor(state: RunState): string {
  if (isClosed(state.status)) return `is ${state.status}`;
  if (state.paused !== null) return "is paused";
  const { waits = {}, children = {} } = state.open ?? {};
  const signals = Object.values(waits).map(({ signal }) =>
    signal === null ? "a condition" : `signal ${signal}`,
  );
  const tasks = [...state.steps.values()]
    .filter(({ task, completedAt }) => task !== null && completedAt === null)
    .map(({ name, task }) => `task ${name} in queue ${task?.queue ?? ""}`);
  const all = [...signals, ...tasks, ...Object.keys(children).map((child) => `child ${child}`)];
  return all.length === 0 ? `is ${state.status}` : `waits for ${all.join(", ")}`;
}

/** Mulberry32, by Tommy Ettinger, public domain. */
function seededRandom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
