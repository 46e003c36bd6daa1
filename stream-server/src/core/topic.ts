import { canonicalFilter, type Filter, type StreamShape } from "@millrace/schemas";
import type { RunCommit } from "./run-commit.ts";
import { matchesCommit } from "./run-commit.ts";
import type { Outlet, Subscription } from "./subscription.ts";

/** `update` is the seed's plain JSON: the state shape in another encoding. */
export type TopicShape = StreamShape | "update";

/**
 * All subscriptions of one canonical filter and shape that may share a buffer. `f` names it within the process.
 * One connection has at most one subscription per topic: a second one with the same filter gets a topic of its
 * own, so that frames need not name the subscription.
 */
export interface Topic {
  readonly f: number;
  readonly key: string;
  readonly filter: Filter;
  readonly shape: TopicShape;
  readonly outlets: Set<Outlet>;
  /** Subscriptions in live mode. */
  readonly live: Set<Subscription>;
  /**
   * Sequence of the last matching commit that live subscriptions were sent; when the first one goes live, the
   * head. Never above the `lastS` of a live subscription, so a frame's `p` is never a false alarm.
   */
  lastMatch: number;
}

export class Topics {
  readonly #byKey = new Map<string, Topic[]>();
  #nextF = 1;

  /** The topic for a new subscription of this outlet. */
  join(outlet: Outlet, filter: Filter, shape: TopicShape): Topic {
    const key = `${shape} ${canonicalFilter(filter)}`;
    const same = this.#byKey.get(key) ?? [];
    let topic = same.find((candidate) => !candidate.outlets.has(outlet));
    if (topic === undefined) {
      topic = { f: this.#nextF++, key, filter, shape, outlets: new Set(), live: new Set(), lastMatch: 0 };
      same.push(topic);
      this.#byKey.set(key, same);
    }
    topic.outlets.add(outlet);
    return topic;
  }

  leave(outlet: Outlet, topic: Topic): void {
    topic.outlets.delete(outlet);
    if (topic.outlets.size > 0) return;
    const same = this.#byKey.get(topic.key) ?? [];
    const left = same.filter((candidate) => candidate !== topic);
    if (left.length === 0) this.#byKey.delete(topic.key);
    else this.#byKey.set(topic.key, left);
  }
}

/** Finds the topics with live subscriptions that a commit matches, without looking at every filter. */
export class TopicIndex {
  readonly #byWorkflow = new Map<string, Set<Topic>>();
  readonly #byType = new Map<string, Set<Topic>>();
  readonly #rest = new Set<Topic>();

  add(topic: Topic): void {
    for (const bucket of this.#buckets(topic, true)) bucket.add(topic);
  }

  remove(topic: Topic): void {
    for (const bucket of this.#buckets(topic, false)) bucket.delete(topic);
    for (const id of topic.filter.workflow ?? []) dropEmpty(this.#byWorkflow, id);
    for (const type of topic.filter.type ?? []) dropEmpty(this.#byType, type);
  }

  /** Calls back once per matching topic. */
  match(commit: RunCommit, found: (topic: Topic) => void): void {
    for (const bucket of [
      this.#byWorkflow.get(commit.workflowId),
      this.#byType.get(commit.type),
      this.#rest,
    ]) {
      if (bucket === undefined) continue;
      for (const topic of bucket) if (matchesCommit(topic.filter, commit)) found(topic);
    }
  }

  /** Each topic stands under one field only: runs if it names some, else types, else the rest. */
  *#buckets({ filter }: Topic, create: boolean): Iterable<Set<Topic>> {
    if (filter.workflow === undefined && filter.type === undefined) {
      yield this.#rest;
      return;
    }
    const map = filter.workflow === undefined ? this.#byType : this.#byWorkflow;
    for (const name of filter.workflow ?? filter.type ?? []) {
      let bucket = map.get(name);
      if (bucket === undefined) {
        if (!create) continue;
        bucket = new Set();
        map.set(name, bucket);
      }
      yield bucket;
    }
  }
}

function dropEmpty(map: Map<string, Set<Topic>>, key: string): void {
  if (map.get(key)?.size === 0) map.delete(key);
}
