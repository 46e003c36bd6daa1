/**
 * What all connections of one process share: tail, ring, seam, folded states, catch-up reads, timers.
 *
 * Owns: the seam and what feeds it, wired; the list of sessions. Does not own: the log, the projection, sockets, the
 * protocol (`stream-session.ts`, `updates-session.ts`). Each part has a file: where a subscription begins
 * (`cursor-admission.ts`), pages (`catch-up-reads.ts`), the budget of all sockets
 * (`buffer-budget.ts`), the end of a log (`spread-gone.ts`).
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
  closeCodes,
  isClosed,
  MillraceError,
  toRow,
  type Filter,
  type StreamShape,
  type WorkflowRow,
} from "@millrace/schemas";
import { absentProjection, projectionMissing } from "./absent-projection.ts";
import { BrokerSource } from "./broker-source.ts";
import { BufferBudget } from "./buffer-budget.ts";
import { CatchUpReads } from "./catch-up-reads.ts";
import { encodeBookmark } from "./core/encode.ts";
import { RunAttributes } from "./core/run-attributes.ts";
import type { RunCommit } from "./core/run-commit.ts";
import { RunFolds } from "./core/run-folds.ts";
import { Seam, type SeamPort } from "./core/seam.ts";
import { RunStatuses } from "./core/run-statuses.ts";
import { TopicEncoder } from "./core/topic-encoder.ts";
import { TokenBucket } from "./core/token-bucket.ts";
import { CursorAdmission, type Admission } from "./cursor-admission.ts";
import { turnSliceMs, type HubSettings } from "./hub-settings.ts";
import { KnownLog } from "./known-log.ts";
import type { StreamServerLogger } from "./logger.ts";
import { createMetrics, type Metrics } from "./metrics.ts";
import { ProjectionSource } from "./projection-source.ts";
import { takeReadings } from "./readings.ts";
import { RunHistories } from "./run-histories.ts";
import type { Session } from "./session.ts";
import { Snapshots } from "./snapshots.ts";
import { SpreadGone } from "./spread-gone.ts";
import { Tail } from "./tail.ts";

export interface StreamHubOptions {
  readonly log: EventLog;
  /** Null: old history comes from the broker, and what needs rows is refused. */
  readonly projection: Projection | null;
  readonly settings: HubSettings;
  readonly logger: StreamServerLogger;
  /** The log was made anew and this connection to it cannot go on: the process must be started again. */
  readonly onLogChanged: (error: Error) => void;
}

export class StreamHub {
  readonly settings: HubSettings;
  /** On a node without one, one that refuses everything. */
  readonly projection: Projection;
  readonly logger: StreamServerLogger;
  readonly metrics: Metrics;
  readonly seam: Seam;
  readonly sessions = new Set<Session>();
  readonly snapshots: Snapshots;
  readonly #options: StreamHubOptions;
  readonly #known: KnownLog;
  readonly #admission: CursorAdmission;
  readonly #tail: Tail;
  readonly #histories: RunHistories;
  readonly #folds: RunFolds;
  readonly #attributes: RunAttributes;
  readonly #statuses: RunStatuses;
  readonly #encoder: TopicEncoder;
  readonly #reads: CatchUpReads;
  readonly #budget: BufferBudget;
  readonly #connections: TokenBucket;
  readonly #gone: SpreadGone;
  #tailState: "live" | "lost" | "changed" = "lost";
  #draining = false;
  #sentAt: number[] = [];
  /** For what batches hold back. */
  #flushTimer: NodeJS.Timeout | undefined;
  #ticks = 0;
  #timer: NodeJS.Timeout | undefined;

