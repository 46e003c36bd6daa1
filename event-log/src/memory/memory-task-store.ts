/**
 * What a broker's task queues are to the memory twin: shared by all connections to one namespace.
 *
 * I1 A message is in one place: it waits, or it is taken under a lease that is running.
 */
import type { Delivery, LaneEvents } from "../queue-taker.ts";
import type { DeadLetter, Heartbeat, QueueLimits, StoredDeadLetter } from "../task-queues.ts";

interface Message {
  readonly body: Uint8Array;
  readonly publishedAt: number;
  readonly order: number;
  deliveries: number;
}

interface Taken {
  readonly message: Message;
  readonly leaseMs: number;
  cancel: () => void;
}

/** The messages of one subject. */
export class MemoryLane {
  readonly #name: string;
  readonly #waiting: Message[] = [];
  readonly #taken = new Map<string, Taken>();
  readonly #asking: { readonly leaseMs: number; readonly events: LaneEvents }[] = [];
  #order = 0;
  #replies = 0;

  constructor(name: string) {
    this.#name = name;
  }

  get waiting(): readonly Message[] {
    return this.#waiting;
  }

  get takenCount(): number {
    return this.#taken.size;
  }

  get size(): number {
    return this.#waiting.length + this.#taken.size;
  }

  add(body: Uint8Array, at: number): void {
    this.#putBack({ body, publishedAt: at, order: ++this.#order, deliveries: 0 });
  }

  /** Takes out one message that waits, or that somebody holds. */
  drop(): void {
    if (this.#waiting.pop() !== undefined) return;
    const [reply] = this.#taken.keys();
    if (reply !== undefined) this.settle(reply);
  }

  pull(count: number, leaseMs: number): Delivery[] {
    return this.#waiting.splice(0, count).map((message) => this.#take(message, leaseMs));
  }

  ask(leaseMs: number, events: LaneEvents): () => void {
    const asker = { leaseMs, events };
    this.#asking.push(asker);
    this.#serve();
    return () => {
      const at = this.#asking.indexOf(asker);
      if (at !== -1) this.#asking.splice(at, 1);
    };
  }

  extend(reply: string): void {
    const taken = this.#taken.get(reply);
    if (taken === undefined) return;
    taken.cancel();
    taken.cancel = this.#lease(reply, taken.message, taken.leaseMs);
  }

  settle(reply: string): void {
    this.#taken.get(reply)?.cancel();
    this.#taken.delete(reply);
  }

  release(reply: string, delayMs: number): void {
    const taken = this.#taken.get(reply);
    if (taken === undefined) return;
    taken.cancel();
    if (delayMs > 0) taken.cancel = this.#lease(reply, taken.message, delayMs);
    else this.#expire(reply, taken.message);
  }

  #take(message: Message, leaseMs: number): Delivery {
    message.deliveries++;
    const reply = `${this.#name}.${message.order}.${++this.#replies}`;
    this.#taken.set(reply, { message, leaseMs, cancel: this.#lease(reply, message, leaseMs) });
    return { reply, body: message.body, delivery: message.deliveries };
  }

  #lease(reply: string, message: Message, ms: number): () => void {
    const timer = setTimeout(() => this.#expire(reply, message), ms);
    timer.unref();
    return () => clearTimeout(timer);
  }

  #expire(reply: string, message: Message): void {
    if (this.#taken.delete(reply)) this.#putBack(message);
  }

  #putBack(message: Message): void {
    const at = this.#waiting.findIndex(({ order }) => order > message.order);
    this.#waiting.splice(at === -1 ? this.#waiting.length : at, 0, message);
    this.#serve();
  }

  #serve(): void {
    while (this.#asking.length > 0 && this.#waiting.length > 0) {
      const asker = this.#asking.shift();
      const message = this.#waiting.shift();
      if (asker === undefined || message === undefined) return;
      const delivery = this.#take(message, asker.leaseMs);
      queueMicrotask(() => asker.events.onArrival(delivery));
    }
  }
}

export interface MemoryTaskStore {
  /** By `<queue>.<priority>` and `<queue>.permits`. */
  readonly lanes: Map<string, MemoryLane>;
  /** Tokens that were published. */
  readonly published: Set<string>;
  readonly limits: Map<string, QueueLimits>;
  readonly usedUntil: Map<string, number>;
  readonly beats: Map<string, Heartbeat & { readonly at: number }>;
  /** In the order in which they came. */
  readonly dead: (DeadLetter & Pick<StoredDeadLetter, "sequence" | "at">)[];
  /** Told when the limits of a queue change. */
  readonly changed: Set<(queue: string) => void>;
  deadCount: number;
}

export function createMemoryTaskStore(): MemoryTaskStore {
  return {
    lanes: new Map(),
    published: new Set(),
    limits: new Map(),
    usedUntil: new Map(),
    beats: new Map(),
    dead: [],
    changed: new Set(),
    deadCount: 0,
  };
}
