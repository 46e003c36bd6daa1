/**
 * Pages for subscriptions that the ring does not cover, and what they wait for in between.
 *
 * Owns: the queue of reads, pages that several share, subscriptions whose read failed. Does not own: positions, where
 * pages come from (`projection-source.ts`, `broker-source.ts`).
 *
 * C1 Identical reads are one: under way or done a moment ago, in this turn or another.
 * C2 At most `sourceReadsMax` reads are under way; those that wait do so in order.
 * C3 A herd is served in order: so many begin per second (`HerdLimits`), and those who wait have a limit.
 * H2 No exception of a read reaches the seam: the subscription waits and tries again.
 */
import { canonicalFilter, isMillraceError, MillraceError, type Filter } from "@millrace/schemas";
import type { CommitSource, RequestSource, SourcePage } from "./commit-source.ts";
import type { Seam } from "./core/seam.ts";
import type { Subscription } from "./core/subscription.ts";
import { TokenBucket } from "./core/token-bucket.ts";
import { turnSliceMs, type HerdLimits } from "./hub-settings.ts";
import type { KnownLog } from "./known-log.ts";
import type { StreamServerLogger } from "./logger.ts";
import type { Metrics } from "./metrics.ts";
import { SharedPages } from "./shared-pages.ts";
import { TurnQueue } from "./turn-queue.ts";

export interface CatchUpReadsOptions {
  readonly seam: Seam;
  readonly source: CommitSource;
  readonly known: KnownLog;
  readonly metrics: Metrics;
  readonly logger: StreamServerLogger;
  readonly limits: HerdLimits;
}

/** Reads of the broker under way: more would only wait there, and each answer is a page of memory. */
const sourceReadsMax = 8;
const sharedBytesMax = 16 * 1_048_576;
const sharedLifeMs = 2_000;

interface Read {
  readonly source: RequestSource;
  readonly key: string;
  readonly filter: Filter;
  readonly after: number;
  readonly waiting: Set<Subscription>;
}

export class CatchUpReads {
  readonly #options: CatchUpReadsOptions;
  readonly #queue = new TurnQueue(turnSliceMs);
  readonly #pages = new SharedPages(sharedBytesMax, sharedLifeMs);
  /** Under way and in line. */
  readonly #reads = new Map<string, Read>();
  readonly #line: Read[] = [];
  #running = 0;
  /** Subscriptions whose last read failed; tried again with {@link retry}. */
  readonly #failed = new Set<Subscription>();
  #stopped = false;

  readonly #bucket: TokenBucket;
  /** Those who may read until they are live, and those who wait for that, in order. */
  readonly #admitted = new Set<Subscription>();
  readonly #waiting = new Set<Subscription>();

  constructor(options: CatchUpReadsOptions) {
    this.#options = options;
    const { deepPerSecond, deepBurst } = options.limits;
    this.#bucket = new TokenBucket(deepPerSecond, deepBurst, Date.now());
  }

  /** Memory of pages that are kept for others. */
  get bytes(): number {
    return this.#pages.bytes;
  }

  /** See `SeamPort.requestPage`. */
  request(subscription: Subscription): void {
    if (!this.#admitted.has(subscription)) {
      if (this.#waiting.size > 0 || !this.#bucket.take(Date.now())) {
        this.#waiting.add(subscription);
        return;
      }
      this.#admitted.add(subscription);
    }
    this.#queue.add(subscription, () => this.#read(subscription));
  }

