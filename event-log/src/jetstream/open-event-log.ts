import { connect, type ConnectionOptions, type NatsConnection } from "nats";
import { jetstream, jetstreamManager } from "@nats-io/jetstream";
import { assertNamespace, logNames, MillraceError } from "@millrace/schemas";
import { assertBrokerVersion } from "../broker/broker-version.ts";
import { brokerAuthError } from "../broker/connection-options.ts";
import type { EventLog } from "../event-log.ts";
import { toMillraceError } from "./broker-errors.ts";
import { BlobStream } from "./blob-stream.ts";
import { JetStreamLog } from "./jetstream-log.ts";
import { openStream } from "./open-stream.ts";
import { TypeRegistry } from "./type-registry.ts";

export interface EventLogOptions {
  /** `nats://HOST:PORT`, or several of one cluster. */
  readonly servers: string | readonly string[];
  /** `[A-Za-z0-9_-]{1,32}`. Default `default`. */
  readonly namespace?: string;
  /** Credentials, TLS and the like for the connection; what Millrace depends on is not overridden by it. */
  readonly connection?: Omit<ConnectionOptions, "servers">;
  /** Part of the epoch: change it to make every client's cursor void. Default `""`. */
  readonly generation?: string;
  /** Appends under way at once. Default 1,024. */
  readonly inFlightMax?: number;
  /** Appends that wait for a place beyond those; one more is `overloaded`. Default 16,384. */
  readonly queuedMax?: number;
  /** Wait for one answer of the broker, in milliseconds. Default 5,000. */
  readonly appendTimeoutMs?: number;
  /** Time for all attempts of one append, in milliseconds: long enough for a broker's restart. Default 30,000. */
  readonly appendBudgetMs?: number;
  /** Replicas of the log when it is made here. Default 1. */
  readonly replicas?: number;
  /** Size limit of the log when it is made here, in bytes; -1 is none. Default -1. */
  readonly bytesMax?: number;
  /**
   * How long a taken task is left alone without a word, in milliseconds. The same in every process of a namespace: the
   * broker keeps one for each queue, that of whoever came last. Default 30,000.
   */
  readonly taskLeaseMs?: number;
  /** Name of the connection in the broker's monitoring. Default `millrace`. */
  readonly name?: string;
}

/** Wait between two attempts to reconnect: short, since a restarted broker is back within a second. */
const reconnectWaitMs = 200;
const reconnectJitterMs = 100;
/** The library's 2 minutes would let a dead connection pass for a live one that long. */
const pingIntervalMs = 15_000;

/**
 * Connects to the broker and opens the namespace's event log, making it when it does not exist.
 *
 * Rejects with `broker_version_unsupported` (older than the required version), `broker_auth_failed`, `unavailable`
 * (cannot be reached now), `broker_start_failed` (runs without JetStream), `invalid_request` (a stream of that name is
 * no event log of ours).
 *
 * @example
 * const log = await openEventLog({ servers: broker.url, namespace: "shop" });
 */
export async function openEventLog(options: EventLogOptions): Promise<EventLog> {
  const namespace = options.namespace ?? "default";
  assertNamespace(namespace);
  const servers = typeof options.servers === "string" ? [options.servers] : [...options.servers];
  const connection = await open(servers, options);
  try {
    const { version = "unknown", jetstream: enabled } = connection.info ?? {};
    assertBrokerVersion(version, servers.join(", "));
    if (enabled !== true) {
      throw new MillraceError(
        "broker_start_failed",
        `The broker at ${servers.join(", ")} runs without JetStream. Start nats-server with "-js" or a jetstream block.`,
      );
    }
    const attempt = `Opening the event log of namespace ${namespace}`;
    const manager = await jetstreamManager(connection).catch((error: unknown) => {
      throw toMillraceError(error, attempt);
    });
    const replicas = options.replicas ?? 1;
    const stream = await openStream(manager, namespace, { replicas, bytesMax: options.bytesMax ?? -1 });
    const registry = await TypeRegistry.open(connection, logNames(namespace).registryBucket, replicas);
    const client = jetstream(connection);
    return new JetStreamLog({
      connection,
      manager,
      client,
      registry,
      blobs: new BlobStream({ manager, client, namespace, replicas }),
      replicas,
      stream,
      namespace,
      generation: options.generation ?? "",
      inFlightMax: options.inFlightMax ?? 1_024,
      queuedMax: options.queuedMax ?? 16_384,
      appendTimeoutMs: options.appendTimeoutMs ?? 5_000,
      appendBudgetMs: options.appendBudgetMs ?? 30_000,
      taskLeaseMs: options.taskLeaseMs ?? 30_000,
    });
  } catch (error) {
    await connection.close();
    throw error;
  }
}

async function open(servers: string[], options: EventLogOptions): Promise<NatsConnection> {
  try {
    return await connect({
      name: options.name ?? "millrace",
      ...options.connection,
      servers,
      // The default of 10 attempts would end a process that could go on after a long outage.
      maxReconnectAttempts: -1,
      reconnectTimeWait: reconnectWaitMs,
      reconnectJitter: reconnectJitterMs,
      reconnectJitterTLS: reconnectJitterMs,
      pingInterval: pingIntervalMs,
    });
  } catch (error) {
    throw (
      brokerAuthError(error, servers) ??
      toMillraceError(error, `Connecting to the broker at ${servers.join(", ")}`)
    );
  }
}
