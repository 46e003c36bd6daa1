/**
 * What all connections of one process share: tail, ring, seam, folded states, catch-up reads, timers.
 *
 * Owns: the seam and everything that feeds it; the list of sessions; the epoch. Does not own: the log, the
 * projection, sockets, the protocol (`stream-session.ts`, `updates-session.ts`).
 *
 * H1 One follower of the log and one timer per process, whatever the number of connections.
 * H2 No exception of a read reaches the seam: the subscription waits and tries again.
 * H3 After the log was made anew no subscription of the old one gets a byte of the new one: it gets `gone`.
 *
 * Tested by `stream-session.sqlite.test.ts`, `updates-session.sqlite.test.ts` and, against a broker,
 * `stream-session.nats.test.ts`.
 */
import type { EventLog, LogInfo } from "@millrace/event-log";
import type { Projection } from "@millrace/projector";
import {
  canonicalFilter,
  closeCodes,
  decodeCommit,
  isClosed,
  isMillraceError,
  MillraceError,
  parseCursor,
  type Filter,
  type GoneReason,
} from "@millrace/schemas";
import type { Connection } from "./connection.ts";
import type { CommitPage } from "./core/commit-ring.ts";
import { encodeBookmark } from "./core/encode.ts";
import type { RunCommit } from "./core/run-commit.ts";
import { RunAttributes } from "./core/run-attributes.ts";
import { RunFolds } from "./core/run-folds.ts";
import { RunStatuses } from "./core/run-statuses.ts";
import { Seam, type SeamLimits, type SeamPort } from "./core/seam.ts";
import type { Outlet, Subscription } from "./core/subscription.ts";
import { TopicEncoder } from "./core/topic-encoder.ts";
import { FreshInfo } from "./fresh-info.ts";
import type { StreamServerLogger } from "./logger.ts";
import { createMetrics, type Metrics, type Readings } from "./metrics.ts";
import { ProjectionWait } from "./projection-wait.ts";
import { Tail } from "./tail.ts";
import { TurnQueue } from "./turn-queue.ts";

export interface HubSettings extends SeamLimits {
  readonly node: string;
  readonly heartbeatMs: number;
  readonly helloTimeoutMs: number;
  /** A socket of which no byte has left for so long is closed with 4002. */
  readonly stuckMs: number;
  /** Bytes waiting in all sockets together; beyond it the largest are demoted and new subscriptions refused. */
  readonly bufferedBytesMax: number;
  readonly subscriptionsPerSocket: number;
  /** Open WebSocket connections; one more is refused with 503 `overloaded`. */
  readonly connectionsMax: number;
  readonly snapshotRowsMax: number;
  /** `min` waits so long for the projector. */
  readonly projectorWaitMs: number;
  /** Over how long `gone` is spread when the log was made anew. */
  readonly goneSpreadMs: number;
  readonly tickMs: number;
}

export interface Session {
  readonly kind: keyof Readings["connections"];
  readonly connection: Connection;
  readonly outlet: Outlet;
  tick(now: number): void;
  drain(): void;
}

export type Admission =
  | { readonly kind: "at"; readonly position: number; readonly resumed: boolean }
  | {
      readonly kind: "gone";
      readonly why: GoneReason;
      readonly epoch: string;
      readonly first: number;
      readonly head: number;
    };

export interface StreamHubOptions {
  readonly log: EventLog;
  readonly projection: Projection;
  readonly settings: HubSettings;
  readonly logger: StreamServerLogger;
  /** The log was made anew and this connection to it cannot go on: the process must be started again. */
  readonly onLogChanged: (error: Error) => void;
}

/** One turn's worth of catch-up reads. */
const readSliceMs = 8;

