/** Child process: projector and stream server on one log. Tells its port and its CPU time over the IPC channel. */
import { join } from "node:path";
import { connect } from "@millrace/engine";
import { openEventLog } from "@millrace/event-log";
import { openProjection, startProjector } from "@millrace/projector";
import { startStreamServer } from "@millrace/stream-server";

const [natsUrl = "", namespace = "", folder = ""] = process.argv.slice(2);
const log = await openEventLog({ servers: natsUrl, namespace });
const path = join(folder, `${namespace}.sqlite`);
const projector = await startProjector({ log, path });
const projection = openProjection({ path, log });
const millrace = await connect({ log });
const server = await startStreamServer({ log, projection, millrace, port: 0 });
process.send?.({ port: server.port });

async function stop(): Promise<void> {
  await server.close();
  projection.close();
  await projector.stop();
  await millrace.close();
  await log.close();
  process.disconnect();
}

process.on("message", (message) => {
  if (message === "cpu") process.send?.({ cpu: process.cpuUsage() });
  if (message !== "stop") return;
  stop().catch((error: unknown) => {
    process.stderr.write(`${String(error)}\n`);
    process.exit(1);
  });
});
