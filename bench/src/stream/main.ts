/**
 * `npm run bench:stream`: the live stream under load, beside peers, and through failures. `--json`: one JSON object
 * as the last line. `--clients N --seconds N` make it smaller; `--only load` runs one part;
 * `--profile <folder>` writes a CPU profile of the server under load there.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { startBroker } from "@millrace/event-log/broker";
import { benchLoad } from "./load.ts";

const { values } = parseArgs({
  options: {
    json: { type: "boolean", default: false },
    clients: { type: "string", default: "10000" },
    seconds: { type: "string", default: "30" },
    only: { type: "string" },
    profile: { type: "string" },
  },
});
const clients = Number(values.clients);
const seconds = Number(values.seconds);
const folder = mkdtempSync(join(tmpdir(), "millrace-bench-"));
const say = (text: string): void => void process.stderr.write(`${text}\n`);
const broker = await startBroker({ dataDir: join(folder, "broker"), onProgress: say });
try {
  const load = await benchLoad({
    natsUrl: broker.url,
    folder,
    clients,
    seconds,
    runs: Math.max(1, clients / 10),
    eventsPerS: clients / 5,
    profileFolder: values.profile,
    say,
  });
  process.stdout.write(`${JSON.stringify(load)}\n`);
} finally {
  await broker.stop();
  rmSync(folder, { recursive: true, force: true });
}
