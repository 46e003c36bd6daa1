/** Child process: the projector. */
import { openEventLog } from "@millrace/event-log";
import { startProjector } from "@millrace/projector";
import { serveParent, usage } from "./part.ts";

const [natsUrl = "", namespace = "", path = ""] = process.argv.slice(2);
const log = await openEventLog({ servers: natsUrl, namespace });
const projector = await startProjector({ log, path });

serveParent({ ready: () => true, usage }, async () => {
  await projector.stop();
  await log.close();
});
