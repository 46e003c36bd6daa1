/**
 * Fires schedules: what the owner of their subjects does.
 *
 * Owns: the state of each schedule of this process, its entry in the timers, what is known of its runs. Does not own:
 * what is due (`core/decide-schedule.ts`), the tail, which schedules are this process's.
 *
 * O1 A decision is in the log before anything of it is done; then its runs are started, and only then is the next
 *    decision made. So a crash in between leaves runs of the last decision to start, and whoever takes over starts
 *    those that are not there.
 * O2 Every append expects the commit that the decision was made on: of two that take themselves for the owner, one
 *    decides. Every start names the run by schedule and tick: of two that start it, one does.
 * O3 Nothing is polled: commits, the ends of runs and one timer per schedule wake it.
 * O4 What cannot be started ever is recorded (`ScheduleStartFailed`); what cannot be reached is tried again.
 *
 * Tested by `scheduler.test.ts`, with every crash point, and `scheduler.nats.test.ts`.
 */
import type { CommitHead, EventLog, StoredCommit } from "@millrace/event-log";
import {
  evolveSchedule,
  isMillraceError,
  isoTime,
  scheduleType,
  type ScheduledRun,
  type ScheduleState,
} from "@millrace/schemas";
import type { Clock, DueTimers } from "../due-timers.ts";
import type { Logger } from "../logger.ts";
import { newUlid } from "../new-ulid.ts";
import { decideDue, decideStartFailed, runsToCancel, type ScheduleEvent } from "./core/decide-schedule.ts";
import { loadSchedule, runPresence } from "./load-schedule.ts";

export interface SchedulerDeps {
  readonly log: EventLog;
  readonly logger: Logger;
  readonly clock: Clock;
  readonly timers: DueTimers;
  /** Session of the worker. */
  readonly writer: string;
  /** Whether a part of the schedule's shard is this process's. */
  readonly inShard: (scheduleId: string) => boolean;
  /** A schedule is fired by the worker that executes its workflow type in its shard. Asked before each decision. */
  readonly owns: (type: string, scheduleId: string) => boolean;
  /** Starts a run of the schedule; the same again is harmless, and answers false. */
  readonly start: (schedule: ScheduleState, run: ScheduledRun) => Promise<boolean>;
  /** Asks a run to cancel. */
  readonly cancel: (runId: string, reason: string) => Promise<void>;
}

/** Schedules worked on at once: what a take-over of all of them may ask of the broker. */
const activeMax = 64;
const retryMs = 500;
const retryMaxMs = 30_000;

interface Entry {
  readonly id: string;
  state: ScheduleState | null;
  /** The log may have more than `state`. */
  stale: boolean;
  /** Runs of `state.open`, as far as they are known. */
  readonly runs: Map<string, "asking" | "open" | "closed">;
  readonly cancelled: Set<string>;
  /** Runs that this process has just decided: they are started without looking for them first. */
  fresh: ReadonlySet<string>;
  disarm: () => void;
  failures: number;
  /** Waits or runs; `again`: something came while it ran. */
  phase: "idle" | "queued" | "active";
  again: boolean;
  dropped: boolean;
}

export class Scheduler {
  readonly #deps: SchedulerDeps;
  readonly #entries = new Map<string, Entry>();
  /** Who is to be told when a run closes. */
  readonly #byRun = new Map<string, Entry>();
  readonly #queue: Entry[] = [];
  readonly #active = new Set<Promise<void>>();
  #stopped = false;

  constructor(deps: SchedulerDeps) {
    this.#deps = deps;
  }

