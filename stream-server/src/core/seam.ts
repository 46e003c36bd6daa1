/**
 * The seam between replay and live (docs: the stream protocol). One shared tail feeds a ring; a subscription
 * reads pages until it stands at the head, then is fed by the tail; when its connection is slow it goes back to
 * reading pages. Pure: bytes leave through {@link Outlet}, pages come through {@link SeamPort}.
 *
 * Owns: mode and position of every subscription, the ring, the index of live topics.
 * Does not own: sockets, encodings, the log, clocks, admission of cursors.
 *
 * I1 Exactly once, in order: the frames of a subscription form one chain `(p, s]` without gap or overlap.
 * I2 Only live subscriptions are indexed, and live means `pos >= head`, tested in the turn in which it is set.
 * I3 `pos` never goes back. What the tail brings at or below `pos` is skipped: a page may have run ahead of it.
 * I4 Nothing is dropped: a connection over `highBytes` has its subscription demoted, to be promoted again.
 * I5 For a live subscription `topic.lastMatch <= lastS`: no frame and no heartbeat raises a false chain alarm.
 *
 * Tested by `seam.sim.test.ts`: seeded schedules, with mutants of this file that must be caught.
 */
import type { AttributesAround, BehindReason, Filter, GoneReason, ServerFrame } from "@millrace/schemas";
import { CommitRing, type CommitPage, type RingLimits } from "./commit-ring.ts";
import { closesRun, type RunCommit } from "./run-commit.ts";
import type { Outlet, Payload, Subscription } from "./subscription.ts";
import { TopicIndex, Topics, type Topic, type TopicShape } from "./topic.ts";

/** Payloads which together say "all that matches in (p, s]". */
export interface EncodedFrame {
  readonly s: number;
  readonly payloads: readonly Payload[];
}

export interface SeamPort {
  /**
   * Encodes matching commits for all live subscribers: one or more frames that form a chain from `p` to the last
   * commit. Null: the state that it needs cannot be had now.
   */
  encodeBatch(topic: Topic, p: number, commits: readonly RunCommit[]): readonly EncodedFrame[] | null;
  /**
   * Encodes the beginning of a page for one subscription, at least its first commit. `upTo` is the page's if all
   * of it went in. No payloads: nothing of it matches. Null: the state that it needs cannot be had now.
   */
  encodePage(
    subscription: Subscription,
    page: CommitPage,
  ): { readonly upTo: number; readonly payloads: readonly Payload[] } | null;
  encodeBookmark(topic: Topic, p: number, s: number): Payload | null;
  /** Answers with {@link Seam.onPage}, in this turn or later, once there is something beyond `subscription.pos`. */
  requestPage(subscription: Subscription): void;
  /** Calls {@link Seam.onReady} when the projection has moved on. */
  awaitState(subscription: Subscription): void;
  /** Calls {@link Seam.pump} in a later turn. */
  pumpLater(subscription: Subscription): void;
  /** For filters that ask for attributes: those of the run around the commit; null when they cannot be told now. */
  attributesAround(commit: RunCommit): AttributesAround | null;
  /** Whether the run was closed as of a sequence; null when that cannot be told yet. */
  closedAsOf(workflowId: string, sequence: number): boolean | null;
  onDemoted?(subscription: Subscription, why: BehindReason): void;
  onPromoted?(subscription: Subscription): void;
  onEnded?(subscription: Subscription): void;
  onCaughtUp?(commits: number): void;
}

export interface SeamLimits extends RingLimits {
  /** Above this much in a connection's buffer its subscription is demoted. */
  readonly highBytes: number;
  /** Below this much a demoted subscription reads on. */
  readonly lowBytes: number;
  readonly pageCommitsMax: number;
  /** Target for one frame; a single commit may be larger. */
  readonly pageBytesMax: number;
  /** Pages from the ring in one turn before others get theirs. */
  readonly pagesPerTurn: number;
}

export const seamLimits: SeamLimits = {
  // About a minute of a busy node: a deploy's reconnects are served from memory.
  commitsMax: 100_000,
  bytesMax: 64 * 1_048_576,
  highBytes: 262_144,
  lowBytes: 32_768,
  pageCommitsMax: 500,
  pageBytesMax: 65_536,
  pagesPerTurn: 4,
};

