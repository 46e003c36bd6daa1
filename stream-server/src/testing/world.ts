import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { connect, type Millrace } from "@millrace/engine";
import { createMemoryLog, createMemoryServer, type EventLog, type MemoryServer } from "@millrace/event-log";
import { openProjection, startProjector, type OpenedProjection, type Projector } from "@millrace/projector";
import type { WorkflowEvent } from "@millrace/schemas";
import { startStreamServer, type StreamServer, type StreamServerOptions } from "../start-stream-server.ts";
import { StreamClient } from "./stream-client.ts";

export interface World {
  readonly log: EventLog;
  readonly path: string;
  readonly projection: OpenedProjection;
  readonly millrace: Millrace;
  readonly server: StreamServer;
  /** For tests that stop and start it. */
  readonly projector: { stop(): Promise<void>; start(): Promise<void> };
  /** Another stream server on the same log and projection. */
  startServer(options?: Partial<StreamServerOptions>): Promise<StreamServer>;
  /** Appends one commit without an engine. */
  append(workflowId: string, type: string, events: readonly WorkflowEvent[]): Promise<number>;
  client(server?: StreamServer): Promise<StreamClient>;
  close(): Promise<void>;
}

export interface WorldOptions {
  readonly log?: EventLog;
  readonly server?: Partial<StreamServerOptions>;
  /** Default true. */
  readonly project?: boolean;
}

export function memoryWorld(options: WorldOptions = {}): Promise<World> & { readonly broker: MemoryServer } {
  const broker = createMemoryServer();
  const world = startWorld({ log: createMemoryLog({ server: broker, appendBudgetMs: 2_000 }), ...options });
  return Object.assign(world, { broker });
}

/** Log, projector, engine and stream server in this process, in a folder of their own. */
export async function startWorld(options: WorldOptions & { readonly log?: EventLog }): Promise<World> {
  const log = options.log ?? createMemoryLog();
  const folder = await mkdtemp(join(tmpdir(), "millrace-stream-"));
  const path = join(folder, "projection.sqlite");
  const projection = openProjection({ path, log });
  let running: Projector | null = null;
  const projector = {
    async start() {
      running ??= await startProjector({ log, path, onAdvance: () => projection.advance() });
    },
    async stop() {
      await running?.stop();
      running = null;
    },
  };
  if (options.project !== false) await projector.start();
  const millrace = await connect({ log });
  const servers: StreamServer[] = [];
  const clients: StreamClient[] = [];
  const startServer = async (more: Partial<StreamServerOptions> = {}) => {
    const { settings, ...rest } = { ...options.server, ...more };
    const server = await startStreamServer({
      log,
      projection,
      millrace,
      port: 0,
      ...rest,
      settings: { tickMs: 20, ...options.server?.settings, ...settings },
    });
    servers.push(server);
    return server;
  };
  const server = await startServer();
  let commits = 0;
  return {
    log,
    path,
    projection,
    millrace,
    server,
    projector,
    startServer,
    async append(workflowId, type, events) {
      const commitId = `01${String(++commits).padStart(24, "0")}`;
      const { sequence } = await log.append({
        commitId,
        workflowId,
        type,
        expected: events[0]?.type === "WorkflowStarted" ? "new" : "any",
        events,
      });
      return sequence;
    },
    async client(target = server) {
      const client = await StreamClient.open(target.url);
      clients.push(client);
      return client;
    },
    async close() {
      for (const client of clients) client.cut();
      await Promise.all(servers.map((each) => each.close()));
      await millrace.close();
      await projector.stop();
      projection.close();
      await log.close();
      await rm(folder, { recursive: true, force: true });
    },
  };
}

export const started = (input: unknown = null, plan: string[] = []): WorkflowEvent => ({
  type: "WorkflowStarted",
  data: { version: "1", input, driver: "external", plan },
});
export const stepCompleted = (name: string, output: unknown = null): WorkflowEvent => ({
  type: "StepCompleted",
  data: { name, occurrence: 1, attempt: 1, output },
});
export const progress = (message: string): WorkflowEvent => ({ type: "ProgressReported", data: { message } });
export const completed = (output: unknown = null): WorkflowEvent => ({
  type: "WorkflowCompleted",
  data: { output },
});
