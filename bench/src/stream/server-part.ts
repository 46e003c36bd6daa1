/** Child process: the stream server alone, on the real log and the projector's file. */
import { connect } from "@millrace/engine";
import { openEventLog } from "@millrace/event-log";
import { openProjection } from "@millrace/projector";
import { startStreamServer, type StreamServerSettings } from "@millrace/stream-server";
import { serveParent, usage } from "./part.ts";

export interface ServerPartOptions {
  readonly natsUrl: string;
  readonly namespace: string;
  readonly path: string;
  readonly port: number;
  readonly settings?: Partial<StreamServerSettings>;
}

const { natsUrl, namespace, path, port, settings } = JSON.parse(process.argv[2] ?? "{}") as ServerPartOptions;
const log = await openEventLog({ servers: natsUrl, namespace });
const projection = openProjection({ path, log });
const millrace = await connect({ log });
const server = await startStreamServer({
  log,
  projection,
  millrace,
  port,
  ...(settings === undefined ? {} : { settings }),
});

serveParent({ port: () => server.port, usage }, async () => {
  await server.close();
  projection.close();
  await millrace.close();
  await log.close();
});