  /** Before a subscription is made that will read: `overloaded` when too many wait already. */
  assertRoom(): void {
    const { deepWaitingMax } = this.#options.limits;
    if (this.#waiting.size < deepWaitingMax) return;
    throw new MillraceError(
      "overloaded",
      `Resuming refused: ${this.#waiting.size} others wait to read old history, the limit is ${deepWaitingMax}. Try again later.`,
      { details: { limit: deepWaitingMax, actual: this.#waiting.size } },
    );
  }

  /** It is live, or has ended. */
  arrived(subscription: Subscription): void {
    this.#admitted.delete(subscription);
    this.#waiting.delete(subscription);
  }

  /** Lets in who waits, as many as it is time for. */
  tick(now: number): void {
    for (const subscription of this.#waiting) {
      if (!this.#bucket.take(now)) return;
      this.#waiting.delete(subscription);
      this.#admitted.add(subscription);
      this.#queue.add(subscription, () => this.#read(subscription));
    }
  }

  /** Forgets pages that are kept for others. */
  letGo(): void {
    this.#pages.clear();
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
    const { seam, source, known } = this.#options;
    const ready = () => {
      if (!this.#stopped) seam.onReady(subscription);
    };
    const failed = (error: unknown) => {
      if (this.#stopped) return;
      if (isMillraceError(error, "cursor_expired")) {
        const { epoch, firstSequence } = known.info;
        seam.gone(subscription, "purged", epoch, firstSequence);
        return;
      }
      this.failed(subscription.pos, error);
      this.#failed.add(subscription);
    };
    if (!source.awaitStates(subscription, ready, failed)) this.#failed.add(subscription);
  }

  /** Once a second: those whose read failed ask again. */
  retry(now: number): void {
    this.#pages.expire(now);
    if (this.#failed.size === 0) return;
    const again = [...this.#failed];
    this.#failed.clear();
    for (const subscription of again) this.#options.seam.onReady(subscription);
  }

  /** Tells of a failure. The first one of a round speaks for all that fail with it. */
  failed(position: number, error: unknown): void {
    if (this.#failed.size > 0) return;
    const { logger, source } = this.#options;
    logger.error(
      { err: error, position, source: source.name },
      "A read of old history failed, it is tried again",
    );
  }

  /** No page is read any more: this log is another one now. */
  end(): void {
    this.#stopped = true;
  }

  stop(): void {
    this.#stopped = true;
    this.#queue.stop();
    this.#options.source.stop();
  }

  #read(subscription: Subscription): void {
    if (subscription.mode !== "catchup" || this.#stopped) return;
    const { metrics, source } = this.#options;
    const { pos, topic } = subscription;
    const key = `${pos} ${canonicalFilter(topic.filter)}`;
    try {
      const kept = this.#pages.get(key, performance.now());
      if (kept !== null) {
        metrics.catchupReads.inc({ source: "shared" });
        this.#deliver(subscription, kept, pos);
        return;
      }
      const under = this.#reads.get(key);
      if (under !== undefined) {
        metrics.catchupReads.inc({ source: "shared" });
        under.waiting.add(subscription);
        return;
      }
      if (source.name === "broker") {
        const read: Read = {
          source,
          key,
          filter: topic.filter,
          after: pos,
          waiting: new Set([subscription]),
        };
        this.#reads.set(key, read);
        this.#line.push(read);
        this.#begin();
        return;
      }
      metrics.catchupReads.inc({ source: source.name });
      const page = source.read(topic.filter, pos);
      this.#keep(key, page, pos);
      this.#deliver(subscription, page, pos);
    } catch (error) {
      this.failed(pos, error);
      this.#failed.add(subscription);
    }
  }

  #begin(): void {
    const { metrics } = this.#options;
    while (this.#running < sourceReadsMax && !this.#stopped) {
      const read = this.#line.shift();
      if (read === undefined) return;
      this.#running++;
      metrics.catchupReads.inc({ source: read.source.name });
      read.source.read(read.filter, read.after).then(
        (page) => this.#finished(read, page),
        (error: unknown) => this.#broken(read, error),
      );
    }
  }

  #finished({ key, after, waiting }: Read, page: SourcePage): void {
    this.#running--;
    this.#reads.delete(key);
    this.#keep(key, page, after);
    for (const subscription of waiting)
      this.#queue.add(subscription, () => this.#deliver(subscription, page, after));
    this.#begin();
  }

  #broken({ key, after, waiting }: Read, error: unknown): void {
    this.#running--;
    this.#reads.delete(key);
    if (this.#stopped) return;
    this.failed(after, error);
    for (const subscription of waiting) this.#failed.add(subscription);
    this.#begin();
  }

  #keep(key: string, page: SourcePage, after: number): void {
    if (page.upTo > after && page.purged !== true) this.#pages.put(key, page, performance.now());
  }

  #deliver(subscription: Subscription, page: SourcePage, after: number): void {
    if (this.#stopped || subscription.mode !== "catchup" || subscription.pos !== after) return;
    const { seam, known, source } = this.#options;
    const { epoch, firstSequence } = known.info;
    if (page.purged === true) seam.gone(subscription, "purged", epoch, firstSequence);
    else if (page.upTo > after) seam.onPage(subscription, page, firstSequence, epoch);
    else source.awaitMore(subscription, after, () => this.request(subscription));
  }
}
