/**
 * Runs parts in this process, over one connection to the event log.
 *
 * Owns: the connection, the parts and the order in which they start and stop. Does not own: the broker.
 *
 * I1 A part is started after those that it relies on; when one does not start, the others are stopped again.
 * I2 `stop` closes the door first (stream server), then ends the work (engine), then what follows the log (projector).
 * I3 A part that cannot go on is reported once by `onFailed`; nothing is restarted here.
 *
 * Tested in `dev.e2e.test.ts`.
 */
import { join } from "node:path";
import type { AnyWorkflowDefinition, Millrace } from "@millrace/engine";
import type { EventLog, EventLogOptions } from "@millrace/event-log";
import type { OpenedProjection } from "@millrace/projector";
import { MillraceError } from "@millrace/schemas";
import type { Logger } from "pino";
import type { PayloadKeys } from "../config.ts";
import { stopOrder, type PartName } from "./part-name.ts";

export interface PartsOptions {
  readonly parts: readonly PartName[];
  readonly broker: Pick<EventLogOptions, "servers" | "connection">;
  readonly namespace: string;
  readonly dataDir: string;
  readonly host: string;
  readonly port: number;
  /** The stream server reads the projection; else it has only the broker. */
  readonly projection: boolean;
  /** Other stream servers listen on the port too. */
  readonly sharePort: boolean;
  /** None: the engine hosts nothing, and only drivers move runs. */
  readonly workflows: readonly AnyWorkflowDefinition[];
  /** The engine seals payloads with these; null: it does not. */
  readonly payloadKeys: PayloadKeys | null;
  readonly group: string | undefined;
  readonly leaseMs: number | undefined;
  readonly taskLeaseMs: number | undefined;
  /** As `WorkerOptions.guard`. */
  readonly guard: boolean;
  readonly logger: Logger;
  readonly onFailed: (error: Error) => void;
}

export interface RunningParts {
  /** Address of the stream server; null when it is not among the parts. */
  readonly url: string | null;
  /** `drainMs`: how long running steps may take to end. Idempotent. */
  readonly stop: (drainMs: number) => Promise<void>;
}

interface Context {
  readonly options: PartsOptions;
  readonly log: EventLog;
  readonly millrace: Millrace;
  readonly stops: Map<PartName, (drainMs: number) => Promise<void>>;
  /** The projection that the stream server reads here, for a projector in the same process to push. */
  projection: OpenedProjection | null;
}

/** Where the projector of a namespace keeps its rows. */
export function projectionFile(dataDir: string, namespace: string): string {
  return join(dataDir, `projection-${namespace}.sqlite`);
}

/** Rejects with the errors of the parts, e.g. `port_in_use`, `unavailable`, `native_module_unsupported`. */
export async function startParts(options: PartsOptions): Promise<RunningParts> {
  const { openEventLog } = await import("@millrace/event-log");
  const { aesGcmCodec, connect } = await import("@millrace/engine");
  const { payloadKeys, logger, taskLeaseMs } = options;
  const log = await openEventLog({
    ...options.broker,
    namespace: options.namespace,
    name: `millrace ${options.parts.join(",")}`,
    ...(taskLeaseMs === undefined ? {} : { taskLeaseMs }),
  });
  const payloads = payloadKeys === null ? {} : { codec: aesGcmCodec(payloadKeys) };
  const millrace = await connect({ log, logger, payloads });
  const context: Context = { options, log, millrace, stops: new Map(), projection: null };
  log.onStatus((status) => {
    // What followed the old log has ended or is void: a process that begins anew is simpler to trust than one that mends.
    if (status === "recreated") options.onFailed(recreated(options.namespace));
  });
  let stopping: Promise<void> | null = null;
  const stop = (drainMs: number): Promise<void> => (stopping ??= stopAll(context, drainMs));
  try {
    let url: string | null = null;
    if (options.parts.includes("engine")) await startEngine(context);
    if (options.parts.includes("projector")) await startProjectorPart(context);
    if (options.parts.includes("stream-server")) url = await startDoor(context);
    return { url, stop };
  } catch (error) {
    await stop(0);
    throw error;
  }
}

async function stopAll({ options, log, millrace, stops }: Context, drainMs: number): Promise<void> {
  for (const part of stopOrder) {
    try {
      await stops.get(part)?.(drainMs);
    } catch (error) {
      // The others must still be stopped.
      options.logger.error({ err: error, part }, `Stopping ${part} failed`);
    }
  }
  await millrace.close();
  await log.close();
}

async function startEngine({ options, millrace, stops }: Context): Promise<void> {
  if (options.workflows.length === 0) return;
  const { workflows, guard, group, leaseMs, onFailed } = options;
  const worker = await millrace.worker({
    workflows,
    guard,
    onFailed,
    ...(group === undefined ? {} : { group }),
    ...(leaseMs === undefined ? {} : { leaseMs }),
  });
  stops.set("engine", (drainMs) => worker.drain({ deadlineMs: drainMs }));
}

async function startProjectorPart(context: Context): Promise<void> {
  const { options, log, stops } = context;
  const { startProjector } = await import("@millrace/projector");
  const projector = await startProjector({
    log,
    path: projectionFile(options.dataDir, options.namespace),
    logger: options.logger,
    onAdvance: () => context.projection?.advance(),
    onStatus: (status, error) => {
      options.logger.debug({ status }, `Projector is ${status}`);
      if (status === "failed") options.onFailed(error ?? new Error("The projector failed without a reason."));
    },
  });
  stops.set("projector", () => projector.stop());
}

async function startDoor(context: Context): Promise<string> {
  const { options, log, millrace, stops } = context;
  const { openProjection } = await import("@millrace/projector");
  const { startStreamServer } = await import("@millrace/stream-server");
  const path = projectionFile(options.dataDir, options.namespace);
  const projection = options.projection ? openProjection({ log, path }) : null;
  try {
    const server = await startStreamServer({
      log,
      projection,
      millrace,
      host: options.host,
      port: options.port,
      sharePort: options.sharePort,
      logger: options.logger,
      onLogChanged: options.onFailed,
    });
    context.projection = projection;
    stops.set("stream-server", async (drainMs) => {
      await (drainMs > 0 ? server.drain() : server.close());
      context.projection = null;
      projection?.close();
    });
    return server.url;
  } catch (error) {
    projection?.close();
    throw error;
  }
}

function recreated(namespace: string): MillraceError {
  return new MillraceError(
    "log_recreated",
    `The event log of namespace ${namespace} was created anew while this process followed it. Start it again: ` +
      `the projection is then built from the new log.`,
  );
}