  /** A schedule's latest commit, found at take-over or when a shard was gained. */
  adopt(head: Pick<CommitHead, "workflowId" | "condition">): void {
    if (this.#stopped || head.condition === "closed") return;
    this.#wake(this.#entry(head.workflowId));
  }

  /** A commit of a schedule, from the tail. */
  receive(commit: StoredCommit): void {
    const { workflowId: id } = commit;
    if (this.#stopped || !this.#deps.inShard(id)) return;
    const entry = this.#entry(id);
    try {
      // A spec on the tail is as it stands in the log, perhaps sealed: reading it opens it.
      if (entry.state === null || commit.events.some(({ data }) => "spec" in data)) entry.stale = true;
      else entry.state = evolveSchedule(entry.state, commit);
    } catch (error) {
      this.#deps.logger.error(
        { scheduleId: id, sequence: commit.sequence },
        `Schedule ${id} stops: its commit at ${commit.sequence} cannot be read: ${String(error)}`,
      );
      this.#drop(entry);
      return;
    }
    this.#wake(entry);
  }

  /** A run's commit, from the tail: the end of one may be what a schedule waits for. */
  observe(head: Pick<CommitHead, "workflowId" | "condition">): void {
    if (head.condition !== "closed") return;
    const entry = this.#byRun.get(head.workflowId);
    if (entry === undefined) return;
    entry.runs.set(head.workflowId, "closed");
    if (entry.state === null || entry.state.waiting.length > 0 || entry.state.backfills.length > 0)
      this.#wake(entry);
  }

  /** A part or all of some shards was lost: what of them is not this process's at all is let go. */
  release(): void {
    for (const entry of this.#entries.values()) if (!this.#deps.inShard(entry.id)) this.#drop(entry);
  }

  /** Decides and starts nothing more; resolves when what was begun has ended. Idempotent. */
  async stop(): Promise<void> {
    this.#stopped = true;
    for (const entry of this.#entries.values()) this.#drop(entry);
    await Promise.all(this.#active);
  }

  #entry(id: string): Entry {
    let entry = this.#entries.get(id);
    if (entry === undefined) {
      entry = {
        id,
        state: null,
        stale: false,
        runs: new Map(),
        cancelled: new Set(),
        fresh: new Set(),
        disarm: () => undefined,
        failures: 0,
        phase: "idle",
        again: false,
        dropped: false,
      };
      this.#entries.set(id, entry);
    }
    return entry;
  }

  #drop(entry: Entry): void {
    entry.dropped = true;
    entry.disarm();
    for (const id of entry.runs.keys()) this.#byRun.delete(id);
    this.#entries.delete(entry.id);
  }

  #wake(entry: Entry): void {
    if (entry.phase === "active") entry.again = true;
    if (entry.phase !== "idle") return;
    entry.phase = "queued";
    this.#queue.push(entry);
    this.#next();
  }

  #next(): void {
    while (this.#active.size < activeMax) {
      const entry = this.#queue.shift();
      if (entry === undefined) return;
      if (entry.dropped) continue;
      entry.phase = "active";
      entry.again = false;
      const work = this.#work(entry).finally(() => {
        this.#active.delete(work);
        entry.phase = "idle";
        if (entry.again && !entry.dropped) this.#wake(entry);
        this.#next();
      });
      this.#active.add(work);
    }
  }

  async #work(entry: Entry): Promise<void> {
    entry.disarm();
    try {
      while (!entry.dropped && (await this.#turn(entry)));
      entry.failures = 0;
    } catch (error) {
      this.#failed(entry, error);
    }
  }

  /** True when there may be more to decide. */
  async #turn(entry: Entry): Promise<boolean> {
    const { log, clock, owns } = this.#deps;
    if (entry.state === null || entry.stale) {
      entry.stale = false;
      const found = await loadSchedule(log, entry.id);
      if (entry.dropped) return false;
      const loaded = found.kind === "schedule" ? found.state : null;
      // The tail may have been faster than the read.
      if (loaded === null || loaded.sequence >= (entry.state?.sequence ?? 0)) entry.state = loaded;
      if (entry.stale) return true;
    }
    const { state } = entry;
    if (state === null) {
      this.#drop(entry);
      return false;
    }
    const ours = owns(state.spec.workflow.type, entry.id);
    // First: what was decided before it was deleted is done.
    if (ours && (await this.#settleRuns(entry, state))) return true;
    if (state.status === "deleted") {
      this.#drop(entry);
      return false;
    }
    // Kept, so that its commits need no reading: a take-over, or another type, may make it ours.
    if (!ours) return false;
    if (await this.#cancelPrevious(entry, state)) return true;
    const event = decideDue(state, clock.now(), (id) => entry.runs.get(id) !== "closed");
    if (event !== null) {
      await this.#append(entry, state, event);
      return true;
    }
    if (state.status === "active" && state.nextDueAt !== null)
      entry.disarm = this.#deps.timers.add(state.nextDueAt, () => this.#wake(entry));
    return false;
  }

  /** O1: every run of the last decision is there, and of each it is known whether it is open. True when moved on. */
  async #settleRuns(entry: Entry, state: ScheduleState): Promise<boolean> {
    const wanted = new Set(state.open.map(({ id }) => id));
    for (const id of entry.runs.keys()) {
      if (wanted.has(id)) continue;
      entry.runs.delete(id);
      entry.cancelled.delete(id);
      this.#byRun.delete(id);
    }
    for (const run of state.open) {
      const known = entry.runs.get(run.id);
      if (known === "open" || known === "closed") continue;
      // Before the log is asked: an end that comes meanwhile is not overwritten.
      entry.runs.set(run.id, "asking");
      this.#byRun.set(run.id, entry);
      const presence = await this.#present(entry, state, run);
      if (presence === null) return true;
      if (entry.runs.get(run.id) === "asking") entry.runs.set(run.id, presence);
      if (entry.dropped || entry.state !== state) return true;
    }
    return false;
  }

  /** Whether a run that was decided is open, started if need be; null when there is none and the state has moved. */
  async #present(entry: Entry, state: ScheduleState, run: ScheduledRun): Promise<"open" | "closed" | null> {
    const { log } = this.#deps;
    const known = entry.fresh.has(run.id) ? "absent" : await runPresence(log, run.id);
    if (known !== "absent") return known;
    // Lost while we asked: whoever owns the schedule now starts it.
    if (entry.dropped) return null;
    const started = await this.#start(entry, state, run);
    if (started !== "there") return started === "new" ? "open" : null;
    const presence = await runPresence(log, run.id);
    return presence === "absent" ? "open" : presence;
  }

  /** `failed`: the run cannot be started, which is then in the log. */
  async #start(entry: Entry, state: ScheduleState, run: ScheduledRun): Promise<"new" | "there" | "failed"> {
    const { logger, start, clock } = this.#deps;
    try {
      return (await start(state, run)) ? "new" : "there";
    } catch (error) {
      if (isMillraceError(error, "workflow_exists")) {
        // Somebody's own run under this id, or the tick's with the input of before an update: in any case not twice.
        logger.warn({ scheduleId: entry.id, workflowId: run.id }, error.message);
        return "there";
      }
      if (!isMillraceError(error) || error.retryable) throw error;
      logger.error(
        { scheduleId: entry.id, workflowId: run.id },
        `Tick ${isoTime(run.tick)} of schedule ${entry.id} starts nothing: ${error.message}`,
      );
      entry.runs.delete(run.id);
      this.#byRun.delete(run.id);
      const current = entry.state ?? state;
      await this.#append(
        entry,
        current,
        decideStartFailed(current, run, `${error.code}: ${error.message}`, clock.now()),
      );
      return "failed";
    }
  }

  async #cancelPrevious(entry: Entry, state: ScheduleState): Promise<boolean> {
    for (const { id } of runsToCancel(state)) {
      if (entry.runs.get(id) !== "open" || entry.cancelled.has(id)) continue;
      try {
        await this.#deps.cancel(id, `schedule ${entry.id} has a newer tick`);
      } catch (error) {
        // It closed by itself: the tail tells.
        if (!isMillraceError(error, "workflow_closed")) throw error;
        entry.runs.set(id, "closed");
      }
      entry.cancelled.add(id);
      if (entry.state !== state || entry.dropped) return true;
    }
    return false;
  }

  /** O2 */
  async #append(entry: Entry, state: ScheduleState, event: ScheduleEvent): Promise<void> {
    const { log, writer, clock } = this.#deps;
    const { nextDueAt } = event.data.memo;
    try {
      const { sequence } = await log.append({
        commitId: newUlid(),
        workflowId: entry.id,
        type: scheduleType,
        expected: state.sequence,
        events: [event],
        condition: state.status === "deleted" ? "closed" : "waiting",
        writer,
        ...(nextDueAt === null ? {} : { dueAt: nextDueAt }),
      });
      if (entry.state !== null && entry.state.sequence < sequence) {
        const commit = { workflowId: entry.id, sequence, at: clock.now(), events: [event] };
        entry.state = evolveSchedule(entry.state, commit);
      }
      entry.fresh = new Set(event.type === "ScheduleTriggered" ? event.data.runs.map(({ id }) => id) : []);
    } catch (error) {
      // Refused, or in doubt: the log knows.
      entry.stale = true;
      if (!isMillraceError(error, "conflict")) throw error;
    }
  }

  #failed(entry: Entry, error: unknown): void {
    if (entry.dropped) return;
    const { logger, clock, timers } = this.#deps;
    entry.stale = true;
    for (const [id, known] of entry.runs) if (known === "asking") entry.runs.delete(id);
    if (isMillraceError(error) && !error.retryable) {
      logger.error(
        { scheduleId: entry.id },
        `Schedule ${entry.id} stops until it is changed: ${error.message}`,
      );
      return;
    }
    const delayMs = Math.min(retryMaxMs, retryMs * 2 ** entry.failures++);
    logger.warn({ scheduleId: entry.id, delayMs }, `Schedule ${entry.id} is tried again: ${String(error)}`);
    entry.disarm = timers.add(clock.now() + delayMs, () => this.#wake(entry));
  }
}
