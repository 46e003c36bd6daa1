/**
 * Pages for subscriptions that the ring does not cover, and what they wait for in between.
 *
 * Owns: the queue of reads, pages read in this slice, subscriptions whose read failed. Does not own: positions.
 *
 * H2 No exception of a read reaches the seam: the subscription waits and tries again.
 */
import type { Projection } from "@millrace/projector";
import { canonicalFilter, decodeCommit, MillraceError, type Filter } from "@millrace/schemas";
import type { CommitPage } from "./core/commit-ring.ts";
import type { RunAttributes } from "./core/run-attributes.ts";
import type { RunCommit } from "./core/run-commit.ts";
import type { Seam } from "./core/seam.ts";
import type { Subscription } from "./core/subscription.ts";
import { turnSliceMs, type HubSettings } from "./hub-settings.ts";
import type { KnownLog } from "./known-log.ts";
import type { StreamServerLogger } from "./logger.ts";
import type { Metrics } from "./metrics.ts";
import { ProjectionWait } from "./projection-wait.ts";
import { TurnQueue } from "./turn-queue.ts";

export interface CatchUpReadsOptions {
  readonly seam: Seam;
  readonly projection: Projection;
  readonly known: KnownLog;
  readonly attributes: RunAttributes;
  readonly settings: HubSettings;
  readonly metrics: Metrics;
  readonly logger: StreamServerLogger;
}

export class CatchUpReads {
  readonly #options: CatchUpReadsOptions;
  readonly #queue: TurnQueue;
  readonly #wait: ProjectionWait;
  /** Pages read in this slice: clients that resume together ask for the same ones. */
  readonly #pages = new Map<string, CommitPage>();
  /** Subscriptions whose last read failed; tried again with {@link retry}. */
  readonly #failed = new Set<Subscription>();
  #stopped = false;

  constructor(options: CatchUpReadsOptions) {
    this.#options = options;
    this.#queue = new TurnQueue(turnSliceMs, () => this.#pages.clear());
    this.#wait = new ProjectionWait(options.projection, options.logger);
  }

  /** See `SeamPort.requestPage`. */
  request(subscription: Subscription): void {
    this.#queue.add(subscription, () => this.#read(subscription));
  }

  /** See `SeamPort.pumpLater`. */
  pumpLater(subscription: Subscription): void {
    this.#queue.add(subscription, () => this.#options.seam.pump(subscription));
  }

  /** Does something in a later turn, among the reads. */
  later(key: object, job: () => void): void {
    this.#queue.add(key, job);
  }

  /** See `SeamPort.awaitState`. */
  awaitState(subscription: Subscription): void {
    const { seam, projection } = this.#options;
    const wanted = Math.min(Math.max(subscription.pos, 1), seam.ring.from - 1);
    if (projection.checkpoint().sequence >= wanted) this.#failed.add(subscription);
    else this.#wait.until(subscription, wanted, () => seam.onReady(subscription));
  }

  /** Once a second: those whose read failed ask again. */
  retry(): void {
    if (this.#failed.size === 0) return;
    const again = [...this.#failed];
    this.#failed.clear();
    for (const subscription of again) this.#options.seam.onReady(subscription);
  }

  /** Tells of a failure. The first one of a round speaks for all that fail with it. */
  failed(position: number, error: unknown): void {
    if (this.#failed.size > 0) return;
    this.#options.logger.error(
      { err: error, position },
      "A read of the projection failed, it is tried again",
    );
  }

  /** No page is read any more: this log is another one now. */
  end(): void {
    this.#stopped = true;
  }

  stop(): void {
    this.#queue.stop();
    this.#wait.stop();
  }

  #read(subscription: Subscription): void {
    if (subscription.mode !== "catchup" || this.#stopped) return;
    const { seam, known } = this.#options;
    const { pos, topic } = subscription;
    try {
      const key = `${pos} ${canonicalFilter(topic.filter)}`;
      const page = this.#pages.get(key) ?? this.#readPage(topic.filter, pos);
      this.#pages.set(key, page);
      if (page.upTo > pos) seam.onPage(subscription, page, known.info.firstSequence, known.info.epoch);
      else this.#wait.until(subscription, pos + 1, () => this.request(subscription));
    } catch (error) {
      this.failed(subscription.pos, error);
      this.#failed.add(subscription);
    }
  }

  #readPage(filter: Filter, after: number): CommitPage {
    const { projection, known, attributes, settings, metrics, logger } = this.#options;
    const checkpoint = projection.checkpoint();
    if (checkpoint.sequence > 0 && checkpoint.streamCreated !== known.info.created) {
      throw new MillraceError(
        "checkpoint_mismatch",
        `The projection is of another log (created ${checkpoint.streamCreated}, expected ${known.info.created}).`,
      );
    }
    metrics.catchupReads.inc({ source: "projection" });
    const { pageCommitsMax, pageBytesMax } = settings;
    const { commits, upTo } = projection.commits(filter, after, pageCommitsMax, pageBytesMax);
    const decoded: RunCommit[] = [];
    for (const { sequence, workflowId, type, at, condition, body, attributes: around } of commits) {
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
        if (around !== undefined) attributes.note(commit, around);
        decoded.push(commit);
      } catch (error) {
        metrics.undecodable.inc();
        logger.error({ err: error, sequence, workflowId }, "Commit cannot be read: no subscriber gets it");
      }
    }
    return { commits: decoded, upTo };
  }
}
