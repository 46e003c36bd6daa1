/**
 * From commits to the frames of a topic.
 *
 * Owns: the states that catching-up subscriptions carry. Does not own: positions, sockets, the read model.
 *
 * E1 A frame has all entries of its commits, and holds what its topic asks for: events, rows, or both.
 * E2 A row is sent whole, or as what changed to those who have the row of the run's commit before (`Entry.step`).
 * E3 What matches by attributes or status is what matched live: both are folds over the run's history.
 *
 * Tested by `stream-rows.sqlite.test.ts` (random lives against the read model), `run-folds.prop.test.ts` and
 * `subscription-options.sqlite.test.ts`.
 */
import {
  hasAttributes,
  matchesAround,
  matchesEvent,
  matchesStatus,
  type StatusAround,
} from "@millrace/schemas";
import type { CommitPage, CommitRing } from "./commit-ring.ts";
import { encodeEvents, encodeFrame, encodeState, encodeUpdate } from "./encode.ts";
import { isWhole, type EncodedFrame, type Entry } from "./entry.ts";
import type { RunAttributes } from "./run-attributes.ts";
import { hasRow, hasShape, matchesCommit, type RunCommit } from "./run-commit.ts";
import type { CarriedStates, RunFolds } from "./run-folds.ts";
import type { RunStatuses } from "./run-statuses.ts";
import type { StateStep } from "./state-step.ts";
import type { Subscription } from "./subscription.ts";
import type { Topic } from "./topic.ts";

/** The beginning of a page for one subscription, at least its first commit. */
export interface EncodedPage {
  /** The page's if all of it went in. */
  readonly upTo: number;
  /** Null: nothing of it matches. */
  readonly frame: EncodedFrame | null;
}

export interface TopicEncoderParts {
  readonly ring: CommitRing;
  readonly folds: RunFolds;
  readonly attributes: RunAttributes;
  readonly statuses: RunStatuses;
  /** Target for one frame; a single commit may be larger. */
  readonly frameBytesMax: number;
}

export class TopicEncoder {
  readonly #parts: TopicEncoderParts;
  readonly #carried = new Map<Subscription, CarriedStates>();

  constructor(parts: TopicEncoderParts) {
    this.#parts = parts;
  }

  /** Matching commits of the batch that the tail brings now. Null: a state cannot be had now. */
  entries(topic: Topic, commits: readonly RunCommit[]): readonly Entry[] | null {
    const entries: Entry[] = [];
    for (const commit of commits) {
      const rows = sendsRow(topic, commit);
      const step = rows ? this.#parts.folds.stepAt(commit) : null;
      if (rows && step === null) return null;
      entries.push({ commit, count: countOf(topic, commit), step });
    }
    return entries;
  }

  /** Frames that form a chain from `p` to the last entry, for who began at `began`. */
  frames(topic: Topic, p: number, entries: readonly Entry[], began: number): readonly EncodedFrame[] {
    const frames: EncodedFrame[] = [];
    const countMax = topic.batch?.max ?? Infinity;
    let draft = new FrameDraft(topic, p);
    for (const [n, entry] of entries.entries()) {
      draft.add(entry, began);
      const full = draft.bytes >= this.#parts.frameBytesMax || draft.count >= countMax;
      if (!full && n < entries.length - 1) continue;
      frames.push(draft.close(entry.commit.sequence));
      draft = new FrameDraft(topic, entry.commit.sequence);
    }
    return frames;
  }

  /**
   * `room`: entries after which the page ends. `late` ends it early: states that have to be read one by one could
   * make it a long one. Null: what the first commit needs cannot be had now.
   */
  page(subscription: Subscription, page: CommitPage, room: number, late: () => boolean): EncodedPage | null {
    const { topic, lastS, began } = subscription;
    const draft = new FrameDraft(topic, lastS);
    let done = 0;
    for (const [n, commit] of page.commits.entries()) {
      const entry = this.#next(subscription, commit);
      if (entry === null) {
        if (n === 0) return null;
        return { upTo: done, frame: draft.count === 0 ? null : draft.close(done) };
      }
      done = commit.sequence;
      if (entry !== "outside") draft.add(entry, began);
      const full = draft.count >= room || draft.bytes >= this.#parts.frameBytesMax || late();
      if (!full || n === page.commits.length - 1) continue;
      return { upTo: done, frame: draft.count === 0 ? null : draft.close(done) };
    }
    return { upTo: page.upTo, frame: draft.count === 0 ? null : draft.close(page.upTo) };
  }

