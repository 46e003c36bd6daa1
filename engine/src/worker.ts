/**
 * A worker: which runs this process executes.
 *
 * Owns: the tail of the log for its types, the open runs in memory, the step slots. Does not own: a run's turns, which
 * shards are its own (`fleet/shard-ownership.ts`).
 * W1 Take-over needs no state of its own: the latest head of every run up to the log's end, while the tail goes on.
 * W2 A run is in memory at most once; beyond `runsMax` it waits as an id and is loaded from the log in its turn.
 * W3 `drain` starts nothing new, lets running steps end and be recorded, then lets go. So does the hand-over of a shard.
 * W4 Only runs of lanes (type and version) and shards that it holds are executed.
 */
import type { CommitHead, EventLog, Follower, StoredCommit } from "@millrace/event-log";
import { assertGroup, isClosed, laneOf, MillraceError, shardOf, type HostedType } from "@millrace/schemas";
import { newUlid } from "./new-ulid.ts";
import type { AnyWorkflowDefinition } from "./definition.ts";
import { DueTimers, wakeDelayMaxMs, type Clock } from "./due-timers.ts";
import { defaultGroup } from "./fleet/core/group-name.ts";
import type { ShardScope } from "./fleet/core/plan-shards.ts";
import { processIdentity } from "./fleet/process-identity.ts";
import { ShardOwnership, type OwnershipStats, type ShardHost } from "./fleet/shard-ownership.ts";
import type { Logger } from "./logger.ts";
import type { Results, ResultsFeed } from "./results.ts";
import { Run, type RunDeps } from "./run.ts";
import { StepGate } from "./step-gate.ts";
import { StepSlots } from "./step-slots.ts";

export interface WorkerOptions {
  /** Several versions of one type may be hosted; the last one given is what new runs start on. */
  readonly workflows: readonly AnyWorkflowDefinition[];
  /** Step functions that run at the same time. Default 200. */
  readonly concurrency?: number;
  /** Open runs kept in memory; the others wait as ids. Default 10,000. */
  readonly runsMax?: number;
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

export interface WorkerStats {
  /** Open runs in memory, and those that wait for a place. */
  readonly runs: number;
  readonly waiting: number;
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

export interface WorkerDeps {
  readonly log: EventLog;
  readonly logger: Logger;
  readonly clock: Clock;
  readonly random: () => number;
  readonly results: Results;
}

/** How long a drained worker waits for the log's answers: a broker that is away must not hold up the process. */
const recordingMs = 1_000;

/** A clean restart hands over before it; only a killed process keeps its shards waiting for so long. */
const leaseDefaultMs = 10_000;
const handOverDefaultMs = 30_000;

/**
 * Rejects with `invalid_request` when two definitions have the same type and version, `workflow_type_claimed` when a
 * live worker of another group hosts one of the types.
 */
export async function startWorker(deps: WorkerDeps, options: WorkerOptions): Promise<Worker> {
  const worker = new LogWorker(deps, options);
  await worker.start();
  return worker;
}

class LogWorker implements Worker, ShardHost {
  readonly session = newUlid();
  readonly #deps: WorkerDeps;
  readonly #definitions = new Map<string, Map<string, AnyWorkflowDefinition>>();
  readonly #runs = new Map<string, Run>();
  readonly #waiting = new Map<string, string>();
  readonly #runsMax: number;
  readonly #slots: StepSlots;
  readonly #timers: DueTimers;
  readonly #runDeps: RunDeps;
  readonly #gates = new WeakMap<Run, StepGate>();
  /** Open runs in shards of ours that are not ours to execute, and of which lane they are. */
  readonly #unhosted = new Map<string, HostedType>();
  /** Runs on their way to another worker: still ours until they are at rest. */
  readonly #leaving = new Set<string>();
  readonly #options: WorkerOptions;
  #ownership: ShardOwnership | null = null;
  #shardCount = 0;
  #drainMs: number | null = null;
  readonly #onFailed: ((error: Error) => void) | undefined;
  readonly #feed: ResultsFeed = {
    position: () => this.#follower?.position ?? 0,
    isOpen: (id) => this.#runs.has(id),
  };
  #follower: Follower | null = null;
  #draining: Promise<void> | null = null;
  #failure: Error | null = null;

