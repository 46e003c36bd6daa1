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
 * I4 Nothing is dropped: a connection over `highBytes`, or a window that is full, has its subscription demoted, to
 *    be promoted again.
 * I5 For a live subscription `topic.lastMatch <= lastS`: no frame and no heartbeat raises a false chain alarm.
 * I6 What a batch holds back is beyond `pos` of everybody who is to get it: nothing speaks for it before it is sent.
 * I7 No more than the window is unacknowledged, but for the rest of one commit.
 *
 * Tested by `seam.sim.test.ts`: seeded schedules, with mutants of this file that must be caught.
 */
import type { BehindReason, Filter, GoneReason, ServerFrame, StreamBatch } from "@millrace/schemas";
import { CommitRing, type CommitPage, type RingLimits } from "./commit-ring.ts";
import type { EncodedFrame, Entry } from "./entry.ts";
import { FrameVariants } from "./frame-variants.ts";
import { HeldTopics, type WakePort } from "./held-topics.ts";
import { closesRun, type RunCommit } from "./run-commit.ts";
import { SendWindow } from "./send-window.ts";
import type { Outlet, Payload, Subscription } from "./subscription.ts";
import type { EncodedPage } from "./topic-encoder.ts";
import { skipsCommits, TopicIndex, Topics, type FindAround, type Topic, type TopicShape } from "./topic.ts";

export interface SeamPort extends FindAround, WakePort {
  /** Prepares matching commits of this turn for a topic. Null: the state that they need cannot be had now. */
  entriesOf(topic: Topic, commits: readonly RunCommit[]): readonly Entry[] | null;
  /**
   * Encodes entries for live subscribers that began at `began`: one or more frames that form a chain from `p` to the
   * last one. Null: it failed.
   */
  encodeEntries(
    topic: Topic,
    p: number,
    entries: readonly Entry[],
    began: number,
  ): readonly EncodedFrame[] | null;
  /**
   * Encodes the beginning of a page for one subscription, at least its first commit, and no further than `room`
   * entries need. Null: the state that it needs cannot be had now.
   */
  encodePage(subscription: Subscription, page: CommitPage, room: number): EncodedPage | null;
  encodeBookmark(topic: Topic, p: number, s: number): Payload | null;
  /** Answers with {@link Seam.onPage}, in this turn or later, once there is something beyond `subscription.pos`. */
  requestPage(subscription: Subscription): void;
  /** Calls {@link Seam.onReady} when the projection has moved on. */
  awaitState(subscription: Subscription): void;
  /** Calls {@link Seam.pump} in a later turn. */
  pumpLater(subscription: Subscription): void;
  /** Whether the run was closed as of a sequence; null when that cannot be told yet. */
  closedAsOf(workflowId: string, sequence: number): boolean | null;
  onDemoted?(subscription: Subscription, why: BehindReason): void;
  onPromoted?(subscription: Subscription): void;
  onEnded?(subscription: Subscription): void;
  onCaughtUp?(subscription: Subscription, commits: number, entries: number): void;
  /** `frames` were handed to sockets with these entries. */
  onBroadcast?(frames: number, entries: readonly Entry[]): void;
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
  /** A cursor that stands so far behind without an event is moved on by a bookmark. */
  readonly bookmarkSequences: number;
}

/** How a subscription follows, besides its filter, shape and position. */
export interface SubscribeOptions {
  /** The run whose end ends it. */
  readonly untilClosed?: string | null;
  /** It is sent the rows of all its runs as of its position: it waits for {@link Seam.onReady}. */
  readonly snapshot?: boolean;
  /** Entries that may be unacknowledged. */
  readonly window?: number | undefined;
  readonly batch?: StreamBatch | undefined;
}

export const seamLimits: SeamLimits = {
  // A minute of 2,000 commits a second with some room: a deploy's reconnects are served from memory. A commit of an
  // event costs about a kilobyte here.
  commitsMax: 150_000,
  bytesMax: 192 * 1_048_576,
  highBytes: 262_144,
  lowBytes: 32_768,
  pageCommitsMax: 500,
  pageBytesMax: 65_536,
  pagesPerTurn: 4,
  // Far less than any history that is kept, and at full speed no more than a frame every few seconds.
  bookmarkSequences: 10_000,
};

export class Seam {
  readonly ring: CommitRing;
  readonly #port: SeamPort;
  readonly #limits: SeamLimits;
  readonly #topics = new Topics();
  readonly #index = new TopicIndex();
  readonly #held: HeldTopics;
  readonly #byOutlet = new Map<Outlet, Set<Subscription>>();
  /** Live subscriptions that end with a run. */
  readonly #closers = new Map<string, Set<Subscription>>();
  #tailUp = true;