  private constructor(options: StreamHubOptions, info: LogInfo) {
    const { log, settings, logger } = options;
    const projection = options.projection ?? absentProjection();
    const histories = (this.#histories = new RunHistories(log));
    this.#options = options;
    this.settings = settings;
    this.projection = projection;
    this.logger = logger;
    const known = (this.#known = new KnownLog(log, info));
    const seam = (this.seam = new Seam(this.#port(), info.lastSequence, settings));
    const rows = {
      checkpointSequence: () => projection.checkpoint().sequence,
      state: (id: string) => projection.state(id),
      stateAt: (id: string, sequence: number) => projection.stateAt(id, sequence),
      attributesAt: (id: string, sequence: number) => projection.attributesAt(id, sequence),
    };
    const states = options.projection === null ? histories : rows;
    const { ring } = seam;
    const folds = (this.#folds = new RunFolds(states, ring));
    const attributes = (this.#attributes = new RunAttributes(states, ring));
    const statuses = (this.#statuses = new RunStatuses(states, ring));
    const frameBytesMax = settings.pageBytesMax;
    this.#encoder = new TopicEncoder({ ring, folds, attributes, statuses, frameBytesMax });
    const metrics = (this.metrics = createMetrics(() =>
      takeReadings({
        seam,
        sessions: this.sessions,
        known,
        projection: options.projection,
        folds,
        snapshots: this.snapshots,
        following: this.following,
      }),
    ));
    const head = () => seam.head;
    this.#admission = new CursorAdmission({ known, projection: options.projection, settings, metrics, head });
    const common = { seam, known, settings, metrics, logger };
    const source =
      options.projection === null
        ? new BrokerSource({ ...common, log, histories })
        : new ProjectionSource({ ...common, projection, attributes });
    this.#reads = new CatchUpReads({ seam, source, known, metrics, logger, limits: settings });
    this.snapshots = new Snapshots(projection, known, settings);
    this.#connections = new TokenBucket(settings.connectionsPerSecond, settings.connectionsBurst, Date.now());
    this.#budget = new BufferBudget({
      settings,
      sessions: this.sessions,
      seam,
      heldBytes: () => ring.bytes + this.snapshots.bytes + this.#reads.bytes + histories.bytes,
      letGo: () => {
        this.#reads.letGo();
        histories.letGo();
      },
    });
    this.#gone = new SpreadGone(seam);
    this.#tail = new Tail({
      log,
      logger,
      onBatch: (commits) => this.#onBatch(commits),
      onState: (state) => this.#onTailState(state),
      onUndecodable: () => metrics.undecodable.inc(),
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
    this.#reads.stop();
    await this.#tail.stop();
  }

  get epoch(): string {
    return this.#known.info.epoch;
  }

  get firstSequence(): number {
    return this.#known.info.firstSequence;
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
    const info = await this.#known.ask();
    if (this.#options.projection === null) return null;
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
    return this.#budget.exceeded;
  }

  /** Does something in a later turn; a second job for the same key replaces the first. */
  later(key: object, job: () => void): void {
    this.#reads.later(key, job);
  }

  /** Where a subscription begins: see {@link CursorAdmission}. */
  async admit(from: string | undefined, min: number | undefined): Promise<Admission> {
    return this.#roomFor(await this.#admission.admit(from, min));
  }

  /** As {@link admit}, for a cursor that may have no epoch. */
  async admitSequence(sequence: number, epoch?: string): Promise<Admission> {
    return this.#roomFor(await this.#admission.admitSequence(sequence, epoch));
  }

  /** Whether a new connection may be made now: a herd is taken in no faster than it can be served. */
  takesConnection(): boolean {
    return this.#connections.take(Date.now());
  }

  /** `overloaded` when more wait for old history than may. */
  #roomFor(admission: Admission): Admission {
    if (admission.kind === "at" && admission.position < this.seam.ring.from - 1) this.#reads.assertRoom();
    return admission;
  }

  /** Refuses what this node cannot serve: `projection_missing`. */
  assertServable(filter: Filter, shape: StreamShape, from: string | undefined): void {
    if (this.#options.projection !== null) return;
    if (from === "snapshot") throw projectionMissing("A snapshot");
    // States are folded from the histories of runs that are named: of all runs that would be all of the log.
    if (filter.workflow !== undefined) return;
    if (shape !== "events") throw projectionMissing(`Shape ${shape} without filter.workflow`);
    if (filter.attr !== undefined) throw projectionMissing("filter.attr without filter.workflow");
    if (filter.status !== undefined) throw projectionMissing("filter.status without filter.workflow");
  }

  /** A run's present row, and the sequence that it is of. */
  async currentRow(
    workflowId: string,
  ): Promise<{ readonly row: WorkflowRow | null; readonly sequence: number }> {
    if (this.#options.projection !== null) {
      const { rows, sequence } = this.projection.snapshot({ workflow: [workflowId] }, 1);
      return { row: rows[0] ?? null, sequence };
    }
    await this.#histories.load([workflowId], this.seam.head);
    const sequence = this.#histories.checkpointSequence(workflowId);
    const state = this.#histories.stateAt(workflowId, sequence);
    return { row: state === null ? null : toRow(state), sequence };
  }

  /** Tells all clients to go elsewhere and refuses new subscriptions. */
  drain(): void {
    this.#draining = true;
    for (const session of [...this.sessions]) session.drain();
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
    this.#reads.end();
    this.seam.tailLost();
    const error = new MillraceError(
      "log_recreated",
      `The event log was made anew (or lost its tail) under this server; it knew epoch ${this.epoch} up to ${this.seam.head}. ` +
        "All subscriptions are ended; start the server again.",
    );
    this.logger.error({ err: error, code: error.code }, error.message);
    const told = (info: LogInfo | null) => {
      this.#gone.begin(info, Date.now(), this.settings.goneSpreadMs);
      this.#options.onLogChanged(error);
    };
    this.#known.ask().then(told, (cause: unknown) => {
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
          const end = performance.now() + turnSliceMs;
          return this.#encoder.page(subscription, page, room, () => performance.now() > end);
        } catch (error) {
          // What it carries may be ahead of what was sent now.
          this.#encoder.putDown(subscription);
          this.#reads.failed(subscription.pos, error);
          return null;
        }
      },
      encodeBookmark: (topic, p, s) => (topic.shape === "update" ? null : encodeBookmark(topic.f, p, s)),
      requestPage: (subscription) => this.#reads.request(subscription),
      awaitState: (subscription) => this.#reads.awaitState(subscription),
      pumpLater: (subscription) => this.#reads.pumpLater(subscription),
      attributesAround: (commit) => this.#orNull(commit.sequence, () => this.#attributes.around(commit)),
      statusAround: (commit) => this.#orNull(commit.sequence, () => this.#statuses.around(commit)),
      closedAsOf: (workflowId, sequence) => {
        const state = this.#folds.asOf(workflowId, "", sequence);
        return state === null ? null : isClosed(state.status);
      },
      onDemoted: (subscription, reason) => this.metrics.demoted(subscription, reason),
      onPromoted: (subscription) => {
        this.#reads.arrived(subscription);
        this.#encoder.putDown(subscription);
        this.metrics.promoted(subscription);
      },
      onEnded: (subscription) => {
        this.#reads.arrived(subscription);
        this.#encoder.putDown(subscription);
      },
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
      this.#reads.failed(position, error);
      return null;
    }
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
    this.#budget.check(sum);
    this.#gone.tick(now);
    this.#reads.tick(now);
    if (this.#ticks % Math.ceil(1_000 / this.settings.tickMs) === 0) this.#reads.retry(performance.now());
  }
}
