import { hostname } from "node:os";
import type { EventLog } from "@millrace/event-log";
import type { Millrace } from "@millrace/engine";
import type { Projection } from "@millrace/projector";
import { limits, MillraceError, streamDefaults } from "@millrace/schemas";
import { seamLimits } from "./core/seam.ts";
import { fleetRoutes } from "./http/fleet-routes.ts";
import { operatorRoutes } from "./http/operator-routes.ts";
import { payloadRoutes } from "./http/payload-routes.ts";
import { createRouter } from "./http/router.ts";
import { scheduleRoutes } from "./http/schedule-routes.ts";
import { serviceRoutes } from "./http/service-routes.ts";
import { taskRoutes } from "./http/task-routes.ts";
import { workflowRoutes } from "./http/workflow-routes.ts";
import { silentLogger, type StreamServerLogger } from "./logger.ts";
import { addOperatorGauges } from "./operator-gauges.ts";
import type { HubSettings } from "./hub-settings.ts";
import { StreamHub } from "./stream-hub.ts";
import { loadUws } from "./uws/load-uws.ts";
import { listenUws } from "./uws/uws-server.ts";

export interface StreamServerOptions {
  readonly log: EventLog;
  /**
   * The read model of this node. Null: old history is read from the broker, states are folded from the histories of
   * the runs that a filter names, and what needs rows (snapshots, lists, `GET /v1/workflows/{id}`) is refused with
   * `projection_missing`.
   */
  readonly projection: Projection | null;
  /** Carries out what the HTTP API asks for. */
  readonly millrace: Millrace;
  /** Address to bind to. Default `127.0.0.1`. */
  readonly host?: string;
  /** Default 8001; 0 takes a free one. */
  readonly port?: number;
  /**
   * Share the port with other processes that say so too (SO_REUSEPORT): the kernel spreads new connections over them.
   * Default false: a port that is taken is `port_in_use`.
   */
  readonly sharePort?: boolean;
  /** Name of this process in `welcome`. Default `<host name>-<pid>`. */
  readonly node?: string;
  readonly logger?: StreamServerLogger;
  /** Overrides of limits and intervals; see {@link streamServerDefaults}. */
  readonly settings?: Partial<StreamServerSettings>;
  /**
   * The event log was made anew under this process: all subscriptions are being ended, and the process must be
   * started again with a fresh connection to the log. Default: only a log line.
   */
  readonly onLogChanged?: (error: Error) => void;
}

export interface StreamServerSettings extends Omit<HubSettings, "node"> {
  /** `/readyz` is 503 when the projector is further behind, in commits. */
  readonly readyLagMax: number;
  /** Polls for tasks that may wait here. */
  readonly waitingPollsMax: number;
  /** What `drain` gives the requests in hand, in milliseconds. */
  readonly drainGraceMs: number;
}

export const streamServerDefaults: StreamServerSettings = {
  ...seamLimits,
  heartbeatMs: streamDefaults.heartbeatMs,
  helloTimeoutMs: streamDefaults.helloTimeoutMs,
  stuckMs: 60_000,
  bufferedBytesMax: 256 * 1_048_576,
  memoryBytesMax: 640 * 1_048_576,
  // A page is read and encoded in about a millisecond: this leaves half of a core to live traffic.
  deepPerSecond: 500,
  deepBurst: 1_000,
  deepWaitingMax: 20_000,
  // An upgrade costs some 50 microseconds without TLS and ten times that with it.
  connectionsPerSecond: 2_500,
  connectionsBurst: 5_000,
  // Below the usual limit of 20,000 descriptors, with room for files and HTTP.
  connectionsMax: 19_000,
  subscriptionsPerSocket: limits.subscriptionsPerSocket,
  // Each is a read transaction and a handle; a few at once fill the processor, and the rest wait their turn.
  snapshotsMax: 16,
  snapshotsWaitingMax: 10_000,
  // At full write speed the log beside the projection grows by some hundred megabytes in this time.
  snapshotMs: 30_000,
  projectorWaitMs: 2_000,
  goneSpreadMs: 10_000,
  tickMs: 250,
  readyLagMax: 10_000,
  waitingPollsMax: limits.waitingPolls,
  drainGraceMs: 5_000,
};

