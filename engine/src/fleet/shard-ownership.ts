/**
 * Which shards a worker executes: its session in the fleet, and the leases that it claims, hands over and loses.
 *
 * Owns: the session's key, what is held. Does not own: the runs (the worker, through `ShardHost`), what should be
 * held (`core/plan-shards.ts`), renewals (`LeaseStore`).
 *
 * O1 `holds` is true only for what stands in the log's leases under this session, as long as that is alive.
 * O2 What is to be another's stops being held, then its runs come to rest, then its name is taken off the key: a clean
 *    hand-over runs no step twice.
 * O3 A session that is lost (lapsed, removed, broker away) drops all its runs at once, then another one begins. The
 *    leases only save double work: what makes it safe is the expectation on every append.
 * O4 Driven by what the watch tells; timers only for what the broker did not answer.
 *
 * Tested by `fleet.test.ts` on one server in memory, `fleet.nats.test.ts` on a broker, `test/e2e/fleet.e2e.test.ts`.
 */
import type { Lease, LeaseStore, LeaseWatch } from "@millrace/event-log";
import {
  isMillraceError,
  laneOf,
  MillraceError,
  sessionKey,
  shardKey,
  type FleetSession,
  type HostedType,
} from "@millrace/schemas";
import type { Clock } from "../due-timers.ts";
import type { Logger } from "../logger.ts";
import { newUlid } from "../new-ulid.ts";
import { FleetView, type KnownSession } from "./core/fleet-view.ts";
import { planShards, type ShardScope, type ShardWrite } from "./core/plan-shards.ts";
import type { ProcessIdentity } from "./process-identity.ts";

/** The worker, as its shards come and go. */
export interface ShardHost {
  /** They are held from now on: their runs are to be loaded. Rejects with `unavailable` to be asked again. */
  takeOver(shards: readonly number[]): Promise<void>;
  /** They are not held any more, and nobody else holds them yet: resolves, one by one, when their runs are at rest. */
  handOver(scopes: readonly ShardScope[]): readonly Promise<void>[];
  /** Somebody else may hold them already: stops their runs at once. */
  drop(scopes: readonly ShardScope[]): Promise<void>;
}

export interface ShardOwnershipOptions {
  readonly leases: LeaseStore;
  readonly logger: Logger;
  readonly clock: Clock;
  readonly process: ProcessIdentity;
  readonly host: ShardHost;
  readonly shardCount: number;
  readonly group: string;
  /** Name of the first session; later ones have names of their own. */
  readonly session: string;
  readonly workflows: readonly HostedType[];
  readonly leaseMs: number;
  /** It cannot go on, and gives nothing back by itself: `workflow_type_claimed`, or a bug. */
  readonly onFailed: (error: Error) => void;
}

export interface OwnershipStats {
  /** Shards of which this session holds a part or all. */
  readonly shards: number;
  /** How often shards were taken over, the beginning included. */
  readonly takeOvers: number;
  /** From the claim to the last run loaded, in milliseconds; null before the first. */
  readonly lastTakeOverMs: number | null;
}

/** Before something is tried again that the broker did not answer. */
const tryAgainMs = 500;
/** How long leaving waits for the broker: a session that cannot be ended runs out by itself. */
const leaveMs = 1_000;

export class ShardOwnership {
  readonly #options: ShardOwnershipOptions;
  readonly #view = new FleetView();
  readonly #lanes: ReadonlySet<string>;
  readonly #lanesByType = new Map<string, string[]>();
  readonly #held = new Map<number, Set<string>>();
  readonly #busy = new Set<number>();
  readonly #handOvers = new Set<Promise<void>>();
  readonly #startedAt: string;
  #watch: LeaseWatch | null = null;
  #session: string;
  #lease: Lease | null = null;
  #joined = 0;
  #seen: (() => void) | null = null;
  #scheduled = false;
  #claiming = 0;
  #rejoining = false;
  #stage: "joining" | "active" | "leaving" | "left" = "joining";
  #takeOvers = 0;
  #lastTakeOverMs: number | null = null;
  /** The first claims and their take-over, for a start to wait for. */
  #settle: (() => void) | null = null;

