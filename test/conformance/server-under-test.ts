/** A whole server on a broker of its own, in a folder of its own, with what takes seconds in production taking less. */
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { connect } from "@millrace/engine";
import { openEventLog } from "@millrace/event-log";
import { startBroker } from "@millrace/event-log/broker";
import { openProjection, startProjector } from "@millrace/projector";
import { jetstreamManager } from "@nats-io/jetstream";
import { connect as connectToBroker } from "nats";
import { startStreamServer } from "@millrace/stream-server";
import { temporaryFolder } from "../e2e/temporary-folder.ts";
import type { Target } from "./kit.ts";

export interface ServerUnderTest extends Target {
  stop(): Promise<void>;
}

export async function startServerUnderTest(): Promise<ServerUnderTest> {
  const folder = await temporaryFolder();
  const broker = await startBroker({ dataDir: join(folder.path, "broker") });
  const log = await openEventLog({ servers: broker.url, namespace: "conformance" });
  const path = join(folder.path, "projection.sqlite");
  const projection = openProjection({ path, log });
  const projector = await startProjector({ log, path, onAdvance: () => projection.advance() });
  const millrace = await connect({ log });
  // So that there are cursors whose next events have expired.
  let first = 0;
  for (const id of ["expired-1", "expired-2", "kept"])
    first = (await millrace.startByType("old", null, { id, driver: "external" })).sequence;
  await projection.waitFor(first, 10_000);
  const connection = await connectToBroker({ servers: broker.url });
  await (await jetstreamManager(connection)).streams.purge("MILLRACE_conformance", { seq: first });
  await connection.close();
  const settings = { heartbeatMs: 400, helloTimeoutMs: 1_000, tickMs: 20 };
  const server = await startStreamServer({ log, projection, millrace, port: 0, settings });
  return {
    url: server.url.replace("http", "ws"),
    http: server.url,
    async stop() {
      await server.close();
      await millrace.close();
      await projector.stop();
      projection.close();
      await log.close();
      await broker.stop();
      await rm(folder.path, { recursive: true, force: true });
    },
  };
}
