import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openEventLog, type EventLog } from "@millrace/event-log";
import { startBroker } from "@millrace/event-log/broker";
import { describeEnginePayloads } from "./conformance/describe-engine-payloads.ts";

describeEnginePayloads("JetStream", async () => {
  const dataDir = mkdtempSync(join(tmpdir(), "millrace-payloads-"));
  const broker = await startBroker({ dataDir });
  const opened: EventLog[] = [];
  return {
    async open(namespace) {
      const log = await openEventLog({ servers: broker.url, namespace });
      opened.push(log);
      return log;
    },
    async stop() {
      await Promise.all(opened.map((log) => log.close()));
      await broker.stop();
      rmSync(dataDir, { recursive: true, force: true });
    },
  };
});