  constructor(options: ShardOwnershipOptions) {
    this.#options = options;
    this.#session = options.session;
    this.#startedAt = new Date(options.clock.now()).toISOString();
    this.#lanes = new Set(options.workflows.map(laneOf));
    for (const workflow of options.workflows) {
      const lanes = this.#lanesByType.get(workflow.type) ?? [];
      this.#lanesByType.set(workflow.type, [...lanes, laneOf(workflow)]);
    }
  }

  get stats(): OwnershipStats {
    return { shards: this.#held.size, takeOvers: this.#takeOvers, lastTakeOverMs: this.#lastTakeOverMs };
  }

  /** Whether runs of this version of the type in this shard are this worker's. */
  holds(hosted: HostedType, shard: number): boolean {
    return this.#held.get(shard)?.has(laneOf(hosted)) === true;
  }

  /** Whether it holds anything in this shard. */
  holdsAny(shard: number): boolean {
    return (this.#held.get(shard)?.size ?? 0) > 0;
  }

  /** Whether it holds any version of the type in this shard. */
  holdsType(type: string, shard: number): boolean {
    const lanes = this.#held.get(shard);
    return lanes !== undefined && this.#lanesByType.get(type)?.some((lane) => lanes.has(lane)) === true;
  }

  /** Whether any live worker hosts this version of the type. */
  isHosted(hosted: HostedType): boolean {
    return this.#view.isHosted(hosted);
  }

  /** Becomes one of the fleet, without a shard yet. Rejects with `workflow_type_claimed` or `unavailable`. */
  async join(): Promise<void> {
    const { leases } = this.#options;
    this.#watch = await leases.watch((change) => {
      const changed = this.#view.apply(change);
      if (this.#view.sessions.has(this.#session)) this.#seen?.();
      if (changed) this.#schedule();
    });
    try {
      await this.#removeGone();
      await this.#begin();
    } catch (error) {
      await this.#leave();
      throw error;
    }
  }

  /** Claims what should be this session's and is free, and goes on doing so. Resolves when that is taken over. */
  async claim(): Promise<void> {
    this.#stage = "active";
    const settled = new Promise<void>((resolve) => (this.#settle = resolve));
    this.#reconcile();
    await settled;
  }

  /** Hands over everything, then ends the session. How long runs may take is up to the host. Idempotent. */
  async leave(): Promise<void> {
    if (this.#stage === "leaving" || this.#stage === "left") return;
    this.#stage = "leaving";
    // Others then know what will be theirs. When they cannot be told, the end of the session tells them.
    void this.#lease?.update(this.#record()).catch(toldByTheEnd);
    this.#reconcile();
    while (this.#handOvers.size > 0) await Promise.all(this.#handOvers);
    await this.#leave();
  }

  async #leave(): Promise<void> {
    this.#stage = "left";
    this.#settle?.();
    this.#seen?.();
    this.#held.clear();
    this.#watch?.stop();
    const lease = this.#lease;
    this.#lease = null;
    let cancel = (): void => undefined;
    const limit = new Promise<void>((resolve) => {
      cancel = this.#options.clock.wake(leaveMs, resolve);
    });
    await Promise.race([lease?.release(), limit]);
    cancel();
  }

  /** A process of this machine that was killed cannot come back: its session need not run out first. */
  async #removeGone(): Promise<void> {
    const { leases, process, logger } = this.#options;
    const gone = [...this.#view.sessions.values()].filter(
      ({ place, pid }) => place === process.place && process.isGone(pid),
    );
    await Promise.all(
      gone.map(async ({ session, pid, revision }) => {
        try {
          await leases.remove(sessionKey(session), revision);
          this.#view.apply({ key: sessionKey(session), value: null, revision });
          logger.info({ session, pid }, `Session ${session} ended: its process ${pid} is gone`);
        } catch (error) {
          if (!isMillraceError(error, "conflict")) throw error;
          // Somebody renewed or removed it just now: then it is not ours to end.
        }
      }),
    );
  }

  /** Makes the session's key, and waits until the watch tells of it: from then on the view is not behind it. */
  async #begin(): Promise<void> {
    const { leases, leaseMs } = this.#options;
    const key = sessionKey(this.#session);
    this.#joined = 0;
    const seen = new Promise<void>((resolve) => (this.#seen = resolve));
    const lease = await leases.keep({
      key,
      value: this.#record(),
      leaseMs,
      onLost: (reason) => void this.#lost(lease, reason).catch(this.#options.onFailed),
    });
    this.#lease = lease;
    this.#joined = lease.revision;
    void lease.update(this.#record()).catch(toldByTheEnd);
    await seen;
    this.#seen = null;
    if (this.#lease !== lease) {
      throw new MillraceError("unavailable", `Session ${this.#session} was lost as it began. Try again.`);
    }
    const conflict = this.#claimedBefore();
    if (conflict !== null) throw conflict;
  }

  #record(): string {
    const { group, process, workflows } = this.#options;
    const record: FleetSession = {
      session: this.#session,
      group,
      host: process.host,
      pid: process.pid,
      place: process.place,
      startedAt: this.#startedAt,
      draining: this.#stage === "leaving",
      joined: this.#joined,
      workflows,
    };
    return JSON.stringify(record);
  }

  #claimedBefore(): MillraceError | null {
    const own = this.#view.sessions.get(this.#session);
    const claimant = own === undefined ? null : this.#view.claimantBefore(own);
    return claimant === null ? null : claimed(claimant.type, this.#options.group, claimant.by);
  }

  #schedule(): void {
    if (this.#scheduled || (this.#stage !== "active" && this.#stage !== "leaving")) return;
    this.#scheduled = true;
    // One look after a burst of changes, not one for each.
    setImmediate(() => {
      this.#scheduled = false;
      this.#reconcile();
    });
  }

  #reconcile(): void {
    const { group, shardCount, host, onFailed } = this.#options;
    const lease = this.#lease;
    if (lease === null || (this.#stage !== "active" && this.#stage !== "leaving")) return;
    if (!this.#view.sessions.has(this.#session)) {
      lease.release().catch(onFailed);
      this.#lost(lease, new Error("somebody removed it")).catch(onFailed);
      return;
    }
    const conflict = this.#claimedBefore();
    if (conflict !== null && this.#stage === "active") return onFailed(conflict);
    const plan = planShards({
      view: this.#view,
      session: this.#session,
      group,
      shardCount,
      lanes: this.#lanes,
      draining: this.#stage === "leaving",
      held: this.#held,
      busy: this.#busy,
    });
    for (const scope of [...plan.lost, ...plan.handOvers]) this.#letGo(scope);
    if (plan.lost.length > 0) this.#track(plan.lost, [host.drop(plan.lost)]);
    if (plan.handOvers.length > 0) this.#handOver(plan.handOvers);
    if (plan.writes.length > 0) this.#write(plan.writes).catch(onFailed);
    else if (this.#claiming === 0) this.#settle?.();
  }

  #letGo({ shard, lanes }: ShardScope): void {
    const held = this.#held.get(shard);
    for (const lane of lanes) held?.delete(lane);
    if (held?.size === 0) this.#held.delete(shard);
  }

  #handOver(scopes: readonly ShardScope[]): void {
    const { host, logger } = this.#options;
    logger.debug({ session: this.#session, shards: scopes.length }, `Handing over ${scopes.length} shards`);
    const promises = host.handOver(scopes);
    for (const [index, scope] of scopes.entries()) {
      const atRest = promises[index];
      if (atRest !== undefined) this.#track([scope], [atRest]);
    }
  }

  /** The shards are left alone until their runs are at rest; then the next look takes the name off their keys. */
  #track(scopes: readonly ShardScope[], atRest: readonly Promise<void>[]): void {
    for (const { shard } of scopes) this.#busy.add(shard);
    const tracked = Promise.all(atRest)
      .catch((error: unknown) => this.#options.onFailed(error as Error))
      .then(() => {
        this.#handOvers.delete(tracked);
        for (const { shard } of scopes) this.#busy.delete(shard);
        this.#schedule();
      });
    this.#handOvers.add(tracked);
  }

  async #write(writes: readonly ShardWrite[]): Promise<void> {
    const { leases, group, clock, logger } = this.#options;
    const session = this.#session;
    const began = clock.now();
    this.#claiming++;
    for (const { shard } of writes) this.#busy.add(shard);
    let unanswered: unknown = null;
    const gained: number[] = [];
    await Promise.all(
      writes.map(async ({ shard, expected, holders, gained: lanes }) => {
        const key = shardKey(group, shard);
        const value = JSON.stringify({ holders });
        try {
          const revision = await leases.write(key, value, expected);
          this.#view.apply({ key, value, revision });
          // The session may have been lost meanwhile: then the name on the key means nothing.
          if (this.#session !== session || this.#lease === null || lanes.length === 0) return;
          this.#held.set(shard, new Set([...(this.#held.get(shard) ?? []), ...lanes]));
          gained.push(shard);
        } catch (error) {
          // Of a conflict the watch tells what is there instead.
          if (!isMillraceError(error, "conflict")) unanswered ??= error;
        } finally {
          this.#busy.delete(shard);
        }
      }),
    );
    if (gained.length > 0 && (await this.#takeOver(gained))) {
      this.#takeOvers++;
      this.#lastTakeOverMs = clock.now() - began;
      logger.info(
        { session, shards: gained.length, ms: this.#lastTakeOverMs },
        `Took over ${gained.length} shards in ${this.#lastTakeOverMs} ms`,
      );
    }
    this.#claiming--;
    if (unanswered !== null) await this.#pause(unanswered);
    this.#schedule();
  }

  /** Until the log answers; false when there is nothing left to take over. */
  async #takeOver(gained: readonly number[]): Promise<boolean> {
    for (;;) {
      const shards = gained.filter((shard) => this.#held.has(shard));
      if (shards.length === 0 || this.#stage !== "active") return false;
      try {
        await this.#options.host.takeOver(shards);
        return true;
      } catch (error) {
        if (!isMillraceError(error) || !error.retryable) {
          this.#options.onFailed(error as Error);
          return false;
        }
        await this.#pause(error);
      }
    }
  }

  async #pause(error: unknown): Promise<void> {
    const { clock, logger } = this.#options;
    if (this.#stage === "left") return;
    logger.warn({ session: this.#session }, `The fleet waits for the broker: ${String(error)}`);
    await new Promise<void>((resolve) => {
      clock.wake(tryAgainMs, resolve);
    });
  }

  async #lost(lease: Lease, reason: Error): Promise<void> {
    const { logger, host, shardCount } = this.#options;
    if (this.#lease !== lease) return;
    this.#lease = null;
    this.#held.clear();
    // Also what was being handed over in peace: the time for that has run out.
    const lanes = [...this.#lanes];
    const scopes = Array.from({ length: shardCount }, (_, shard) => ({ shard, lanes }));
    logger.warn(
      { session: this.#session },
      `Session ${this.#session} is lost and its runs stop here: ${reason.message}`,
    );
    this.#track(scopes, [host.drop(scopes)]);
    this.#seen?.();
    if (this.#rejoining || this.#stage !== "active") return;
    this.#rejoining = true;
    await this.#rejoin();
    this.#rejoining = false;
    this.#schedule();
  }

  async #rejoin(): Promise<void> {
    let lost = true;
    while (this.#stage === "active" && this.#lease === null) {
      // Runs of the session before must not go on beside those of the next one.
      while (this.#handOvers.size > 0) await Promise.all(this.#handOvers);
      // A key whose making was not answered may be there: making the same one again finds it.
      if (lost) this.#session = newUlid();
      try {
        await this.#begin();
      } catch (error) {
        if (!isMillraceError(error) || !error.retryable) return this.#options.onFailed(error as Error);
        lost = this.#joined !== 0;
        await this.#pause(error);
      }
    }
  }
}

function claimed(type: string, group: string, by: KnownSession): MillraceError {
  return new MillraceError(
    "workflow_type_claimed",
    `Worker of group ${group} refused: workflow type ${type} is hosted by group ${by.group} ` +
      `(session ${by.session}, process ${by.pid} on ${by.host}), and a type has one group. ` +
      `Give all workers that host ${type} the same group, or stop the other ones first.`,
    { details: { type, group, claimedBy: by.group, session: by.session, host: by.host, pid: by.pid } },
  );
}

/** An update of the session's key that did not get through is followed by its renewal, or by the session's end. */
function toldByTheEnd(): void {
  // Nothing is left to do.
}
