/**
 * A worker: which runs this process executes.
 *
 * Owns: the tail of the log for its types, the step slots, the answers to questions about its runs. Does not own: which
 * runs are in memory (`run-table.ts`), which shards are its own (`fleet/shard-ownership.ts`), a run's turns.
 * W1 Take-over needs no state of its own: the latest head of every run up to the log's end, while the tail goes on.
 * W3 `drain` starts nothing new, lets running steps end and be recorded, then lets go. So does the hand-over of a shard.
 */
import type { CommitHead, EventLog, Follower, StoredCommit } from "@millrace/event-log";
import {
  assertGroup,
  laneOf,
  MillraceError,
  scheduleType,
  shardOf,
  type ScheduledRun,
  type ScheduleState,
} from "@millrace/schemas";
import { newUlid } from "./new-ulid.ts";
import type { AnyWorkflowDefinition } from "./definition.ts";
import { holdGuard } from "./determinism-guard.ts";
import { DueTimers, wakeDelayMaxMs, type Clock } from "./due-timers.ts";
import { defaultGroup } from "./fleet/core/group-name.ts";
import type { ShardScope } from "./fleet/core/plan-shards.ts";
import { processIdentity } from "./fleet/process-identity.ts";
import { ShardOwnership, type OwnershipStats, type ShardHost } from "./fleet/shard-ownership.ts";
import type { Interceptors } from "./interceptors.ts";
import type { Logger } from "./logger.ts";
import type { Payloads } from "./payloads/payloads.ts";
import { answerQuestion, questionTopic } from "./questions.ts";
import type { Results, ResultsFeed } from "./results.ts";
import type { Run, RunDeps } from "./run.ts";
import { RunTable } from "./run-table.ts";
import { Scheduler } from "./schedules/scheduler.ts";
import { StepSlots } from "./step-slots.ts";
import type { TaskFunction } from "./tasks/task-function.ts";

export interface WorkerOptions {
  /** Several versions of one type may be hosted; the last one given is what new runs start on. Default: none. */
  readonly workflows?: readonly AnyWorkflowDefinition[];
  /**
   * Functions for tasks by their names, and the queues to take them from. A task that has no function here goes back to
   * its queue, for another worker of it.
   */
  readonly tasks?: Readonly<Record<string, TaskFunction>>;
  readonly queues?: readonly string[];
  /** Tasks of one queue that run here at the same time. Default 100. */
  readonly taskConcurrency?: number;
  /** How this worker calls itself in the history of tasks. Default: host name and process id. */
  readonly name?: string;
  /** Step functions that run at the same time. Default 200. */
  readonly concurrency?: number;
  /** Open runs kept in memory; beyond, idle ones are parked and others wait as ids. Default 10,000. */
  readonly runsMax?: number;
  /** Replay the code after each commit: shows at once code that a replay would not follow. For tests and development. */
  readonly replayAlways?: boolean;
  /**
   * Throw `NonDeterministicCallError` where workflow code calls `Date.now`, `new Date()`, `Math.random`,
   * `crypto.randomUUID`, `setTimeout`, `setInterval`, `setImmediate` or `fetch`; steps may call them as ever. For tests
   * and development. Default false: it stands in for these functions in the whole process and costs a little.
   */
  readonly guard?: boolean;
  /**
   * Workers of one group share its shards, each run being executed by one of them; a workflow type belongs to one
   * group. `[A-Za-z0-9_-]{1,64}`. Default: one for each set of types. Name it when workers of one group are to host
   * different sets, as during a deploy that adds a type: each version of a type is then shared by those that host it.
   */
  readonly group?: string;
  /**
   * How long the shards of a worker that was killed wait for another one, in milliseconds; whole seconds, at least
   * 2,000. A worker that cannot reach the broker for that long stops its runs. Default 10,000.
   */
  readonly leaseMs?: number;
  /** How long running steps of a shard that moves to another worker may go on, in milliseconds. Default 30,000. */
  readonly handOverMs?: number;
  /**
   * The worker has stopped and appends nothing more: the event log is no longer the one that it followed (made anew,
   * or cut), or a type of its own is another group's (`workflow_type_claimed`). Connect again. Default: a log line.
   */
  readonly onFailed?: (error: Error) => void;
}

export interface DrainOptions {
  /** After this, steps that still run are told to stop and run again elsewhere. Default 30,000. */
  readonly deadlineMs?: number;
}

/** What a worker that executes runs was given. */
export type RunWorkerOptions = WorkerOptions & Required<Pick<WorkerOptions, "workflows">>;

export interface WorkerStats extends RunStats {
  readonly tasksRunning: number;
}