export class StreamHub {
  readonly settings: HubSettings;
  readonly projection: Projection;
  readonly logger: StreamServerLogger;
  readonly metrics: Metrics;
  readonly seam: Seam;
  readonly sessions = new Set<Session>();
  readonly #options: StreamHubOptions;
  readonly #fresh: FreshInfo;
  readonly #tail: Tail;
  readonly #folds: RunFolds;
  readonly #attributes: RunAttributes;
  readonly #statuses: RunStatuses;
  readonly #encoder: TopicEncoder;
  readonly #queue: TurnQueue;
  readonly #wait: ProjectionWait;
  /** Pages read in this slice: clients that resume together ask for the same ones. */
  readonly #pages = new Map<string, CommitPage>();
  /** Subscriptions whose last read failed; tried again with the next second. */
  readonly #failed = new Set<Subscription>();
  /** `gone` to be told, by time. */
  #doomed: { readonly at: number; readonly tell: () => void }[] = [];
  #sentAt: number[] = [];
  #info: LogInfo;
  #tailState: "live" | "lost" | "changed" = "lost";
  #bufferedBytes = 0;
  #draining = false;
  #ticks = 0;
  #timer: NodeJS.Timeout | undefined;
  /** For what batches hold back. */
  #flushTimer: NodeJS.Timeout | undefined;

