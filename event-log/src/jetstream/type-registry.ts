/**
 * The registered workflow types, in a key-value bucket of the broker's.
 *
 * Owns: the watched local copy. Does not own: which types a worker has.
 *
 * I1 The copy is complete before the log is open, and follows the bucket by push.
 * I2 After each reconnect the watch begins anew: a watch of the library's may end with the broker's memory.
 */
import { Kvm, type KV } from "@nats-io/kv";
import type { NatsConnection } from "nats";
import { assertWorkflowType } from "@millrace/schemas";
import type { RegisteredType } from "../event-log.ts";
import { toMillraceError } from "./broker-errors.ts";

export class TypeRegistry {
  readonly #bucket: KV;
  readonly #types = new Map<string, RegisteredType>();
  #watch: { stop(): void } | null = null;
  #closed = false;

  private constructor(bucket: KV) {
    this.#bucket = bucket;
  }

  static async open(connection: NatsConnection, bucket: string, replicas: number): Promise<TypeRegistry> {
    try {
      const registry = new TypeRegistry(await new Kvm(connection).create(bucket, { history: 1, replicas }));
      await registry.watch();
      return registry;
    } catch (error) {
      throw toMillraceError(error, `Opening the registry of workflow types ${bucket}`);
    }
  }

  get(type: string): RegisteredType | null {
    return this.#types.get(type) ?? null;
  }

  async register(types: readonly RegisteredType[]): Promise<void> {
    for (const { type } of types) assertWorkflowType(type);
    try {
      await Promise.all(
        types.map(async (registered) => {
          const text = JSON.stringify(registered);
          if (JSON.stringify(this.#types.get(registered.type)) === text) return;
          await this.#bucket.put(registered.type, text);
          this.#types.set(registered.type, registered);
        }),
      );
    } catch (error) {
      throw toMillraceError(error, `Registering ${types.map(({ type }) => type).join(", ")}`);
    }
  }

  /** Begins the watch anew; resolves when the copy is up to date. */
  async watch(): Promise<void> {
    if (this.#closed) return;
    this.#watch?.stop();
    const entries = await this.#bucket.watch();
    this.#watch = entries;
    await new Promise<void>((resolve) => {
      const follow = async (): Promise<void> => {
        if ((await this.#bucket.status()).values === 0) resolve();
        for await (const entry of entries) {
          if (entry.operation === "PUT") this.#types.set(entry.key, entry.json<RegisteredType>());
          else this.#types.delete(entry.key);
          if (entry.delta === 0) resolve();
        }
      };
      // A watch that ends with its connection is begun anew after the reconnect.
      void follow().then(resolve, () => resolve());
    });
  }

  close(): void {
    this.#closed = true;
    this.#watch?.stop();
  }
}
