/**
 * Limits of queues and how far their rates are used, in a key-value bucket of the broker's.
 *
 * Owns: the watched local copy. Does not own: what a limit means (`queue-taker.ts`).
 *
 * I1 The copy follows the bucket by push; it is complete before it is first asked.
 * I2 Rates move by compare-and-set: of two that reserve at once, one begins anew with what the other stored.
 */
import { Kvm, type KV } from "@nats-io/kv";
import type { NatsConnection } from "nats";
import { MillraceError, taskNames } from "@millrace/schemas";
import { tokensAt, usedUntilAfter, type Rate } from "../queue-rate.ts";
import { noQueueLimits, type QueueLimits } from "../task-queues.ts";
import { toMillraceError } from "./broker-errors.ts";

interface StoredRate {
  readonly usedUntil: number;
  readonly revision: number;
}

/** A rate that conflicts this often is fought over by so many that waiting a little is right. */
const reserveTriesMax = 8;

export class QueueSettings {
  readonly #connection: NatsConnection;
  readonly #namespace: string;
  readonly #replicas: number;
  readonly #onChange: (queue: string) => void;
  readonly #limits = new Map<string, QueueLimits>();
  readonly #rates = new Map<string, StoredRate>();
  #bucket: Promise<KV> | null = null;
  #watch: { stop(): void } | null = null;

  constructor(
    connection: NatsConnection,
    namespace: string,
    replicas: number,
    onChange: (queue: string) => void,
  ) {
    this.#connection = connection;
    this.#namespace = namespace;
    this.#replicas = replicas;
    this.#onChange = onChange;
  }

  async limits(queue: string): Promise<QueueLimits> {
    await this.#open();
    return this.#limits.get(queue) ?? noQueueLimits;
  }

  async limited(): Promise<readonly string[]> {
    await this.#open();
    return [...this.#limits.keys()];
  }

  async setLimits(queue: string, limits: QueueLimits): Promise<void> {
    const bucket = await this.#open();
    try {
      await bucket.put(`${queue}.limits`, JSON.stringify(limits));
    } catch (error) {
      throw toMillraceError(error, `Setting the limits of queue ${queue}`);
    }
    this.#limits.set(queue, limits);
  }

  usedUntil(queue: string): number {
    return this.#rates.get(queue)?.usedUntil ?? 0;
  }

  async reserve(queue: string, rate: Rate, count: number): Promise<number> {
    const bucket = await this.#open();
    const key = `${queue}.rate`;
    for (let tries = 0; tries < reserveTriesMax; tries++) {
      const known = this.#rates.get(queue);
      const now = Date.now();
      const granted = Math.min(count, tokensAt(rate, known?.usedUntil ?? 0, now));
      if (granted === 0) return 0;
      const usedUntil = usedUntilAfter(rate, known?.usedUntil ?? 0, now, granted);
      try {
        const value = JSON.stringify({ usedUntil });
        const revision =
          known === undefined
            ? await bucket.create(key, value)
            : await bucket.update(key, value, known.revision);
        this.#keepRate(queue, { usedUntil, revision });
        return granted;
      } catch (cause) {
        const error = toMillraceError(cause, `Reserving the rate of queue ${queue}`);
        if (error.code !== "conflict") throw error;
        const entry = await bucket.get(key);
        if (entry !== null)
          this.#keepRate(queue, { ...entry.json<{ usedUntil: number }>(), revision: entry.revision });
      }
    }
    return 0;
  }

  /** After a reconnect: the library's watch may have ended with the broker's memory. */
  async reconnected(): Promise<void> {
    if (this.#bucket !== null) await this.#follow(await this.#bucket);
  }

  close(): void {
    this.#watch?.stop();
  }

  #open(): Promise<KV> {
    if (this.#bucket === null) {
      const opening = this.#make();
      this.#bucket = opening;
      opening.catch(() => (this.#bucket = null));
    }
    return this.#bucket;
  }

  async #make(): Promise<KV> {
    const name = taskNames(this.#namespace).limitsBucket;
    try {
      const bucket = await new Kvm(this.#connection).create(name, { history: 1, replicas: this.#replicas });
      await this.#follow(bucket);
      return bucket;
    } catch (error) {
      throw toMillraceError(error, `Opening the limits of the queues ${name}`);
    }
  }

  /** Resolves when the copy is up to date. */
  async #follow(bucket: KV): Promise<void> {
    this.#watch?.stop();
    const entries = await bucket.watch();
    this.#watch = entries;
    const empty = (await bucket.status()).values === 0;
    await new Promise<void>((resolve) => {
      if (empty) resolve();
      const follow = async (): Promise<void> => {
        for await (const entry of entries) {
          const [queue = "", what] = entry.key.split(".");
          if (entry.operation === "PUT" && what === "limits") {
            this.#limits.set(queue, entry.json<QueueLimits>());
            this.#onChange(queue);
          } else if (entry.operation === "PUT" && what === "rate") {
            this.#keepRate(queue, { ...entry.json<{ usedUntil: number }>(), revision: entry.revision });
          }
          if (entry.delta === 0) resolve();
        }
      };
      // A watch that ends with its connection is begun anew after the reconnect.
      void follow().then(resolve, () => resolve());
    });
  }

  /** Pushed entries and our own answers come in any order. */
  #keepRate(queue: string, rate: StoredRate): void {
    if ((this.#rates.get(queue)?.revision ?? 0) < rate.revision) this.#rates.set(queue, rate);
  }
}

/** The broker's buckets take a subset of characters in keys; step names have any. */
export function keyToken(text: string): string {
  return Buffer.from(text, "utf8").toString("base64url");
}

export function unavailableQueues(namespace: string): MillraceError {
  return new MillraceError(
    "unavailable",
    `The broker of namespace ${namespace} is not reachable: no task can be taken now. Try again.`,
  );
}