  constructor(deps: WorkerDeps, options: WorkerOptions) {
    this.#deps = deps;
    this.#options = options;
    if (options.group !== undefined) assertGroup(options.group);
    this.#runsMax = options.runsMax ?? 10_000;
    this.#onFailed = options.onFailed;
    this.#slots = new StepSlots(options.concurrency ?? 200);
    this.#timers = new DueTimers(deps.clock);
    for (const definition of options.workflows) this.#host(definition);
    this.#runDeps = {
      log: deps.log,
      logger: deps.logger,
      clock: deps.clock,
      random: deps.random,
      timers: this.#timers,
      slots: this.#slots,
      writer: this.session,
      definition: (type, version) => this.#definitions.get(type)?.get(version) ?? null,
      onClosed: (id, events) => deps.results.settle(id, events),
      onDone: (run) => this.#onDone(run),
    };
  }

  async start(): Promise<void> {
    const { log, logger, results } = this.#deps;
    const types = [...this.#definitions.keys()];
    if (types.length === 0) {
      throw new MillraceError(
        "invalid_request",
        "A worker needs at least one workflow. Pass { workflows: [definition] }.",
      );
    }
    const ownership = await this.#join(types);
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
    const { shards } = ownership.stats;
    logger.info(
      { session: this.session, types, shards, takenOver: this.#runs.size + this.#waiting.size },
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
    const open: CommitHead[] = [];
    // W1: the tail runs already, and admits what is appended from here on.
    await this.#deps.log.heads((head) => void (isForWorker(head) && open.push(head)), { types, shards });
    for (const { workflowId, type } of open) {
      this.#unhosted.delete(workflowId);
      this.#admit(workflowId, type, null);
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
    const scopeOf = (id: string) => leaving.get(shardOf(id, this.#shardCount));
    for (const run of this.#runs.values()) {
      const scope = scopeOf(run.id);
      if (scope === undefined) continue;
      // Not loaded yet: its lane is not known, and nothing runs of it that could be disturbed.
      const { version, sequence } = run.state;
      if (sequence === 0 || scope.lanes.has(laneOf({ type: run.type, version }))) scope.runs.push(run);
    }
    for (const [id, type] of [...this.#waiting]) {
      const shard = shardOf(id, this.#shardCount);
      if (leaving.has(shard) && this.#ownership?.holdsType(type, shard) !== true) this.#waiting.delete(id);
    }
    for (const [id, { type }] of [...this.#unhosted]) {
      const shard = shardOf(id, this.#shardCount);
      if (leaving.has(shard) && this.#ownership?.holdsType(type, shard) !== true) this.#unhosted.delete(id);
    }
    return [...leaving.values()].map(({ runs }) => runs);
  }

  /** W3: starts no step, lets those that run end and be recorded, then takes the runs out of this process. */
  async #bringToRest(runs: readonly Run[], deadlineMs: number): Promise<void> {
    if (runs.length === 0) return;
    const stepsEnded = Promise.all(runs.map(async (run) => this.#gates.get(run)?.close()));
    const atRest = (): Promise<unknown> => Promise.all(runs.map((run) => run.settled()));
    if (deadlineMs > 0) {
      for (const { id } of runs) this.#leaving.add(id);
      await this.#within(deadlineMs, Promise.all([stepsEnded, atRest()]));
      // What ended last may still be on its way into the log.
      await this.#within(recordingMs, atRest());
    }
    const reason = new MillraceError(
      "draining",
      "The run moves to another worker, or this one is being drained; the step will run again elsewhere.",
    );
    await this.#within(recordingMs, Promise.all(runs.map((run) => run.stop(reason))));
    for (const run of runs) {
      this.#leaving.delete(run.id);
      if (this.#runs.get(run.id) === run) this.#runs.delete(run.id);
      // Taken out before its lane was known, and that is still ours.
      if (this.#ownership?.holdsType(run.type, shardOf(run.id, this.#shardCount)) === true)
        this.#admit(run.id, run.type, null);
    }
    this.#admitWaiting();
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
      runs: this.#runs.size,
      waiting: this.#waiting.size,
      stepsRunning: this.#slots.running,
      unhosted: [...this.#unhosted.values()].filter((lane) => this.#ownership?.isHosted(lane) !== true)
        .length,
      ...(this.#ownership?.stats ?? noShards),
    };
  }

  drain(options: DrainOptions = {}): Promise<void> {
    this.#draining ??= this.#drain(options.deadlineMs ?? 30_000);
    return this.#draining;
  }

  async #drain(deadlineMs: number): Promise<void> {
    this.#drainMs = deadlineMs;
    this.#waiting.clear();
    const tailEnded = this.#follower?.stop().catch((error: unknown) => {
      this.#deps.logger.warn(
        { session: this.session },
        `The worker's tail did not end well: ${String(error)}`,
      );
    });
    await this.#ownership?.leave();
    // Shards that were being handed over or let go as the drain began have runs of their own.
    await this.#bringToRest([...this.#runs.values()], deadlineMs);
    await this.#within(recordingMs, Promise.all([tailEnded, this.#slots.close()]));
    this.#runs.clear();
    this.#timers.clear();
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
    // Our own commits settle their waiters when they are acknowledged, as long as the run is here.
    if (commit.writer === this.session && this.#runs.has(commit.workflowId)) return;
    this.#deps.results.observe(commit);
    if (!this.#definitions.has(commit.type)) return;
    if (commit.condition === "closed") {
      this.#waiting.delete(commit.workflowId);
      this.#unhosted.delete(commit.workflowId);
    }
    // A run stays on its version: loading it for every commit of the worker that hosts it would find the same.
    if (this.#unhosted.has(commit.workflowId)) return;
    const run = this.#runs.get(commit.workflowId);
    if (run !== undefined) {
      run.receive(commit);
      return;
    }
    if (!isForWorker(commit)) return;
    this.#admit(commit.workflowId, commit.type, isFirst(commit, this.#deps.logger) ? [commit] : null);
  }

  #admit(id: string, type: string, history: readonly StoredCommit[] | null): void {
    if (this.#draining !== null || this.#ownership?.holdsType(type, shardOf(id, this.#shardCount)) !== true)
      return;
    // W2: during take-over the tail may have told of it already.
    if (this.#runs.has(id) || this.#waiting.has(id)) return;
    if (this.#runs.size >= this.#runsMax) {
      this.#waiting.set(id, type);
      return;
    }
    const gate = new StepGate(this.#slots);
    const run = new Run(
      { ...this.#runDeps, slots: gate, definition: this.#definitionIn(id) },
      id,
      type,
      history,
    );
    this.#gates.set(run, gate);
    this.#runs.set(id, run);
    run.wake();
  }

  /** W4: a version that another worker holds in this shard is not hosted here. */
  #definitionIn(id: string): RunDeps["definition"] {
    return (type, version) =>
      this.#leaving.has(id) ||
      this.#ownership?.holds({ type, version }, shardOf(id, this.#shardCount)) === true
        ? this.#runDeps.definition(type, version)
        : null;
  }

  #onDone(run: Run): void {
    if (this.#runs.get(run.id) !== run) return;
    this.#runs.delete(run.id);
    const { version, status, startedSequence, driver } = run.state;
    // Closed from outside: who began to wait between that commit and now relied on this run.
    if (isClosed(status)) this.#deps.results.observe({ workflowId: run.id, condition: "closed" });
    if (!isClosed(status) && driver === "code" && startedSequence !== 0)
      this.#keepAside(run.id, run.type, version);
    this.#admitWaiting();
  }

  #keepAside(id: string, type: string, version: string): void {
    // Lost while it was loaded: it is with the shard's next owner.
    if (this.#ownership?.holdsType(type, shardOf(id, this.#shardCount)) !== true) return;
    this.#unhosted.set(id, { type, version });
    if (this.#ownership.isHosted({ type, version })) return;
    this.#deps.logger.warn(
      { workflowId: id, type, version },
      `Run ${id} waits: no worker hosts version ${version} of ${type}. Deploy it beside the newer one.`,
    );
  }

  #admitWaiting(): void {
    for (const [id, type] of this.#waiting) {
      if (this.#runs.size >= this.#runsMax) return;
      this.#waiting.delete(id);
      this.#admit(id, type, null);
    }
  }
}

const noShards: OwnershipStats = { shards: 0, takeOvers: 0, lastTakeOverMs: null };

/** Closed runs are over; a commit that says `waiting` is a driver's, whose run needs no worker. */
function isForWorker(head: CommitHead): boolean {
  return head.condition === "running" || head.condition === null;
}

function isFirst(commit: StoredCommit, logger: Logger): boolean {
  try {
    return commit.events[0]?.type === "WorkflowStarted";
  } catch (error) {
    logger.error(
      { workflowId: commit.workflowId, sequence: commit.sequence },
      `Commit cannot be read: ${String(error)}`,
    );
    return false;
  }
}
