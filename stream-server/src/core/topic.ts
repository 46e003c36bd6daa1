import {
  attributeText,
  canonicalFilter,
  matchesAround,
  matchesStatus,
  textsOf,
  type AttributesAround,
  type Filter,
  type StatusAround,
  type StreamBatch,
  type StreamShape,
} from "@millrace/schemas";
import type { Entry } from "./entry.ts";
import type { RunCommit } from "./run-commit.ts";
import { hasShape, matchesCommit } from "./run-commit.ts";
import type { Outlet, Subscription } from "./subscription.ts";

/** `update` is the seed's plain JSON: the state shape in another encoding. */
export type TopicShape = StreamShape | "update";

/**
 * All subscriptions of one canonical filter, shape and batch that may share a buffer. `f` names it within the process.
 * One connection has at most one subscription per topic: a second one with the same filter gets a topic of its
 * own, so that frames need not name the subscription.
 */
export interface Topic {
  readonly f: number;
  readonly key: string;
  readonly filter: Filter;
  readonly shape: TopicShape;
  readonly batch: StreamBatch | null;
  readonly outlets: Set<Outlet>;
  /** Subscriptions in live mode. */
  readonly live: Set<Subscription>;
  /**
   * Sequence of the last matching commit that live subscriptions were sent; when the first one goes live, the
   * head. Never above the `lastS` of a live subscription, so a frame's `p` is never a false alarm.
   */
  lastMatch: number;
  /** What the batch holds back: matching commits beyond `lastMatch`. Empty unless somebody is live. */
  held: readonly Entry[];
}

/** Whether the filter leaves out some commits of a run that it matches: then no row follows from the one before. */
export function skipsCommits({ event, attr, status }: Filter): boolean {
  return event !== undefined || attr !== undefined || status !== undefined;
}

export class Topics {
  readonly #byKey = new Map<string, Topic[]>();
  #nextF = 1;

  /** The topic for a new subscription of this outlet. */
  join(outlet: Outlet, filter: Filter, shape: TopicShape, batch: StreamBatch | null): Topic {
    const held = batch === null ? "" : `${batch.max}/${batch.ms}`;
    const key = `${shape} ${held} ${canonicalFilter(filter)}`;
    const same = this.#byKey.get(key) ?? [];
    let topic = same.find((candidate) => !candidate.outlets.has(outlet));
    if (topic === undefined) {
      const f = this.#nextF++;
      const [outlets, live] = [new Set<Outlet>(), new Set<Subscription>()];
      topic = { f, key, filter, shape, batch, outlets, live, lastMatch: 0, held: [] };
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

/** What {@link TopicIndex.match} asks for when a topic's filter wants it; null: it cannot be told now. */
export interface FindAround {
  attributesAround(commit: RunCommit): AttributesAround | null;
  statusAround(commit: RunCommit): StatusAround | null;
}

/** Finds the topics with live subscriptions that a commit matches, without looking at every filter. */
export class TopicIndex {
  readonly #byWorkflow = new Map<string, Set<Topic>>();
  readonly #byType = new Map<string, Set<Topic>>();
  /** By the first attribute that a filter wants: its key, then its value as text. */
  readonly #byAttribute = new Map<string, Map<string, Set<Topic>>>();
  readonly #rest = new Set<Topic>();

  add(topic: Topic): void {
    for (const bucket of this.#buckets(topic, true)) bucket.add(topic);
  }

  remove(topic: Topic): void {
    for (const bucket of this.#buckets(topic, false)) bucket.delete(topic);
    const { workflow, type, attr } = topic.filter;
    for (const id of workflow ?? []) dropEmpty(this.#byWorkflow, id);
    for (const name of type ?? []) dropEmpty(this.#byType, name);
    for (const [key, wanted] of Object.entries(attr ?? {})) {
      const byText = this.#byAttribute.get(key);
      if (byText === undefined) continue;
      for (const text of textsOf(wanted)) dropEmpty(byText, text);
      if (byText.size === 0) this.#byAttribute.delete(key);
    }
  }

  /**
   * Calls back once per matching topic. `certain` is false when the topic matches but for what cannot be told now.
   */
  match(commit: RunCommit, find: FindAround, found: (topic: Topic, certain: boolean) => void): void {
    let attributes: AttributesAround | null | undefined;
    let status: StatusAround | null | undefined;
    const test = (topic: Topic): void => {
      const { filter } = topic;
      if (!hasShape(topic.shape, commit) || !matchesCommit(filter, commit)) return;
      let certain = true;
      if (filter.status !== undefined) {
        if (status === undefined) status = find.statusAround(commit);
        if (status === null) certain = false;
        else if (!matchesStatus(filter, status)) return;
      }
      if (filter.attr !== undefined) {
        if (attributes === undefined) attributes = find.attributesAround(commit);
        if (attributes === null) certain = false;
        else if (!matchesAround(filter, attributes)) return;
      }
      found(topic, certain);
    };
    for (const bucket of [
      this.#byWorkflow.get(commit.workflowId),
      this.#byType.get(commit.type),
      this.#rest,
    ]) {
      if (bucket !== undefined) for (const topic of bucket) test(topic);
    }
    if (this.#byAttribute.size === 0) return;
    const around = find.attributesAround(commit);
    attributes = around;
    for (const [key, byText] of this.#byAttribute) {
      for (const topic of around === null
        ? new Set([...byText.values()].flatMap((set) => [...set]))
        : having(key, byText, around)) {
        test(topic);
      }
    }
  }

  /** Each topic stands under one field only: runs if it names some, else types, else an attribute, else the rest. */
  *#buckets({ filter }: Topic, create: boolean): Iterable<Set<Topic>> {
    const { workflow, type, attr } = filter;
    if (workflow !== undefined || type !== undefined) {
      const map = workflow === undefined ? this.#byType : this.#byWorkflow;
      yield* bucketsOf(map, workflow ?? type ?? [], create);
      return;
    }
    const [first] = Object.entries(attr ?? {});
    if (first === undefined) {
      yield this.#rest;
      return;
    }
    const [key, wanted] = first;
    let byText = this.#byAttribute.get(key);
    if (byText === undefined) {
      if (!create) return;
      byText = new Map();
      this.#byAttribute.set(key, byText);
    }
    yield* bucketsOf(byText, textsOf(wanted), create);
  }
}

/** Topics that want a value which the run had or has; each once. */
function having(
  key: string,
  byText: ReadonlyMap<string, ReadonlySet<Topic>>,
  { before, after }: AttributesAround,
): ReadonlySet<Topic> {
  const topics = new Set<Topic>();
  for (const attributes of before === after ? [after] : [before, after]) {
    const value = Object.hasOwn(attributes, key) ? attributes[key] : undefined;
    if (value === undefined) continue;
    for (const topic of byText.get(attributeText(value)) ?? []) topics.add(topic);
  }
  return topics;
}

function* bucketsOf(
  map: Map<string, Set<Topic>>,
  names: readonly string[],
  create: boolean,
): Iterable<Set<Topic>> {
  for (const name of names) {
    let bucket = map.get(name);
    if (bucket === undefined) {
      if (!create) continue;
      bucket = new Set();
      map.set(name, bucket);
    }
    yield bucket;
  }
}

function dropEmpty(map: Map<string, Set<Topic>>, key: string): void {
  if (map.get(key)?.size === 0) map.delete(key);
}
