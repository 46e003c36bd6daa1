/**
 * A worker: which runs this process executes.
 *
 * Owns: the tail of the log for its types, the open runs in memory, the step slots. Does not own: a run's turns.
 * W1 Take-over needs no state of its own: the latest head of every run up to the log's end, then the tail from there.
 * W2 A run is in memory at most once; beyond `runsMax` it waits as an id and is loaded from the log in its turn.
 * W3 `drain` starts nothing new, lets running steps end and be recorded, then lets go.
 */
import type { CommitHead, EventLog, Follower, StoredCommit } from "@millrace/event-log";
import { isClosed, MillraceError } from "@millrace/schemas";
import { newUlid } from "./new-ulid.ts";
import type { AnyWorkflowDefinition } from "./definition.ts";
import { DueTimers, wakeDelayMaxMs, type Clock } from "./due-timers.ts";
import type { Logger } from "./logger.ts";
import type { Results, ResultsFeed } from "./results.ts";
import { Run, type RunDeps } from "./run.ts";
import { StepSlots } from "./step-slots.ts";

export interface WorkerOptions {
  /** Several versions of one type may be hosted; the last one given is what new runs start on. */
  readonly workflows: readonly AnyWorkflowDefinition[];
  /** Step functions that run at the same time. Default 200. */
  readonly concurrency?: number;
  /** Open runs kept in memory; the others wait as ids. Default 10,000. */
  readonly runsMax?: number;
  /**
   * The event log is no longer the one that this worker followed (made anew, or cut): it has stopped and appends
   * nothing more. Connect again. Default: only a log line.
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

/** Rejects with `invalid_request` when two definitions have the same type and version. */
export async function startWorker(deps: WorkerDeps, options: WorkerOptions): Promise<Worker> {
  const worker = new LogWorker(deps, options);
  await worker.start();
  return worker;
}

class LogWorker implements Worker {
  readonly session = newUlid();
  readonly #deps: WorkerDeps;
  readonly #definitions = new Map<string, Map<string, AnyWorkflowDefinition>>();
  readonly #runs = new Map<string, Run>();
  readonly #waiting = new Map<string, string>();
  readonly #runsMax: number;
  readonly #slots: StepSlots;
  readonly #timers: DueTimers;
  readonly #runDeps: RunDeps;
  readonly #unhosted = new Set<string>();
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
    await log.registerTypes(
      [...this.#definitions.values()].flatMap((versions) => {
        const newest = [...versions.values()].at(-1);
        return newest === undefined
          ? []
          : [{ type: newest.type, version: newest.version, plan: newest.steps }];
      }),
    );
    const open: CommitHead[] = [];
    const head = await log.heads((commit) => void (isForWorker(commit) && open.push(commit)), { types });
    this.#follower = await log.follow({
      after: head,
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
    if (this.#failure !== null) {
      await this.#follower.stop();
      throw this.#failure;
    }
    results.attachFeed(this.#feed);
    for (const commit of open) this.#admit(commit.workflowId, commit.type, null);
    logger.info({ session: this.session, types, takenOver: open.length }, `Worker runs ${types.join(", ")}`);
  }

  #fail(failure: Error): void {
    const { logger } = this.#deps;
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
      unhosted: this.#unhosted.size,
    };
  }

  drain(options: DrainOptions = {}): Promise<void> {
    this.#draining ??= this.#drain(options.deadlineMs ?? 30_000);
    return this.#draining;
  }

  async #drain(deadlineMs: number): Promise<void> {
    this.#waiting.clear();
    const runs = [...this.#runs.values()];
    const atRest = (): Promise<unknown> => Promise.all(runs.map((run) => run.settled()));
    const tailEnded = this.#follower?.stop().catch((error: unknown) => {
      this.#deps.logger.warn(
        { session: this.session },
        `The worker's tail did not end well: ${String(error)}`,
      );
    });
    await this.#within(deadlineMs, Promise.all([tailEnded, this.#slots.close(), atRest()]));
    // What ended last may still be on its way into the log.
    if (deadlineMs > 0) await this.#within(recordingMs, atRest());
    const reason = new MillraceError(
      "draining",
      "The worker is being drained; the step will run again elsewhere.",
    );
    await this.#within(recordingMs, Promise.all([tailEnded, ...runs.map((run) => run.stop(reason))]));
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
    // Our own commits settle their waiters when they are acknowledged.
    if (commit.writer === this.session) return;
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
    // W2: during take-over the tail may have told of it already.
    if (this.#draining !== null || this.#runs.has(id) || this.#waiting.has(id)) return;
    if (this.#runs.size >= this.#runsMax) {
      this.#waiting.set(id, type);
      return;
    }
    const run = new Run(this.#runDeps, id, type, history);
    this.#runs.set(id, run);
    run.wake();
  }

  #onDone(run: Run): void {
    if (this.#runs.get(run.id) !== run) return;
    this.#runs.delete(run.id);
    const { version, status, startedSequence, driver } = run.state;
    // Closed from outside: who began to wait between that commit and now relied on this run.
    if (isClosed(status)) this.#deps.results.observe({ workflowId: run.id, condition: "closed" });
    if (
      !isClosed(status) &&
      driver === "code" &&
      startedSequence !== 0 &&
      this.#runDeps.definition(run.type, version) === null
    ) {
      this.#unhosted.add(run.id);
      this.#deps.logger.warn(
        { workflowId: run.id, type: run.type, version },
        `Run ${run.id} waits: no worker here hosts version ${version} of ${run.type}. Deploy it beside the newer one.`,
      );
    }
    const next = this.#waiting.entries().next();
    if (next.done === true) return;
    const [id, type] = next.value;
    this.#waiting.delete(id);
    this.#admit(id, type, null);
  }
}

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
