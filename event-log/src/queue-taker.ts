/**
 * Takes tasks of one queue for all of a process that want some: the same rules for every adapter.
 *
 * Owns: who waits, in which order, and what the queue's limits let through. Does not own: how messages are asked for
 * (a {@link Lane}), what stands in the broker (the {@link QueueTakerDeps}).
 *
 * T1 A task goes to one waiter. What nobody waits for any more is released at once.
 * T2 Lanes are asked highest priority first, for what is there now; one that is empty is not asked again: a request
 *    stands in it, so that its next task is pushed here.
 * T3 With a concurrency limit, a task is taken only with a permit in hand, and goes back together with it.
 * T4 With a rate, tasks are taken after the stored rate granted them.
 *
 * Tested by the conformance suite of the task queues, over both adapters.
 */
import { rateOf, tokenDelayMs, tokensAt, type Rate } from "./queue-rate.ts";
import type { QueueLimits, TakeOptions } from "./task-queues.ts";

export interface Delivery {
  /** Where the broker expects what becomes of it. */
  readonly reply: string;
  readonly body: Uint8Array;
  /** From 1. */
  readonly delivery: number;
}

/** Messages of one subject that is shared by all takers. */
export interface Lane {
  /** What is there now, up to `count`. Rejects with `unavailable`. */
  pull(count: number): Promise<readonly Delivery[]>;
  /** Lets the next message be pushed to the lane's `onArrival`. Does nothing while that stands already. */
  ask(): void;
  /** That stands: there is nothing to pull, or it would have come. */
  readonly asked: boolean;
}

export interface LaneEvents {
  readonly onArrival: (delivery: Delivery) => void;
  /** What was asked for ended without a message. */
  readonly onEnded: () => void;
}

export interface QueueTakerDeps {
  readonly leaseMs: number;
  readonly now: () => number;
  readonly limits: () => Promise<QueueLimits>;
  /** `tasks`: one lane for each priority, highest first. */
  readonly openLane: (kind: number | "permits", events: LaneEvents) => Lane;
  readonly priorities: readonly number[];
  /** Until when the rate is used up, as last heard. */
  readonly usedUntil: () => number;
  /** Uses up to `count` of the rate; answers how many it gave. */
  readonly reserve: (rate: Rate, count: number) => Promise<number>;
  readonly extend: (reply: string) => void;
  readonly release: (reply: string, delayMs: number) => void;
}

export interface TakenDelivery {
  readonly task: Delivery;
  readonly permit: Delivery | null;
}

interface Waiter {
  readonly max: number;
  readonly resolve: (taken: readonly TakenDelivery[]) => void;
  readonly reject: (error: Error) => void;
  readonly release: () => void;
  expired: boolean;
}

/** Tasks asked for at once: a longer batch gains nothing. Measured: 50 a batch 88,000/s, 256 131,000/s. */
const batchMax = 256;
/** What was asked for may get lost with a connection that nobody saw break: it is asked for again. */
const standMs = 35_000;

export class QueueTaker {
  readonly #deps: QueueTakerDeps;
  readonly #waiters: Waiter[] = [];
  readonly #lanes: readonly { readonly lane: Lane; readonly spare: Delivery[] }[];
  readonly #permitLane: Lane;
  readonly #permits: Delivery[] = [];
  #running = false;
  #signalled = false;
  #resume: (() => void) | null = null;

  constructor(deps: QueueTakerDeps) {
    this.#deps = deps;
    this.#lanes = deps.priorities.map((priority) => {
      const spare: Delivery[] = [];
      return { spare, lane: deps.openLane(priority, this.#into(spare)) };
    });
    this.#permitLane = deps.openLane("permits", this.#into(this.#permits));
  }