  constructor(port: SeamPort, head: number, limits: SeamLimits = seamLimits) {
    this.#port = port;
    this.#limits = limits;
    this.#held = new HeldTopics(port);
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

  /** Adds a subscription which was sent everything up to `pos`. Call {@link pump} once `subbed` is out. */
  subscribe(
    outlet: Outlet,
    i: number,
    filter: Filter,
    shape: TopicShape,
    pos: number,
    options: SubscribeOptions = {},
  ): Subscription {
    const { untilClosed = null, snapshot = false, window, batch = null } = options;
    const began = snapshot ? 0 : pos;
    const subscription: Subscription = {
      i,
      outlet,
      topic: this.#topics.join(outlet, filter, shape, batch),
      untilClosed,
      window: window === undefined ? null : new SendWindow(window),
      began: skipsCommits(filter) ? Infinity : began,
      mode: "catchup",
      pos,
      lastS: pos,
      reading: snapshot,
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
    for (const commit of commits) {
      if (!this.ring.push(commit)) continue;
      this.#index.match(commit, this.#port, (topic, certain) => {
        if (!certain) uncertain.add(topic);
        const list = byTopic.get(topic);
        if (list === undefined) byTopic.set(topic, [commit]);
        else list.push(commit);
      });
      if (this.#closers.has(commit.workflowId) && closesRun(commit)) closed.add(commit.workflowId);
    }
    for (const [topic, matching] of byTopic) {
      const entries = uncertain.has(topic) ? null : this.#port.entriesOf(topic, matching);
      if (entries === null) this.#demoteAll(topic, before);
      else if (topic.batch === null) this.#broadcast(topic, entries, before);
      else if (this.#held.hold(topic, topic.batch, entries)) this.#flush(topic);
    }
    for (const workflowId of closed) {
      for (const subscription of this.#closers.get(workflowId) ?? []) this.#endLive(subscription);
    }
  }

  /** Sends what batches hold back and whose time is up. */
  flushDue(): void {
    for (const topic of this.#held.due()) this.#flush(topic);
  }

  #flush(topic: Topic): void {
    const sentUpTo = this.#sentUpTo(topic);
    this.#broadcast(topic, this.#held.take(topic), sentUpTo);
  }

  /** Live subscribers of the topic were sent everything up to here (I6). */
  #sentUpTo({ held }: Topic): number {
    const [first] = held;
    return first === undefined ? this.head : first.commit.sequence - 1;
  }

  /** `before`: everything up to here was sent. The entries are all that matches from there to the head. */
  #broadcast(topic: Topic, entries: readonly Entry[], before: number): void {
    const first = entries[0]?.commit.sequence ?? 0;
    const last = entries.at(-1)?.commit.sequence ?? 0;
    const p = topic.lastMatch;
    const variants = new FrameVariants(entries, (began) =>
      this.#port.encodeEntries(topic, p, entries, began),
    );
    let sent = 0;
    for (const subscription of topic.live) {
      const { pos, lastS, began } = subscription;
      if (pos >= last) continue;
      const part = partFor(subscription, entries, first);
      const frames =
        part === entries
          ? variants.of(subscription)
          : this.#port.encodeEntries(topic, pos < first ? p : lastS, part, began);
      const upTo = part.at(-1)?.commit.sequence ?? before;
      if (frames === null) this.#demote(subscription, "tail", before);
      else sent += this.#deliver(subscription, frames, upTo === last ? this.head : upTo);
    }
    topic.lastMatch = last;
    this.#port.onBroadcast?.(sent, entries);
  }

  /** What matches cannot be told now: read on as pages, which wait for it. */
  #demoteAll(topic: Topic, before: number): void {
    const sentUpTo = Math.min(before, this.#sentUpTo(topic));
    for (const subscription of topic.live) this.#demote(subscription, "tail", sentUpTo);
  }

  /** How many frames went out. `upTo`: everything that matches up to there was sent with the last one. */
  #deliver(subscription: Subscription, frames: readonly EncodedFrame[], upTo: number): number {
    const { outlet, window } = subscription;
    for (const [n, frame] of frames.entries()) {
      for (const payload of frame.payloads) outlet.send(payload);
      // Sending may find the connection broken and end the subscription.
      if (subscription.mode !== "live") return n;
      subscription.pos = subscription.lastS = frame.s;
      window?.sent(frame.marks);
      const why = this.#full(subscription);
      if (why === null) continue;
      this.#demote(subscription, why, n === frames.length - 1 ? upTo : frame.s);
      return n + 1;
    }
    return frames.length;
  }

