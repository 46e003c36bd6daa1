/**
 * `dev` and `serve`: broker, parts, ready line, then wait for the end and drain.
 *
 * Owns: the order of starting and stopping. Does not own: when to stop (`stop-requests.ts`), a part, the broker.
 *
 * I1 Nothing that was started is left behind, whichever step of the start fails.
 * I2 Ready is said once, after every part works.
 *
 * Tested in `dev.e2e.test.ts` and `split.e2e.test.ts`.
 */
import type { EventLogOptions } from "@millrace/event-log";
import {
  connectionOptionsFromEnvironment,
  lockDataFolder,
  makeFolder,
  startBroker,
  type Broker,
} from "@millrace/event-log/broker";
import { MillraceError } from "@millrace/schemas";
import type { Logger } from "pino";
import { exitCodes } from "./core/exit-code.ts";
import { programFile, type ServerConfig } from "./config.ts";
import { loadWorkflows } from "./load-workflows.ts";
import type { Output } from "./output.ts";
import { failedMessage, type PartMessage } from "./parts/part-messages.ts";
import { projectionFile, startParts } from "./parts/start-parts.ts";
import { instancesOf, superviseParts } from "./parts/supervise-parts.ts";
import { readyLine, readyValue, type Ready } from "./ready-line.ts";
import { removeServerRecord, writeServerRecord } from "./server-record.ts";
import { listenForStop, type StopRequest, type StopRequests } from "./stop-requests.ts";

/** Beyond what running steps may take: answers in hand, the last commits, and the broker's own 10 s before it is killed. */
const stopMarginMs = 15_000;

interface Session {
  readonly config: ServerConfig;
  readonly output: Output;
  readonly logger: Logger;
  readonly stop: StopRequests;
}

interface Reached {
  readonly broker: Pick<EventLogOptions, "servers" | "connection">;
  /** Null: a broker of the user's. */
  readonly embedded: Broker | null;
  /** Lets go of the broker and of the data folder. */
  readonly release: () => Promise<void>;
}

interface Started {
  readonly url: string | null;
  readonly pids: Readonly<Partial<Record<string, number>>>;
  readonly stop: (drainMs: number) => Promise<void>;
}

/** Resolves after everything has drained; rejects with what could not be started, or what failed while it ran. */
export async function runServer(config: ServerConfig, output: Output, logger: Logger): Promise<void> {
  const session: Session = { config, output, logger, stop: listenForStop(config.supervised) };
  try {
    await serve(session);
  } catch (error) {
    if (!config.supervised) throw error;
    // Whoever supervises says it, once and with the exit code that fits.
    await tellSupervisor(failedMessage(error));
    process.exit(exitCodes.failed);
  }
}

async function serve(session: Session): Promise<void> {
  const { config, output, stop } = session;
  await makeDataFolder(config.dataDir);
  const reached = await reachBroker(session);
  let request: StopRequest;
  try {
    const started = await (config.split ? startSplit(session, reached) : startHere(session, reached));
    try {
      stop.ready();
      await leaveRecord(config.dataDir, reached, started);
      await sayReady(session, reached, started);
      request = await stop.requested;
      endAfter(request.drainMs + stopMarginMs);
      if (!config.supervised) output.talk(`Stopping (${request.reason})`);
    } catch (error) {
      await started.stop(0);
      throw error;
    }
    await started.stop(request.drainMs);
  } finally {
    await reached.release();
  }
  if (request.error !== undefined) throw request.error;
}

/** A drain has a limit too: whatever does not end by then ends with the process. */
function endAfter(limitMs: number): void {
  setTimeout(() => {
    process.stderr.write(`millrace: Not drained within ${limitMs} ms, ending now\n`);
    process.exit(exitCodes.failed);
  }, limitMs).unref();
}

async function makeDataFolder(dataDir: string): Promise<void> {
  try {
    await makeFolder(dataDir);
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new MillraceError(
      "data_folder_not_writable",
      `Cannot make data folder ${dataDir} (${reason}). Choose another one with --data, or correct the permissions.`,
      { cause, details: { dataDir } },
    );
  }
}

async function reachBroker({ config, output, stop }: Session): Promise<Reached> {
  const external = connectionOptionsFromEnvironment(config.environment);
  if (external !== undefined) {
    const { servers, ...connection } = external;
    // A supervisor holds the folder for its parts; a stream server alone only reads in it.
    const writes = !config.supervised && config.parts.includes("projector");
    const lock = writes ? await lockDataFolder(config.dataDir) : null;
    return {
      broker: { servers: servers ?? [], connection },
      embedded: null,
      release: async () => lock?.release(),
    };
  }
  const embedded = await startBroker({
    dataDir: config.dataDir,
    durability: config.durability ?? "default",
    env: config.environment,
    onProgress: output.talk,
    onRestart: output.talk,
    onFailed: stop.fail,
  });
  return {
    broker: { servers: embedded.url },
    embedded,
    release: async () => {
      await removeServerRecord(config.dataDir);
      await embedded.stop();
    },
  };
}