export interface RunStats {
  /** Open runs in memory, and those that wait for a place. */
  readonly runs: number;
  readonly waiting: number;
  /** Open runs that wait for something, out of memory. */
  readonly parked: number;
  readonly stepsRunning: number;
  /** Runs of hosted types whose version no definition here has. */
  readonly unhosted: number;
  /** Shards of which it holds a part or all. */
  readonly shards: number;
  /** How often shards were taken over, the beginning included. */
  readonly takeOvers: number;
  /** From the claim to the last run loaded, in milliseconds; null before the first. */
  readonly lastTakeOverMs: number | null;
}

export interface Worker {
  readonly session: string;
  stats(): WorkerStats;
  /** Starts nothing new, waits for running steps and records them, then stops. Idempotent. */
  drain(options?: DrainOptions): Promise<void>;
}

/** What is done with a schedule's runs; both may be repeated. */
export interface ScheduleActions {
  /** `definition`: what the run starts on, null when that is not here. False when the run was there already. */
  start(
    schedule: ScheduleState,
    run: ScheduledRun,
    definition: AnyWorkflowDefinition | null,
  ): Promise<boolean>;
  cancel(id: string, reason: string): Promise<void>;
}

export interface WorkerDeps {
  readonly log: EventLog;
  readonly logger: Logger;
  readonly clock: Clock;
  readonly random: () => number;
  readonly payloads: Payloads;
  readonly interceptors: Interceptors;
  readonly results: Results;
  readonly tasks: RunDeps["tasks"];
  readonly children: Omit<RunDeps["children"], "watchParent">;
  readonly schedules: ScheduleActions;
}

/** How long a drained worker waits for the log's answers: a broker that is away must not hold up the process. */
const recordingMs = 1_000;

/** Runs whose loading is begun before the event loop gets its turn again: a few milliseconds' worth. */
const loadsPerTurn = 100;

function nextTurn(): Promise<void> {
  return new Promise((resolve) => {
    setImmediate(resolve);
  });
}

/** A clean restart hands over before it; only a killed process keeps its shards waiting for so long. */
const leaseDefaultMs = 10_000;
const handOverDefaultMs = 30_000;

/**
 * Rejects with `invalid_request` when two definitions have the same type and version, `workflow_type_claimed` when a
 * live worker of another group hosts one of the types.
 */
export async function startWorker(deps: WorkerDeps, options: RunWorkerOptions): Promise<Worker> {
  const worker = new LogWorker(deps, options);
  await worker.start();
  return worker;
}