  /** Why no more may be sent now; null: it may. */
  #full({ outlet, window }: Subscription): "window" | "slow" | null {
    if (window?.full === true) return "window";
    return outlet.bufferedBytes() > this.#limits.highBytes ? "slow" : null;
  }

  /**
   * The client has handled everything up to `sequence`. False, and nothing changes, when that was never sent; late and
   * repeated ones change nothing either.
   */
  acknowledge(subscription: Subscription, sequence: number): boolean {
    if (sequence > subscription.pos) return false;
    subscription.window?.acknowledge(sequence);
    this.pump(subscription);
    return true;
  }

  /** Back to reading pages; nothing is lost. For a global budget, and for a lost tail. */
  demote(subscription: Subscription, why: BehindReason): void {
    if (subscription.mode === "live") this.#demote(subscription, why, this.#sentUpTo(subscription.topic));
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
    if (topic.live.size === 0) {
      this.#index.remove(topic);
      // Nobody waits for it any more: each one reads it as a page.
      this.#held.take(topic);
    }
    if (untilClosed === null) return;
    const closers = this.#closers.get(untilClosed);
    closers?.delete(subscription);
    if (closers?.size === 0) this.#closers.delete(untilClosed);
  }

  /** Brings a subscription forward as far as its connection takes it. Cheap when there is nothing to do. */
  pump(subscription: Subscription): void {
    for (let pages = 0; ; pages++) {
      if (subscription.mode === "live") this.#keepUp(subscription);
      if (subscription.mode !== "catchup" || subscription.reading) return;
      if (subscription.window?.full === true) return;
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

  /** A live subscription whose filter matches nothing: its cursor must not fall off the history that is kept. */
  #keepUp(subscription: Subscription): void {
    const s = this.#sentUpTo(subscription.topic);
    if (s - subscription.lastS < this.#limits.bookmarkSequences) return;
    this.#bookmark(subscription, s);
    subscription.pos = subscription.lastS = s;
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
    const { window, outlet } = subscription;
    const encoded = this.#port.encodePage(subscription, page, window?.room ?? Infinity);
    if (encoded === null) {
      this.#wait(subscription);
      return false;
    }
    const { upTo, frame } = encoded;
    if (frame === null) this.#passOver(subscription, upTo);
    else {
      for (const payload of frame.payloads) outlet.send(payload);
      window?.sent(frame.marks);
      subscription.lastS = upTo;
      this.#port.onCaughtUp?.(subscription, frame.marks.length / 2, frame.count);
    }
    if (subscription.mode !== "catchup") return false;
    subscription.pos = upTo;
    if (subscription.untilClosed === null) return true;
    if (!page.commits.some((commit) => commit.sequence <= upTo && closesRun(commit))) return true;
    this.#end(subscription);
    return false;
  }

  /** Nothing matches up to `upTo`. Over a long way the client is told now and then; at its end `#goLive` does. */
  #passOver(subscription: Subscription, upTo: number): void {
    if (upTo - subscription.lastS < this.#limits.bookmarkSequences) return;
    this.#bookmark(subscription, upTo);
    subscription.lastS = upTo;
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

  /** What is held back goes out before the end, which may find that there is no room for it. */
  #endLive(subscription: Subscription): void {
    if (subscription.topic.held.length > 0) this.#flush(subscription.topic);
    if (subscription.mode === "live") this.#end(subscription);
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
   * against its cursor before the cursor moves to `s`. `w` does for those that wait for an acknowledgement: without it
   * a client that missed a frame and a server that waits would wait for each other. Call it only to send the frame.
   */
  heartbeat(outlet: Outlet): ServerFrame {
    const live: (readonly [f: number, last: number])[] = [];
    const waiting: (readonly [f: number, sent: number])[] = [];
    for (const subscription of this.subscriptionsOf(outlet)) {
      if (subscription.mode === "catchup" && subscription.window?.full === true)
        waiting.push([subscription.topic.f, subscription.lastS]);
      // What is held back comes within the second: then the cursor moves with it.
      if (subscription.mode !== "live" || subscription.topic.held.length > 0) continue;
      live.push([subscription.topic.f, subscription.topic.lastMatch]);
      // The client's cursor is there now: a later frame that begins before it would look like a repeat.
      subscription.pos = Math.max(subscription.pos, this.head);
      subscription.lastS = Math.max(subscription.lastS, this.head);
    }
    return { t: "hb", s: this.head, l: live, ...(waiting.length === 0 ? {} : { w: waiting }) };
  }
}

/** What a live subscription gets of a broadcast: all of it, but for where a page had run ahead and what has no room. */
function partFor(subscription: Subscription, entries: readonly Entry[], first: number): readonly Entry[] {
  const { pos, window } = subscription;
  // A page had run ahead of the tail into the middle of this batch: a chain of its own from there.
  const part = pos < first ? entries : entries.filter(({ commit }) => commit.sequence > pos);
  if (window === null) return part;
  let left = window.room;
  for (const [n, { count }] of part.entries()) {
    left -= count;
    if (left <= 0 && n < part.length - 1) return part.slice(0, n + 1);
  }
  return part;
}