export interface StreamServer {
  /** `http://host:port`. */
  readonly url: string;
  readonly port: number;
  /**
   * Takes no more connections, tells every client to go elsewhere (`bye` 4000), answers the requests in hand, closes.
   * Idempotent.
   */
  drain(): Promise<void>;
  /** Closes at once. Clients see a broken connection and resume from their cursors. Idempotent. */
  close(): Promise<void>;
}

/**
 * Starts the HTTP API and the live stream on one port. Closes none of what it was given.
 *
 * Rejects with `unavailable` (the broker does not answer), `port_in_use`, `native_module_unsupported`, `invalid_request` (settings that cannot be kept).
 *
 * @example
 * const server = await startStreamServer({ log, projection, millrace, port: 8001 });
 * process.once("SIGTERM", () => void server.drain());
 */
export async function startStreamServer(options: StreamServerOptions): Promise<StreamServer> {
  const { log, millrace, host = "127.0.0.1", port = 8001 } = options;
  const settings = {
    ...streamServerDefaults,
    ...options.settings,
    node: options.node ?? `${hostname()}-${process.pid}`,
  };
  if (settings.memoryBytesMax <= settings.bytesMax) {
    throw new MillraceError(
      "invalid_request",
      `Stream server not started: memoryBytesMax is ${settings.memoryBytesMax}, and the ring alone may take ${settings.bytesMax} (bytesMax). Give more, or make the ring smaller.`,
      { details: { limit: settings.memoryBytesMax, actual: settings.bytesMax } },
    );
  }
  const uws = await loadUws();
  const hub = await StreamHub.start({
    log,
    projection: options.projection,
    settings,
    logger: options.logger ?? silentLogger,
    onLogChanged: options.onLogChanged ?? (() => undefined),
  });
  try {
    const leaving = new AbortController();
    addOperatorGauges({
      registry: hub.metrics.registry,
      log,
      millrace,
      projection: options.projection,
      head: () => hub.seam.head,
    });
    const { projection } = hub;
    const parts = {
      millrace,
      projection,
      projectorWaitMs: settings.projectorWaitMs,
      assertAccepting() {
        if (hub.draining)
          throw new MillraceError("draining", "This server is going away. Send the request again.");
      },
    };
    let inHand = 0;
    let idle = (): void => undefined;
    const api = [
      ...workflowRoutes(parts),
      ...operatorRoutes(parts),
      ...scheduleRoutes(parts),
      ...fleetRoutes(millrace),
      ...payloadRoutes(log.blobs),
      ...taskRoutes({ ...parts, leaving: leaving.signal, waitingPollsMax: settings.waitingPollsMax }),
    ];
    const answer = createRouter([...api, ...serviceRoutes(hub, settings.readyLagMax, api)]);
    const server = await listenUws({
      uws,
      hub,
      host,
      port,
      sharePort: options.sharePort === true,
      async route(request) {
        inHand++;
        try {
          return await answer(request);
        } finally {
          inHand--;
          if (inHand === 0) idle();
        }
      },
    });
    let closing: Promise<void> | null = null;
    const close = (): Promise<void> => {
      closing ??= (async () => {
        leaving.abort();
        server.close();
        await hub.stop();
      })();
      return closing;
    };
    let draining: Promise<void> | null = null;
    const drain = (): Promise<void> => {
      draining ??= (async () => {
        server.stopListening();
        hub.drain();
        leaving.abort();
        if (inHand > 0) {
          await new Promise<void>((resolve) => {
            const late = setTimeout(resolve, settings.drainGraceMs);
            idle = () => {
              clearTimeout(late);
              // The answer is written in the turn that follows.
              setImmediate(resolve);
            };
          });
        }
        await close();
      })();
      return draining;
    };
    return {
      url: `http://${host.includes(":") ? `[${host}]` : host}:${server.port}`,
      port: server.port,
      drain,
      close,
    };
  } catch (error) {
    await hub.stop();
    throw error;
  }
}
