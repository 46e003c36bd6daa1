/**
 * Topics that hold back matching commits for their batch: until enough of them are there, or the time is up.
 *
 * Owns: `held` of every topic, and when each is due. Does not own: clocks, timers, who is sent what.
 *
 * B1 At most one wake-up is asked for at a time, whatever the number of topics: the earliest.
 * B2 What is held is either taken to be sent, or forgotten when nobody is live: who was demoted reads it again.
 *
 * Tested by `seam.sim.test.ts`.
 */
import type { StreamBatch } from "@millrace/schemas";
import type { Entry } from "./entry.ts";
import type { Topic } from "./topic.ts";

export interface WakePort {
  /** Milliseconds, of any clock that does not go back. */
  now(): number;
  /** Calls the seam's `flushDue` at this time; replaces what was asked for before. */
  wakeAt(time: number): void;
}

export class HeldTopics {
  readonly #port: WakePort;
  readonly #holding = new Map<Topic, { readonly due: number; count: number }>();
  #wakeAt = Infinity;

  constructor(port: WakePort) {
    this.#port = port;
  }

  /** True when the batch is full. */
  hold(topic: Topic, batch: StreamBatch, entries: readonly Entry[]): boolean {
    let holding = this.#holding.get(topic);
    if (holding === undefined) {
      holding = { due: this.#port.now() + batch.ms, count: 0 };
      this.#holding.set(topic, holding);
      this.#wake(holding.due);
    }
    for (const { count } of entries) holding.count += count;
    topic.held = topic.held.length === 0 ? entries : topic.held.concat(entries);
    return holding.count >= batch.max;
  }

  take(topic: Topic): readonly Entry[] {
    const { held } = topic;
    topic.held = [];
    this.#holding.delete(topic);
    return held;
  }

  /** Topics whose time is up; asks to be woken for the others. */
  due(): Topic[] {
    const now = this.#port.now();
    const topics: Topic[] = [];
    let next = Infinity;
    for (const [topic, { due }] of this.#holding) {
      if (due <= now) topics.push(topic);
      else next = Math.min(next, due);
    }
    this.#wakeAt = Infinity;
    if (next !== Infinity) this.#wake(next);
    return topics;
  }

  #wake(due: number): void {
    if (due >= this.#wakeAt) return;
    this.#wakeAt = due;
    this.#port.wakeAt(due);
  }
}