async function startHere({ config, logger, stop }: Session, { broker }: Reached): Promise<Started> {
  const {
    parts,
    namespace,
    dataDir,
    host,
    port,
    sharePort,
    projection,
    payloadKeys,
    group,
    leaseMs,
    taskLeaseMs,
  } = config;
  const workflows = parts.includes("engine") ? await loadWorkflows(config.workflowFiles) : [];
  const running = await startParts({
    parts,
    broker,
    namespace,
    dataDir,
    host,
    port,
    sharePort,
    projection,
    workflows,
    payloadKeys,
    group,
    leaseMs,
    taskLeaseMs,
    guard: config.guard,
    logger,
    onFailed: stop.fail,
  });
  return { ...running, pids: Object.fromEntries(parts.map((part) => [part, process.pid])) };
}

async function startSplit(
  { config, output, logger, stop }: Session,
  { embedded }: Reached,
): Promise<Started> {
  const { namespace, dataDir, host, workflowFiles, group, leaseMs, taskLeaseMs } = config;
  const environment = {
    ...config.environment,
    MILLRACE_LOG: logger.level,
    ...(embedded === null ? {} : { MILLRACE_NATS_URL: embedded.url }),
  };
  const supervised = await superviseParts({
    // A process that hosts nothing would only wait.
    instances: instancesOf(
      config.parts.filter((part) => part !== "engine" || workflowFiles.length > 0),
      config.streamProcesses,
    ),
    port: config.port,
    environment,
    command: (part, port) => ({
      file: process.execPath,
      args: [
        ...process.execArgv,
        programFile,
        "serve",
        "--supervised",
        ...[
          "--parts",
          part,
          "--data",
          dataDir,
          "--namespace",
          namespace,
          "--host",
          host,
          "--port",
          String(port),
        ],
        ...(part === "stream-server" && !config.projection ? ["--no-projection"] : []),
        ...(part === "stream-server" && config.streamProcesses > 1 ? ["--share-port"] : []),
        ...(part === "engine" && workflowFiles.length > 0 ? ["--workflows", ...workflowFiles] : []),
        ...(group === undefined ? [] : ["--group", group]),
        ...(leaseMs === undefined ? [] : ["--lease", String(leaseMs / 1_000)]),
        ...(taskLeaseMs === undefined ? [] : ["--task-lease", String(taskLeaseMs / 1_000)]),
      ],
    }),
    onEnded: (part, reason, delayMs) => {
      output.talk(`Part ${part} ended (${reason}); starting it again in ${delayMs} ms`);
    },
    onRestarted: (part, pid) => {
      output.talk(`Part ${part} is back as process ${pid}`);
      output.value({ restarted: part, pid });
    },
    onFailed: stop.fail,
  });
  return { url: supervised.url, pids: supervised.pids(), stop: supervised.stop };
}

/** Only with a broker of ours: its lock on the data folder makes us the only writer. */
async function leaveRecord(dataDir: string, { embedded }: Reached, { url }: Started): Promise<void> {
  if (embedded === null) return;
  const { url: natsUrl, durability } = embedded;
  const startedAt = new Date().toISOString();
  await writeServerRecord(dataDir, { pid: process.pid, url, natsUrl, durability, startedAt });
}

async function sayReady(
  { config, output }: Session,
  { broker, embedded }: Reached,
  started: Started,
): Promise<void> {
  const ready: Ready = {
    url: started.url,
    natsUrl: embedded?.url ?? shownServers(broker.servers),
    durability: embedded?.durability ?? "external",
    dataDir: config.dataDir,
    namespace: config.namespace,
    projection: projectionFile(config.dataDir, config.namespace),
    parts: { ...(embedded === null ? {} : { broker: embedded.pid }), ...started.pids },
    pid: process.pid,
    examples: config.examples,
  };
  if (config.supervised) return tellSupervisor({ kind: "ready", url: ready.url });
  output.text(readyLine(ready));
  output.value(readyValue(ready));
}

/** Host and port only: what `connectionOptionsFromEnvironment` leaves has no credentials in it. */
function shownServers(servers: string | readonly string[]): string {
  const list = typeof servers === "string" ? [servers] : servers;
  return list.map((server) => (server.includes("://") ? server : `nats://${server}`)).join(",");
}

/** Nothing when this process is not a supervisor's part. */
async function tellSupervisor(message: PartMessage): Promise<void> {
  if (!process.connected) return;
  await new Promise<void>((resolve) => {
    process.send?.(message, undefined, undefined, () => {
      // Sent, or the supervisor is gone: then the end of the channel ends this process.
      resolve();
    });
  });
}