  take({ max, waitMs, signal }: TakeOptions): Promise<readonly TakenDelivery[]> {
    if (signal?.aborted === true) return Promise.resolve([]);
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        waiter.expired = true;
        this.wake();
      }, waitMs);
      const leave = (): void => {
        waiter.release();
        resolve([]);
        this.wake();
      };
      signal?.addEventListener("abort", leave, { once: true });
      const waiter: Waiter = {
        max,
        resolve,
        reject,
        expired: false,
        release: () => {
          clearTimeout(timer);
          signal?.removeEventListener("abort", leave);
          const at = this.#waiters.indexOf(waiter);
          if (at !== -1) this.#waiters.splice(at, 1);
        },
      };
      this.#waiters.push(waiter);
      this.wake();
      this.#start();
    });
  }

  /** Something changed that may let a task through: limits, the rate, the connection. */
  wake(): void {
    if (this.#resume === null) this.#signalled = true;
    else this.#resume();
  }

  /** Ends every wait. */
  fail(error: Error): void {
    for (const waiter of [...this.#waiters]) {
      waiter.release();
      waiter.reject(error);
    }
    this.wake();
  }

  #start(): void {
    if (this.#running) return;
    this.#running = true;
    const ended = (): void => {
      this.#running = false;
      this.#releaseAll();
      // Somebody came while the last round ended.
      if (this.#waiters.length > 0) this.#start();
    };
    this.#rounds().then(ended, (error: unknown) => {
      this.fail(error instanceof Error ? error : new Error(String(error)));
      ended();
    });
  }

  async #rounds(): Promise<void> {
    while (this.#waiters.length > 0) await this.#round();
  }

  async #round(): Promise<void> {
    const deps = this.#deps;
    const limits = await deps.limits();
    const wanted = this.#waiters.reduce((sum, waiter) => sum + waiter.max, 0);
    let quota = Math.min(batchMax, wanted);
    const rate = rateOf(limits);
    if (rate !== null) {
      const now = deps.now();
      quota = Math.min(quota, tokensAt(rate, deps.usedUntil(), now));
      if (quota === 0) return this.#pause(tokenDelayMs(rate, deps.usedUntil(), now));
    }
    if (limits.concurrency === null) this.#releasePermits(0);
    else {
      if (this.#permits.length < quota)
        this.#permits.push(...(await this.#permitLane.pull(quota - this.#permits.length)));
      quota = Math.min(quota, this.#permits.length);
      if (quota === 0) {
        this.#permitLane.ask();
        return this.#pause(standMs);
      }
    }
    const batch = await this.#pull(quota);
    if (batch.length === 0) return this.#pause(standMs);
    if (rate !== null) {
      const granted = await deps.reserve(rate, batch.length);
      const delayMs = tokenDelayMs(rate, deps.usedUntil(), deps.now());
      for (const { reply } of batch.splice(granted)) deps.release(reply, delayMs);
    }
    this.#hand(batch, limits.concurrency !== null);
  }

  /** T2 */
  async #pull(quota: number): Promise<Delivery[]> {
    const batch: Delivery[] = [];
    for (const { lane, spare } of this.#lanes) {
      batch.push(...spare.splice(0, quota - batch.length));
      const wanted = quota - batch.length;
      if (wanted > 0 && !lane.asked) {
        const pulled = await lane.pull(wanted);
        batch.push(...pulled);
        // Asking an empty one again and again beside busier ones would be polling.
        if (pulled.length === 0) lane.ask();
      }
      if (batch.length >= quota) break;
    }
    return batch;
  }

  #hand(batch: Delivery[], limited: boolean): void {
    while (batch.length > 0) {
      const waiter = this.#waiters[0];
      if (waiter === undefined) break;
      waiter.release();
      const taken = batch.splice(0, waiter.max).map((task) => {
        return { task, permit: limited ? (this.#permits.shift() ?? null) : null };
      });
      waiter.resolve(taken);
    }
    for (const { reply } of batch) this.#deps.release(reply, 0);
  }

  /** Until there is news. Who waited long enough is answered first. */
  async #pause(ms: number): Promise<void> {
    for (const waiter of this.#waiters.filter(({ expired }) => expired)) {
      waiter.release();
      waiter.resolve([]);
    }
    if (this.#waiters.length === 0) return;
    // Others may have a use for permits that nobody here waits for any more.
    const wanted = this.#waiters.reduce((sum, waiter) => sum + waiter.max, 0);
    this.#releasePermits(wanted);
    const until = performance.now() + ms;
    while (!this.#signalled && this.#waiters.length > 0) {
      const leftMs = until - performance.now();
      if (leftMs <= 0) break;
      // A permit in hand is a lease like that of a task.
      const untilLeaseMs = this.#permits.length > 0 ? this.#deps.leaseMs / 3 : leftMs;
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, Math.min(leftMs, untilLeaseMs));
        this.#resume = () => {
          clearTimeout(timer);
          this.#signalled = true;
          resolve();
        };
      });
      this.#resume = null;
      for (const { reply } of this.#permits) this.#deps.extend(reply);
    }
    this.#signalled = false;
  }

  #releasePermits(kept: number): void {
    for (const { reply } of this.#permits.splice(kept)) this.#deps.release(reply, 0);
  }

  #into(list: Delivery[]): LaneEvents {
    return {
      onArrival: (delivery) => {
        if (this.#running) {
          list.push(delivery);
          this.wake();
        } else this.#deps.release(delivery.reply, 0);
      },
      onEnded: () => this.wake(),
    };
  }

  /** T1 */
  #releaseAll(): void {
    for (const list of [...this.#lanes.map(({ spare }) => spare), this.#permits])
      for (const { reply } of list.splice(0)) this.#deps.release(reply, 0);
  }
}