  private constructor(options: StreamHubOptions, info: LogInfo) {
    this.#options = options;
    this.#info = info;
    this.settings = options.settings;
    this.projection = options.projection;
    this.logger = options.logger;
    this.metrics = createMetrics(() => this.#readings());
    this.#fresh = new FreshInfo(options.log);
    this.#queue = new TurnQueue(readSliceMs, () => this.#pages.clear());
    this.#wait = new ProjectionWait(options.projection, options.logger);
    this.seam = new Seam(this.#port(), info.lastSequence, options.settings);
    const { ring } = this.seam;
    const states = {
      checkpointSequence: () => this.projection.checkpoint().sequence,
      state: (id: string) => this.projection.state(id),
      stateAt: (id: string, sequence: number) => this.projection.stateAt(id, sequence),
    };
    this.#folds = new RunFolds(states, ring);
    this.#statuses = new RunStatuses(states, ring);
    this.#attributes = new RunAttributes(
      {
        checkpointSequence: () => this.projection.checkpoint().sequence,
        attributesAt: (id, sequence) => this.projection.attributesAt(id, sequence),
      },
      ring,
    );
    this.#encoder = new TopicEncoder({
      ring,
      folds: this.#folds,
      attributes: this.#attributes,
      statuses: this.#statuses,
      frameBytesMax: options.settings.pageBytesMax,
    });
    this.#tail = new Tail({
      log: options.log,
      logger: options.logger,
      onBatch: (commits) => this.#onBatch(commits),
      onState: (state) => this.#onTailState(state),
      onUndecodable: () => this.metrics.undecodable.inc(),
    });
  }

  /** Rejects with `unavailable` when the broker cannot be reached. */
  static async start(options: StreamHubOptions): Promise<StreamHub> {
    const info = await options.log.info();
    const hub = new StreamHub(options, info);
    await hub.#tail.start(info.lastSequence);
    if (hub.#tailState === "lost") hub.#onTailState("live");
    hub.#timer = setInterval(() => hub.#tick(Date.now()), options.settings.tickMs);
    return hub;
  }

  async stop(): Promise<void> {
    clearInterval(this.#timer);
    clearTimeout(this.#flushTimer);
    this.#queue.stop();
    this.#wait.stop();
    await this.#tail.stop();
  }

  get epoch(): string {
    return this.#info.epoch;
  }

  get firstSequence(): number {
    return this.#info.firstSequence;
  }

  get draining(): boolean {
    return this.#draining;
  }

  /** The log was made anew: this process serves nobody any more. */
  get changed(): boolean {
    return this.#tailState === "changed";
  }

  /** The tail delivers: who stands at the head is live. */
  get following(): boolean {
    return this.#tailState === "live";
  }

  /** Null, or why this node should get no traffic. */
  async notReady(projectorLagMax: number): Promise<string | null> {
    if (this.#draining) return "the server is draining";
    if (this.#tailState !== "live") return `the tail of the event log is ${this.#tailState}`;
    const info = await this.#freshInfo();
    const checkpoint = this.projection.checkpoint();
    if (checkpoint.sequence > 0 && checkpoint.streamCreated !== info.created)
      return "the projection is of another log";
    const lag = info.lastSequence - checkpoint.sequence;
    return lag <= projectorLagMax
      ? null
      : `the projector is ${lag} commits behind, the limit is ${projectorLagMax}`;
  }

  /** Over the budget for bytes that wait in sockets. */
  get overloaded(): boolean {
    return this.#bufferedBytes > this.settings.bufferedBytesMax;
  }

  /**
   * Where a subscription begins. Cursors are compared with what the broker says now: a consumer that starts at an
   * expired or future sequence would silently begin elsewhere. `cursor_malformed`, `projector_behind`, `unavailable`.
   */
  async admit(from: string | undefined, min: number | undefined): Promise<Admission> {
    if (min !== undefined) await this.projection.waitFor(min, this.settings.projectorWaitMs);
    if (from === undefined || from === "now" || from === "snapshot") {
      return { kind: "at", position: this.seam.head, resumed: false };
    }
    if (from === "start") {
      const { firstSequence } = await this.#freshInfo();
      return { kind: "at", position: Math.max(firstSequence - 1, 0), resumed: false };
    }
    const cursor = parseCursor(from);
    return this.admitSequence(cursor.sequence, cursor.epoch);
  }

  /** As {@link admit}, for a cursor that may have no epoch. */
  async admitSequence(sequence: number, epoch?: string): Promise<Admission> {
    let info: LogInfo;
    try {
      info = await this.#freshInfo();
    } catch (error) {
      // The broker is away, but what this process has seen of the log it can still serve.
      if (!isMillraceError(error) || !error.retryable) throw error;
      if (epoch !== undefined && epoch !== this.#info.epoch) throw error;
      if (sequence > this.seam.head) throw error;
      info = { ...this.#info, lastSequence: this.seam.head };
    }
    const result = verdict(info, sequence, epoch);
    this.metrics.resumes.inc({ result: result ?? "ok" });
    return result === null
      ? { kind: "at", position: sequence, resumed: true }
      : { kind: "gone", why: result, epoch: info.epoch, first: info.firstSequence, head: info.lastSequence };
  }

  /** Tells all clients to go elsewhere and refuses new subscriptions. */
  drain(): void {
    this.#draining = true;
    for (const session of [...this.sessions]) session.drain();
  }

  async #freshInfo(): Promise<LogInfo> {
    const info = await this.#fresh.get();
    // Another log under the same name is the follower's to find: it ends the subscriptions of this one.
    if (info.epoch === this.#info.epoch) this.#info = info;
    return info;
  }

  #onBatch(commits: readonly RunCommit[]): void {
    this.metrics.delivered(commits);
    this.#folds.duringBatch(commits, () => this.seam.onTail(commits));
    if (this.#sentAt.length === 0) return;
    const now = Date.now();
    // Clocks of broker and server may differ: a negative latency is none.
    for (const at of this.#sentAt) this.metrics.deliveryLatency.observe(Math.max(0, now - at) / 1_000);
    this.#sentAt = [];
  }

  #onTailState(state: "lost" | "live" | "changed"): void {
    if (this.#tailState === state || this.#tailState === "changed") return;
    this.#tailState = state;
    if (state === "lost") {
      this.logger.warn(
        { head: this.seam.head },
        "The tail of the event log is interrupted: sockets stay, clients are told",
      );
      this.seam.tailLost();
    } else if (state === "live") {
      this.seam.tailBack();
    } else {
      this.#logChanged();
    }
  }

  #logChanged(): void {
    this.seam.tailLost();
    const error = new MillraceError(
      "log_recreated",
      `The event log was made anew (or lost its tail) under this server; it knew epoch ${this.#info.epoch} up to ${this.seam.head}. ` +
        "All subscriptions are ended; start the server again.",
    );
    this.logger.error({ err: error, code: error.code }, error.message);
    const told = (info: LogInfo | null) => {
      const all = [...this.seam.subscriptions()];
      const now = Date.now();
      this.seam.reset(info?.lastSequence ?? 0);
      for (const [n, subscription] of all.entries()) {
        // It may not read on from another log while it waits for its turn.
        subscription.reading = true;
        const at = now + (this.settings.goneSpreadMs * n) / all.length;
        const { firstSequence = 0, epoch = "" } = info ?? {};
        this.#doomed.push({ at, tell: () => this.seam.gone(subscription, "epoch", epoch, firstSequence) });
      }
      this.#options.onLogChanged(error);
    };
    this.#fresh.get().then(told, (cause: unknown) => {
      this.logger.warn({ err: cause }, "The new log could not be asked");
      told(null);
    });
  }

  #port(): SeamPort {
    return {
      now: () => performance.now(),
      wakeAt: (time) => {
        clearTimeout(this.#flushTimer);
        this.#flushTimer = setTimeout(() => this.seam.flushDue(), Math.max(0, time - performance.now()));
      },
      entriesOf: (topic, commits) =>
        this.#orNull(topic.lastMatch, () => this.#encoder.entries(topic, commits)),
      encodeEntries: (topic, p, entries, began) =>
        this.#orNull(p, () => this.#encoder.frames(topic, p, entries, began)),
      encodePage: (subscription, page, room) => {
        try {
          const end = performance.now() + readSliceMs;
          return this.#encoder.page(subscription, page, room, () => performance.now() > end);
        } catch (error) {
          // What it carries may be ahead of what was sent now.
          this.#encoder.putDown(subscription);
          this.#readFailed(subscription.pos, error);
          return null;
        }
      },
      encodeBookmark: (topic, p, s) => (topic.shape === "update" ? null : encodeBookmark(topic.f, p, s)),
      requestPage: (subscription) => this.#queue.add(subscription, () => this.#read(subscription)),
      awaitState: (subscription) => this.#awaitState(subscription),
      pumpLater: (subscription) => this.#queue.add(subscription, () => this.seam.pump(subscription)),
      attributesAround: (commit) => this.#orNull(commit.sequence, () => this.#attributes.around(commit)),
      statusAround: (commit) => this.#orNull(commit.sequence, () => this.#statuses.around(commit)),
      closedAsOf: (workflowId, sequence) => {
        const state = this.#folds.asOf(workflowId, "", sequence);
        return state === null ? null : isClosed(state.status);
      },
      onDemoted: (subscription, reason) => this.metrics.demoted(subscription, reason),
      onPromoted: (subscription) => {
        this.#encoder.putDown(subscription);
        this.metrics.promoted(subscription);
      },
      onEnded: (subscription) => this.#encoder.putDown(subscription),
      onCaughtUp: (subscription, commits, entries) => {
        this.metrics.frames.inc();
        this.metrics.resumedCommits.inc(commits);
        this.metrics.caughtUp(subscription, entries);
      },
      onBroadcast: (frames, entries) => {
        this.metrics.frames.inc(frames);
        for (const { commit } of entries) this.#sentAt.push(commit.at);
      },
    };
  }

  /** H2. */
  #orNull<T>(position: number, read: () => T | null): T | null {
    try {
      return read();
    } catch (error) {
      this.#readFailed(position, error);
      return null;
    }
  }

  #read(subscription: Subscription): void {
    if (subscription.mode !== "catchup" || this.changed) return;
    const { pos, topic } = subscription;
    try {
      const key = `${pos} ${canonicalFilter(topic.filter)}`;
      const page = this.#pages.get(key) ?? this.#readPage(topic.filter, pos);
      this.#pages.set(key, page);
      if (page.upTo > pos) this.seam.onPage(subscription, page, this.#info.firstSequence, this.#info.epoch);
      else
        this.#wait.until(subscription, pos + 1, () =>
          this.#queue.add(subscription, () => this.#read(subscription)),
        );
    } catch (error) {
      this.#readFailed(subscription.pos, error);
      this.#failed.add(subscription);
    }
  }

  #readPage(filter: Filter, after: number): CommitPage {
    const checkpoint = this.projection.checkpoint();
    if (checkpoint.sequence > 0 && checkpoint.streamCreated !== this.#info.created) {
      throw new MillraceError(
        "checkpoint_mismatch",
        `The projection is of another log (created ${checkpoint.streamCreated}, expected ${this.#info.created}).`,
      );
    }
    this.metrics.catchupReads.inc({ source: "projection" });
    const { pageCommitsMax, pageBytesMax } = this.settings;
    const { commits, upTo } = this.projection.commits(filter, after, pageCommitsMax, pageBytesMax);
    const decoded: RunCommit[] = [];
    for (const { sequence, workflowId, type, at, condition, body, attributes } of commits) {
      try {
        const commit: RunCommit = {
          sequence,
          workflowId,
          type,
          at,
          condition,
          events: decodeCommit(body, sequence),
          bytes: body.length,
        };
        if (attributes !== undefined) this.#attributes.note(commit, attributes);
        decoded.push(commit);
      } catch (error) {
        this.metrics.undecodable.inc();
        this.logger.error(
          { err: error, sequence, workflowId },
          "Commit cannot be read: no subscriber gets it",
        );
      }
    }
    return { commits: decoded, upTo };
  }

  #readFailed(position: number, error: unknown): void {
    // The first one of a round speaks for all that fail with it.
    if (this.#failed.size > 0) return;
    this.logger.error({ err: error, position }, "A read of the projection failed, it is tried again");
  }

  #awaitState(subscription: Subscription): void {
    const { ring } = this.seam;
    const wanted = Math.min(Math.max(subscription.pos, 1), ring.from - 1);
    if (this.projection.checkpoint().sequence >= wanted) this.#failed.add(subscription);
    else this.#wait.until(subscription, wanted, () => this.seam.onReady(subscription));
  }

  #tick(now: number): void {
    this.#ticks++;
    let sum = 0;
    // One connection each tick is asked how long the way to it is: a sample, so that 10,000 cost no more than one.
    const probed = this.#ticks % Math.max(1, this.sessions.size);
    for (const [n, session] of [...this.sessions].entries()) {
      if (n === probed && session.connection.sincePingMs(now) >= this.settings.heartbeatMs)
        session.connection.ping(now);
      sum += session.connection.bufferedBytes();
      if (session.connection.stuckMs(now) > this.settings.stuckMs) {
        session.connection.close(
          closeCodes.stuck,
          `no byte left for ${this.settings.stuckMs} ms: resume from your cursor`,
        );
        continue;
      }
      session.tick(now);
    }
    this.#bufferedBytes = sum;
    if (this.overloaded) this.#relieve(sum);
    if (this.#doomed.length > 0) {
      const due = this.#doomed.filter(({ at }) => at <= now);
      this.#doomed = this.#doomed.filter(({ at }) => at > now);
      for (const { tell } of due) tell();
    }
    if (this.#failed.size > 0 && this.#ticks % Math.ceil(1_000 / this.settings.tickMs) === 0) {
      const again = [...this.#failed];
      this.#failed.clear();
      for (const subscription of again) this.seam.onReady(subscription);
    }
  }

  /** The largest first, until those that stay live hold less than the budget. */
  #relieve(sum: number): void {
    const bySize = [...this.sessions].sort(
      (a, b) => b.connection.bufferedBytes() - a.connection.bufferedBytes(),
    );
    let left = sum;
    for (const { connection, outlet } of bySize) {
      if (left <= this.settings.bufferedBytesMax) return;
      left -= connection.bufferedBytes();
      for (const subscription of [...this.seam.subscriptionsOf(outlet)])
        this.seam.demote(subscription, "slow");
    }
  }

  #readings(): Readings {
    const connections = { "millrace.v1": 0, updates: 0 };
    let sum = 0;
    let max = 0;
    for (const { kind, connection } of this.sessions) {
      connections[kind]++;
      const buffered = connection.bufferedBytes();
      sum += buffered;
      max = Math.max(max, buffered);
    }
    const subscriptions = { live: 0, catchup: 0 };
    const { ring, head } = this.seam;
    let catchupLag = 0;
    for (const { mode, pos } of this.seam.subscriptions()) {
      if (mode !== "ended") subscriptions[mode]++;
      if (mode === "catchup") catchupLag = Math.max(catchupLag, head - pos);
    }
    const checkpoint = this.projection.checkpoint().sequence;
    const unprojectedAt = ring.oldestBeyond(checkpoint);
    return {
      connections,
      subscriptions,
      bufferedBytes: { sum, max },
      catchupLag,
      ring: {
        commits: ring.count,
        bytes: ring.bytes,
        spanSeconds: secondsSince(ring.oldestAt),
        pages: ring.pages,
      },
      tailLag: Math.max(0, this.#info.lastSequence - head),
      projectorLag: Math.max(0, head - checkpoint),
      projectorLagSeconds: secondsSince(unprojectedAt),
      following: this.following,
      foldedStates: this.#folds.count,
    };
  }
}

function secondsSince(at: number | null): number {
  return at === null ? 0 : Math.max(0, Date.now() - at) / 1_000;
}

function verdict(info: LogInfo, sequence: number, epoch: string | undefined): GoneReason | null {
  if (epoch !== undefined && epoch !== info.epoch) return "epoch";
  if (sequence > info.lastSequence) return "future";
  if (sequence + 1 < info.firstSequence) return "expired";
  return null;
}