  /** The subscription is live, or gone, or what it carries may be ahead of what it was sent. */
  putDown(subscription: Subscription): void {
    const carried = this.#carried.get(subscription);
    if (carried === undefined) return;
    this.#carried.delete(subscription);
    this.#parts.folds.release(carried);
  }

  /** Of the next commit of a page. Null: it cannot be told now. */
  #next(subscription: Subscription, commit: RunCommit): Entry | "outside" | null {
    const { topic } = subscription;
    const { filter } = topic;
    const { attributes } = this.#parts;
    if (!hasShape(topic.shape, commit)) return "outside";
    const around = filter.attr === undefined ? undefined : attributes.around(commit);
    if (around === null) return null;
    if (around !== undefined && !matchesAround(filter, around)) return "outside";
    const rows = sendsRow(topic, commit);
    const step = rows ? this.#parts.folds.nextStep(this.#carry(subscription), commit) : null;
    if (rows && step === null) return null;
    const status = filter.status === undefined ? undefined : this.#statusAround(subscription, commit, step);
    if (status === null) return null;
    // Until it comes in again nothing of this run is read: what is carried of it would miss that.
    if (filter.attr !== undefined && around !== undefined && !hasAttributes(filter.attr, around.after))
      this.#carried.get(subscription)?.delete(commit.workflowId);
    if (status !== undefined && !matchesStatus(filter, status)) return "outside";
    if (!matchesCommit(filter, commit)) return "outside";
    return { commit, count: countOf(topic, commit), step };
  }

  #statusAround(subscription: Subscription, commit: RunCommit, step: StateStep | null): StatusAround | null {
    // A schedule has none; `matchesCommit` leaves it out.
    if (!hasRow(commit)) return { before: null, after: "running" };
    if (step !== null) return step.status;
    if (commit.sequence < this.#parts.ring.from) {
      return this.#parts.folds.nextStatus(this.#carry(subscription), commit);
    }
    // In memory they are known, for all who catch up; what was carried to here would miss this commit.
    this.putDown(subscription);
    return this.#parts.statuses.around(commit);
  }

  #carry(subscription: Subscription): CarriedStates {
    let carried = this.#carried.get(subscription);
    if (carried === undefined) {
      carried = this.#parts.folds.carry();
      this.#carried.set(subscription, carried);
    }
    return carried;
  }
}

/** A frame in the making. */
class FrameDraft {
  bytes = 0;
  count = 0;
  readonly #topic: Topic;
  readonly #p: number;
  readonly #texts: string[] = [];
  readonly #marks: number[] = [];

  constructor(topic: Topic, p: number) {
    this.#topic = topic;
    this.#p = p;
  }

  add(entry: Entry, began: number): void {
    const text = textOf(this.#topic, entry, began);
    this.#texts.push(text);
    this.bytes += text.length;
    this.count += entry.count;
    this.#marks.push(entry.commit.sequence, entry.count);
  }

  /** All that matches in (p, s] is in it. */
  close(s: number): EncodedFrame {
    const { shape, f } = this.#topic;
    // Bytes, not text: one copy is handed to all subscribers, and sockets take text by converting it each time.
    const payloads =
      shape === "update"
        ? this.#texts.map((text) => Buffer.from(text))
        : [Buffer.from(encodeFrame(f, this.#p, s, this.#texts))];
    return { s, payloads, marks: this.#marks, count: this.count };
  }
}

function sendsRow({ shape }: Topic, commit: RunCommit): boolean {
  return shape !== "events" && hasRow(commit);
}

function countOf({ shape, filter }: Topic, commit: RunCommit): number {
  if (shape === "state" || shape === "update") return 1;
  let events = 0;
  if (filter.event === undefined) events = commit.events.length;
  else for (const { type } of commit.events) if (matchesEvent(filter, type)) events++;
  return shape === "both" && hasRow(commit) ? events + 1 : events;
}

function textOf({ shape, filter }: Topic, entry: Entry, began: number): string {
  const { commit, step } = entry;
  if (step === null) return encodeEvents(filter, commit);
  if (shape === "update") return encodeUpdate(step.row);
  const state = encodeState(commit, isWhole(entry, began) ? step.whole() : step.changed());
  return shape === "both" ? `${encodeEvents(filter, commit)},${state}` : state;
}