class LogWorker implements Worker, ShardHost {
  readonly session = newUlid();
  readonly #deps: WorkerDeps;
  readonly #definitions = new Map<string, Map<string, AnyWorkflowDefinition>>();
  readonly #table: RunTable;
  readonly #scheduler: Scheduler;
  readonly #slots: StepSlots;
  readonly #timers: DueTimers;
  readonly #options: RunWorkerOptions;
  #ownership: ShardOwnership | null = null;
  #shardCount = 0;
  #drainMs: number | null = null;
  readonly #onFailed: ((error: Error) => void) | undefined;
  readonly #feed: ResultsFeed = {
    position: () => this.#follower?.position ?? 0,
    isOpen: (id) => this.#table.holds(id),
  };
  #follower: Follower | null = null;
  #stopAnswering = (): void => undefined;
  #draining: Promise<void> | null = null;
  #failure: Error | null = null;
  #releaseGuard = (): void => undefined;

  constructor(deps: WorkerDeps, options: RunWorkerOptions) {
    this.#deps = deps;
    this.#options = options;
    if (options.group !== undefined) assertGroup(options.group);
    this.#onFailed = options.onFailed;
    this.#slots = new StepSlots(options.concurrency ?? 200);
    this.#timers = new DueTimers(deps.clock);
    for (const definition of options.workflows) this.#host(definition);
    this.#table = new RunTable({
      run: {
        log: deps.log,
        logger: deps.logger,
        clock: deps.clock,
        random: deps.random,
        payloads: deps.payloads,
        interceptors: deps.interceptors,
        timers: this.#timers,
        tasks: deps.tasks,
        children: deps.children,
        writer: this.session,
        replayAlways: options.replayAlways ?? false,
        guard: options.guard ?? false,
      },
      slots: this.#slots,
      definition: (type, version) => this.#definitions.get(type)?.get(version) ?? null,
      runsMax: options.runsMax ?? 10_000,
      scope: {
        holdsType: (type, id) => this.#ownership?.holdsType(type, this.#shardOf(id)) === true,
        holds: (hosted, id) => this.#ownership?.holds(hosted, this.#shardOf(id)) === true,
        isHosted: (hosted) => this.#ownership?.isHosted(hosted) === true,
      },
      results: deps.results,
      logger: deps.logger,
      timers: this.#timers,
    });
    this.#scheduler = new Scheduler({
      log: deps.log,
      logger: deps.logger,
      clock: deps.clock,
      timers: this.#timers,
      writer: this.session,
      inShard: (id) => this.#ownership?.holdsAny(this.#shardOf(id)) === true,
      owns: (type, id) => this.#ownership?.holdsType(type, this.#shardOf(id)) === true,
      start: (schedule, run) =>
        deps.schedules.start(schedule, run, this.#definitionToStart(schedule.spec.workflow.type)),
      cancel: (id, reason) => deps.schedules.cancel(id, reason),
    });
  }

  /** What a new run starts on: the version registered last, which another worker may host. */
  #definitionToStart(type: string): AnyWorkflowDefinition | null {
    const versions = this.#definitions.get(type);
    const version = this.#deps.log.registeredType(type)?.version;
    if (version !== undefined) return versions?.get(version) ?? null;
    return [...(versions?.values() ?? [])].at(-1) ?? null;
  }

  #shardOf(id: string): number {
    return shardOf(id, this.#shardCount);
  }

  async start(): Promise<void> {
    const { log, payloads, logger, results, clock } = this.#deps;
    const types = [...this.#definitions.keys()];
    if (types.length === 0) {
      throw new MillraceError(
        "invalid_request",
        "A worker needs something to do. Pass { workflows: [definition] }, or { tasks: { name: fn }, queues: [queue] }.",
      );
    }
    const ownership = await this.#join(types);
    if (this.#options.guard === true) this.#releaseGuard = holdGuard();
    try {
      await log.registerTypes(
        [...this.#definitions.values()].flatMap((versions) => {
          const newest = [...versions.values()].at(-1);
          return newest === undefined
            ? []
            : [{ type: newest.type, version: newest.version, plan: newest.steps }];
        }),
      );
      const { lastSequence } = await log.info();
      this.#follower = await log.follow({
        after: lastSequence,
        // All types: waiters for results of other types hang on this tail too.
        onCommit: (commit) => this.#onCommit(commit),
        onStatus: (status, error) => {
          if (status === "live" || status === "interrupted") return;
          this.#fail(
            error ??
              new MillraceError(
                "log_recreated",
                `The event log is no longer what it was (${status}). Connect again.`,
              ),
          );
        },
      });
      results.attachFeed(this.#feed);
      await ownership.claim();
      if (this.#failure !== null) throw this.#failure;
    } catch (error) {
      await this.drain({ deadlineMs: 0 });
      throw error;
    }
    this.#stopAnswering = log.answer(questionTopic, (question) =>
      answerQuestion({ log, payloads, clock, table: this.#table, definitions: this.#definitions }, question),
    );
    const { shards } = ownership.stats;
    const { runs, waiting, parked } = this.#table.sizes;
    logger.info(
      { session: this.session, types, shards, takenOver: runs + waiting + parked },
      `Worker runs ${types.join(", ")}`,
    );
  }

  async #join(types: readonly string[]): Promise<ShardOwnership> {
    const { log, logger, clock } = this.#deps;
    const [leases, { shardCount }] = await Promise.all([log.leases(), log.info()]);
    this.#shardCount = shardCount;
    this.#ownership = new ShardOwnership({
      leases,
      logger,
      clock,
      process: processIdentity(),
      host: this,
      shardCount,
      group: this.#options.group ?? defaultGroup(types),
      session: this.session,
      workflows: this.#options.workflows.map(({ type, version }) => ({ type, version })),
      leaseMs: this.#options.leaseMs ?? leaseDefaultMs,
      onFailed: (error) => this.#fail(error),
    });
    await this.#ownership.join();
    return this.#ownership;
  }

  async takeOver(shards: readonly number[]): Promise<void> {
    const types = [...this.#definitions.keys()];
    const heads: CommitHead[] = [];
    // W1: the tail runs already, and admits what is appended from here on.
    await this.#deps.log.heads((head) => void heads.push(head), {
      types: [...types, scheduleType],
      shards,
    });
    const toLoad: CommitHead[] = [];
    for (const head of heads) {
      if (head.type === scheduleType) this.#scheduler.adopt(head);
      // What is only parked is so at once: a later look would have to know what the tail told of it meanwhile.
      else if (head.condition === "waiting" && head.parent === null) this.#table.takeOver(head);
      else toLoad.push(head);
    }
    for (const [index, head] of toLoad.entries()) {
      this.#table.takeOver(head);
      // The lease must be renewed in between, however many there are.
      if (index % loadsPerTurn === loadsPerTurn - 1) await nextTurn();
    }
  }

  handOver(scopes: readonly ShardScope[]): readonly Promise<void>[] {
    const leaving = this.#takeOut(scopes);
    const deadlineMs = this.#drainMs ?? this.#options.handOverMs ?? handOverDefaultMs;
    return leaving.map((runs) => this.#bringToRest(runs, deadlineMs));
  }

  async drop(scopes: readonly ShardScope[]): Promise<void> {
    await this.#bringToRest(this.#takeOut(scopes).flat(), 0);
  }

  /** Forgets what waits in these shards; gives the runs in memory that are to leave, by scope. */
  #takeOut(scopes: readonly ShardScope[]): Run[][] {
    const leaving = new Map(
      scopes.map(({ shard, lanes }) => [shard, { lanes: new Set(lanes), runs: [] as Run[] }]),
    );
    const runs = this.#table.leave((id, lane) => {
      const scope = leaving.get(this.#shardOf(id));
      return scope !== undefined && (lane === null || scope.lanes.has(laneOf(lane)));
    });
    for (const run of runs) leaving.get(this.#shardOf(run.id))?.runs.push(run);
    this.#scheduler.release();
    return [...leaving.values()].map((scope) => scope.runs);
  }

  /** W3: starts no step, lets those that run end and be recorded, then takes the runs out of this process. */
  async #bringToRest(runs: readonly Run[], deadlineMs: number): Promise<void> {
    if (runs.length === 0) return;
    const stepsEnded = this.#table.closeSteps(runs);
    const atRest = (): Promise<unknown> => Promise.all(runs.map((run) => run.settled()));
    if (deadlineMs > 0) {
      await this.#within(deadlineMs, Promise.all([stepsEnded, atRest()]));
      // What ended last may still be on its way into the log.
      await this.#within(recordingMs, atRest());
    }
    const reason = new MillraceError(
      "draining",
      "The run moves to another worker, or this one is being drained; the step will run again elsewhere.",
    );
    await this.#within(recordingMs, Promise.all(runs.map((run) => run.stop(reason))));
    this.#table.forget(runs);
  }

  #fail(failure: Error): void {
    const { logger } = this.#deps;
    if (this.#failure !== null) return;
    this.#failure = failure;
    logger.error({ session: this.session }, `Worker stops: ${failure.message}`);
    this.drain({ deadlineMs: 0 }).catch((drainError: unknown) => {
      logger.error({ session: this.session }, `Worker could not be drained: ${String(drainError)}`);
    });
    this.#onFailed?.(failure);
  }

  stats(): WorkerStats {
    return {
      ...this.#table.sizes,
      stepsRunning: this.#slots.running,
      tasksRunning: 0,
      ...(this.#ownership?.stats ?? noShards),
    };
  }

  drain(options: DrainOptions = {}): Promise<void> {
    this.#draining ??= this.#drain(options.deadlineMs ?? 30_000);
    return this.#draining;
  }

  async #drain(deadlineMs: number): Promise<void> {
    this.#drainMs = deadlineMs;
    this.#stopAnswering();
    this.#table.close();
    const schedulerAtRest = this.#scheduler.stop();
    const tailEnded = this.#follower?.stop().catch((error: unknown) => {
      this.#deps.logger.warn(
        { session: this.session },
        `The worker's tail did not end well: ${String(error)}`,
      );
    });
    await this.#ownership?.leave();
    // Shards that were being handed over or let go as the drain began have runs of their own.
    await this.#bringToRest(this.#table.inMemory(), deadlineMs);
    await this.#within(recordingMs, Promise.all([tailEnded, schedulerAtRest, this.#slots.close()]));
    this.#timers.clear();
    this.#releaseGuard();
    this.#deps.results.detachFeed(this.#feed);
  }

  async #within(limitMs: number, work: Promise<unknown>): Promise<void> {
    let cancel = (): void => undefined;
    const limit = new Promise<void>((resolve) => {
      cancel = this.#deps.clock.wake(Math.min(limitMs, wakeDelayMaxMs), resolve);
    });
    await Promise.race([work, limit]);
    cancel();
  }

  #host(definition: AnyWorkflowDefinition): void {
    const versions = this.#definitions.get(definition.type) ?? new Map<string, AnyWorkflowDefinition>();
    if (versions.has(definition.version)) {
      throw new MillraceError(
        "invalid_request",
        `Workflow type ${definition.type} is given twice in version ${definition.version}. Give each its own version.`,
      );
    }
    this.#definitions.set(definition.type, versions.set(definition.version, definition));
  }

  #onCommit(commit: StoredCommit): void {
    if (commit.type === scheduleType) return this.#scheduler.receive(commit);
    this.#scheduler.observe(commit);
    // Our own commits settle their waiters when they are acknowledged, as long as the run is here. The tail is behind
    // that: a run that is over would be loaded anew for each of its earlier commits.
    const own = commit.writer === this.session;
    if (own && this.#table.holds(commit.workflowId)) return;
    this.#deps.results.observe(commit);
    if (commit.condition === "closed") this.#table.observeClosed(commit);
    if (!own && this.#definitions.has(commit.type)) this.#table.receive(commit);
  }
}

const noShards: OwnershipStats = { shards: 0, takeOvers: 0, lastTakeOverMs: null };
