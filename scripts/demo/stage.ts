import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { connect, type Millrace } from "@millrace/engine";
import { openEventLog, type EventLog } from "@millrace/event-log";
import { openProjection, type Projection } from "@millrace/projector";
import type { ChangeSignal } from "./change-signal.ts";
import { startCuttingProxy, type CuttingProxy } from "./cutting-proxy.ts";
import { followStream, type StreamFollower } from "./follow-stream.ts";
import { startServerProcesses, type ServerProcesses } from "./server-processes.ts";

/** All that runs while the demo does. */
export interface Stage {
  readonly server: ServerProcesses;
  readonly log: EventLog;
  readonly millrace: Millrace;
  /** The projector's file, opened to be read. */
  readonly projection: Projection;
  readonly proxy: CuttingProxy;
  /** Follows everything, straight from the stream server. */
  readonly direct: StreamFollower;
  /** Follows everything through the proxy. */
  readonly cut: StreamFollower;
}

export interface StageOptions {
  readonly folder: string;
  readonly change: ChangeSignal;
  /** What was started is pushed here, to be closed in the opposite order, whether the rest starts or not. */
  readonly closers: (() => unknown)[];
  readonly onStarting: (line: string) => void;
  /** The processes ended by themselves. */
  readonly onFailed: (error: Error) => void;
  readonly signal: AbortSignal;
}

/** Starts the parts as processes, and the demo's own connections to them. */
export async function setStage(options: StageOptions): Promise<Stage> {
  const { folder, change, closers, onStarting, onFailed, signal } = options;
  const onChange = (): void => change.changed();
  const server = await startServerProcesses({
    dataDir: join(folder, "data"),
    workflowFile: fileURLToPath(new URL("./ingest.js", import.meta.url)),
    logFile: join(folder, "server.log"),
    onStarting,
    onFailed,
    signal,
  });
  closers.push(() => server.stop());
  const { url, natsUrl, namespace, projection: path } = server.ready;
  const log = await openEventLog({ servers: natsUrl, namespace, name: "demo" });
  closers.push(() => log.close());
  const millrace = await connect({ log });
  closers.push(() => millrace.close());
  const projection = openProjection({ log, path });
  closers.push(() => projection.close());
  const { hostname, port } = new URL(url);
  const proxy = await startCuttingProxy({ host: hostname, port: Number(port) }, onChange);
  closers.push(() => proxy.close());
  const direct = followStream("direct", url, onChange);
  closers.push(() => direct.close());
  const cut = followStream("cut", `http://${proxy.address}`, onChange);
  closers.push(() => cut.close());
  return { server, log, millrace, projection, proxy, direct, cut };
}