export class Seam {
  readonly ring: CommitRing;
  readonly #port: SeamPort;
  readonly #limits: SeamLimits;
  readonly #topics = new Topics();
  readonly #index = new TopicIndex();
  readonly #byOutlet = new Map<Outlet, Set<Subscription>>();
  /** Live subscriptions that end with a run. */
  readonly #closers = new Map<string, Set<Subscription>>();
  #tailUp = true;

  constructor(port: SeamPort, head: number, limits: SeamLimits = seamLimits) {
    this.#port = port;
    this.#limits = limits;
    this.ring = new CommitRing(limits, head);
  }

  get head(): number {
    return this.ring.head;
  }

  subscriptionsOf(outlet: Outlet): ReadonlySet<Subscription> {
    return this.#byOutlet.get(outlet) ?? new Set();
  }

  *subscriptions(): Iterable<Subscription> {
    for (const set of this.#byOutlet.values()) yield* set;
  }

  /**
   * Adds a subscription which was sent everything up to `pos`. Call {@link pump} once `subbed` is out; a held one
   * waits for {@link onReady} (its snapshot is being sent).
   */
  subscribe(
    outlet: Outlet,
    i: number,
    filter: Filter,
    shape: TopicShape,
    pos: number,
    untilClosed: string | null = null,
    held = false,
  ): Subscription {
    const topic = this.#topics.join(outlet, filter, shape);
    const subscription: Subscription = {
      i,
      outlet,
      topic,
      untilClosed,
      mode: "catchup",
      pos,
      lastS: pos,
      reading: held,
    };
    const own = this.#byOutlet.get(outlet);
    if (own === undefined) this.#byOutlet.set(outlet, new Set([subscription]));
    else own.add(subscription);
    return subscription;
  }

  /** Forgets a subscription without a word to the client. Idempotent. */
  unsubscribe(subscription: Subscription): void {
    if (subscription.mode === "ended") return;
    if (subscription.mode === "live") this.#leaveLive(subscription);
    subscription.mode = "ended";
    const { outlet, topic } = subscription;
    this.#topics.leave(outlet, topic);
    const own = this.#byOutlet.get(outlet);
    own?.delete(subscription);
    if (own?.size === 0) this.#byOutlet.delete(outlet);
    this.#port.onEnded?.(subscription);
  }

  disconnect(outlet: Outlet): void {
    for (const subscription of this.subscriptionsOf(outlet)) this.unsubscribe(subscription);
  }

  /** What the tail brought in one turn, in order. */
  onTail(commits: readonly RunCommit[]): void {
    const before = this.head;
    const byTopic = new Map<Topic, RunCommit[]>();
    const uncertain = new Set<Topic>();
    const closed = new Set<string>();
    const attributes = (commit: RunCommit) => this.#port.attributesAround(commit);
    for (const commit of commits) {
      if (!this.ring.push(commit)) continue;
      this.#index.match(commit, attributes, (topic, certain) => {
        if (!certain) uncertain.add(topic);
        const list = byTopic.get(topic);
        if (list === undefined) byTopic.set(topic, [commit]);
        else list.push(commit);
      });
      if (this.#closers.has(commit.workflowId) && closesRun(commit)) closed.add(commit.workflowId);
    }
    for (const [topic, matching] of byTopic) {
      if (uncertain.has(topic)) this.#demoteAll(topic, before);
      else this.#broadcast(topic, matching, before);
    }
    for (const workflowId of closed) {
      for (const subscription of this.#closers.get(workflowId) ?? []) this.#end(subscription);
    }
  }

  #broadcast(topic: Topic, matching: readonly RunCommit[], before: number): void {
    const first = matching[0]?.sequence ?? 0;
    const last = matching.at(-1)?.sequence ?? 0;
    const frames = this.#port.encodeBatch(topic, topic.lastMatch, matching);
    for (const subscription of topic.live) {
      if (subscription.pos >= last) continue;
      // A page had run ahead of the tail into the middle of this batch: a chain of its own from there.
      const own =
        subscription.pos < first
          ? frames
          : this.#port.encodeBatch(
              topic,
              subscription.lastS,
              matching.filter((commit) => commit.sequence > subscription.pos),
            );
      if (own === null) this.#demote(subscription, "tail", before);
      else this.#deliver(subscription, own);
    }
    topic.lastMatch = last;
  }

  /** What matches cannot be told now: read on as pages, which wait for it. */
  #demoteAll(topic: Topic, sentUpTo: number): void {
    for (const subscription of topic.live) this.#demote(subscription, "tail", sentUpTo);
  }

  #deliver(subscription: Subscription, frames: readonly EncodedFrame[]): void {
    const { outlet } = subscription;
    for (const [n, frame] of frames.entries()) {
      for (const payload of frame.payloads) outlet.send(payload);
      // Sending may find the connection broken and end the subscription.
      if (subscription.mode !== "live") return;
      subscription.pos = subscription.lastS = frame.s;
      if (outlet.bufferedBytes() > this.#limits.highBytes) {
        this.#demote(subscription, "slow", n === frames.length - 1 ? this.head : frame.s);
        return;
      }
    }
  }

  /** Back to reading pages; nothing is lost. For a global budget, and for a lost tail. */
  demote(subscription: Subscription, why: BehindReason): void {
    if (subscription.mode === "live") this.#demote(subscription, why, this.head);
  }

  #demote(subscription: Subscription, why: BehindReason, sentUpTo: number): void {
    this.#leaveLive(subscription);
    subscription.mode = "catchup";
    subscription.pos = Math.max(subscription.pos, sentUpTo);
    subscription.outlet.control({
      t: "behind",
      i: subscription.i,
      s: subscription.pos,
      head: this.head,
      why,
    });
    this.#port.onDemoted?.(subscription, why);
  }

  #leaveLive(subscription: Subscription): void {
    const { topic, untilClosed } = subscription;
    topic.live.delete(subscription);
    if (topic.live.size === 0) this.#index.remove(topic);
    if (untilClosed === null) return;
    const closers = this.#closers.get(untilClosed);
    closers?.delete(subscription);
    if (closers?.size === 0) this.#closers.delete(untilClosed);
  }

  /** Brings a subscription forward as far as its connection takes it. Cheap when there is nothing to do. */
  pump(subscription: Subscription): void {
    for (let pages = 0; ; pages++) {
      if (subscription.mode !== "catchup" || subscription.reading) return;
      if (subscription.outlet.bufferedBytes() > this.#limits.lowBytes) return;
      if (subscription.pos >= this.head) {
        this.#goLive(subscription);
        return;
      }
      if (subscription.pos < this.ring.from - 1) {
        subscription.reading = true;
        this.#port.requestPage(subscription);
        return;
      }
      if (pages >= this.#limits.pagesPerTurn) {
        this.#port.pumpLater(subscription);
        return;
      }
      const { filter } = subscription.topic;
      const { pageCommitsMax, pageBytesMax } = this.#limits;
      if (
        !this.#sendPage(subscription, this.ring.page(subscription.pos, filter, pageCommitsMax, pageBytesMax))
      )
        return;
    }
  }

  pumpAll(outlet: Outlet): void {
    for (const subscription of this.subscriptionsOf(outlet)) this.pump(subscription);
  }

  /** The answer to {@link SeamPort.requestPage}. `firstSequence` is the oldest that the source still has. */
  onPage(subscription: Subscription, page: CommitPage, firstSequence: number, epoch: string): void {
    subscription.reading = false;
    if (subscription.mode !== "catchup") return;
    if (subscription.pos + 1 < firstSequence) {
      this.gone(subscription, "expired", epoch, firstSequence);
      return;
    }
    if (page.upTo > subscription.pos && !this.#sendPage(subscription, page)) return;
    this.pump(subscription);
  }

  /** The answer to {@link SeamPort.awaitState}, and the end of a hold. */
  onReady(subscription: Subscription): void {
    subscription.reading = false;
    this.pump(subscription);
  }

  /** False when the subscription waits or has ended. */
  #sendPage(subscription: Subscription, page: CommitPage): boolean {
    const encoded = this.#port.encodePage(subscription, page);
    if (encoded === null) {
      this.#wait(subscription);
      return false;
    }
    for (const payload of encoded.payloads) subscription.outlet.send(payload);
    if (encoded.payloads.length === 0) this.#bookmark(subscription, encoded.upTo);
    else this.#port.onCaughtUp?.(page.commits.length);
    if (subscription.mode !== "catchup") return false;
    subscription.pos = subscription.lastS = encoded.upTo;
    if (subscription.untilClosed === null) return true;
    if (!page.commits.some((commit) => commit.sequence <= encoded.upTo && closesRun(commit))) return true;
    this.#end(subscription);
    return false;
  }

  #goLive(subscription: Subscription): void {
    const { topic, untilClosed } = subscription;
    if (untilClosed !== null) {
      const closed = this.#port.closedAsOf(untilClosed, subscription.pos);
      if (closed === null) {
        this.#wait(subscription);
        return;
      }
      if (closed) {
        this.#end(subscription);
        return;
      }
    }
    // Without a tail nobody is live; `tailBack` pumps again.
    if (!this.#tailUp) return;
    // After a demotion `pos` may lie beyond the last frame: the cursor must reach `topic.lastMatch` (I5).
    if (subscription.lastS < subscription.pos) this.#bookmark(subscription, subscription.pos);
    if (subscription.mode !== "catchup") return;
    subscription.lastS = subscription.pos;
    subscription.mode = "live";
    if (topic.live.size === 0) {
      topic.lastMatch = this.head;
      this.#index.add(topic);
    }
    topic.live.add(subscription);
    if (untilClosed !== null) {
      const closers = this.#closers.get(untilClosed);
      if (closers === undefined) this.#closers.set(untilClosed, new Set([subscription]));
      else closers.add(subscription);
    }
    subscription.outlet.control({ t: "live", i: subscription.i, s: subscription.pos });
    this.#port.onPromoted?.(subscription);
  }

  #wait(subscription: Subscription): void {
    subscription.reading = true;
    this.#port.awaitState(subscription);
  }

  #bookmark(subscription: Subscription, s: number): void {
    const payload = this.#port.encodeBookmark(subscription.topic, subscription.lastS, s);
    if (payload !== null) subscription.outlet.send(payload);
  }

  /** Everything up to the close of the run was sent. */
  #end(subscription: Subscription): void {
    const s = subscription.mode === "live" ? Math.max(subscription.pos, this.head) : subscription.pos;
    if (subscription.lastS < s) this.#bookmark(subscription, s);
    this.unsubscribe(subscription);
    subscription.outlet.control({ t: "end", i: subscription.i, s });
  }

  /** Tells the client that its cursor can no longer be honoured, and ends the subscription. */
  gone(subscription: Subscription, why: GoneReason, epoch: string, first: number): void {
    if (subscription.mode === "ended") return;
    this.unsubscribe(subscription);
    subscription.outlet.control({ t: "gone", i: subscription.i, why, e: epoch, first, head: this.head });
  }

  /** The broker is away: nobody is live until {@link tailBack}, and the head stands. */
  tailLost(): void {
    if (!this.#tailUp) return;
    this.#tailUp = false;
    for (const subscription of [...this.subscriptions()]) this.demote(subscription, "tail");
  }

  tailBack(): void {
    if (this.#tailUp) return;
    this.#tailUp = true;
    for (const subscription of [...this.subscriptions()]) this.pump(subscription);
  }

  /**
   * Another log, or a tail that begins anew: the ring is empty at `head`. Subscriptions of another log must have
   * been told {@link gone} or be kept from pumping.
   */
  reset(head: number): void {
    this.ring.reset(head);
  }

  /**
   * `l` lets a client find a lost frame: the last matching sequence of each live subscription, to be checked
   * against its cursor before the cursor moves to `s`. Call it only to send the frame.
   */
  heartbeat(outlet: Outlet): ServerFrame {
    const live: (readonly [f: number, last: number])[] = [];
    for (const subscription of this.subscriptionsOf(outlet)) {
      if (subscription.mode !== "live") continue;
      live.push([subscription.topic.f, subscription.topic.lastMatch]);
      // The client's cursor is there now: a later frame that begins before it would look like a repeat.
      subscription.pos = Math.max(subscription.pos, this.head);
      subscription.lastS = Math.max(subscription.lastS, this.head);
    }
    return { t: "hb", s: this.head, l: live };
  }
}
