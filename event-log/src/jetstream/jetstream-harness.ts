import { rm } from "node:fs/promises";
import { join } from "node:path";
import { DiscardPolicy, jetstreamManager } from "@nats-io/jetstream";
import { connect } from "nats";
import { logNames } from "@millrace/schemas";
import type { EventLogHarness } from "../conformance/event-log-harness.ts";
import { startFaultProxy } from "../conformance/fault-proxy.ts";
import { startTestBroker } from "../conformance/test-broker.ts";
import type { EventLog } from "../event-log.ts";
import { openEventLog } from "./open-event-log.ts";

const appendTimeoutMs = 400;

/** A real broker of its own, with a proxy before it that lets appends come to harm. */
export async function createJetStreamHarness(): Promise<EventLogHarness> {
  const broker = await startTestBroker();
  const proxy = await startFaultProxy({
    targetPort: broker.port,
    subjectPrefix: "mr.",
    delayMs: 2 * appendTimeoutMs,
  });
  const opened: EventLog[] = [];
  const servers = `nats://127.0.0.1:${proxy.port}`;

  async function withBroker<T>(
    use: (manager: Awaited<ReturnType<typeof jetstreamManager>>) => Promise<T>,
  ): Promise<T> {
    const connection = await connect({ servers: broker.url });
    try {
      return await use(await jetstreamManager(connection));
    } finally {
      await connection.close();
    }
  }
  async function open(
    namespace: string,
    options: Parameters<EventLogHarness["open"]>[1] = {},
  ): Promise<EventLog> {
    const log = await openEventLog({ servers, namespace, appendTimeoutMs, ...options });
    opened.push(log);
    return log;
  }

  return {
    open,
    async openCapped(namespace, runCommitsMax) {
      const { stream, all } = logNames(namespace);
      await withBroker((manager) =>
        manager.streams.add({
          name: stream,
          subjects: [all],
          discard: DiscardPolicy.New,
          discard_new_per_subject: true,
          max_msgs_per_subject: runCommitsMax,
          allow_direct: true,
          metadata: { "millrace-shards": "64" },
        }),
      );
      return await open(namespace);
    },
    strikeNext: (fault) => proxy.strikeNext(fault),
    kill: () => broker.kill(),
    start: () => broker.start(),
    async backUp() {
      await broker.kill();
      await broker.backUp();
      await broker.start();
    },
    async restore() {
      await broker.kill();
      await broker.restore();
      await broker.start();
    },
    async recreate(namespace) {
      await broker.kill();
      const folder = join(broker.storeDir, "jetstream", "$G", "streams", logNames(namespace).stream);
      await rm(folder, { recursive: true });
      await broker.start();
      await (await open(namespace)).close();
    },
    async stop() {
      await Promise.all(opened.map((log) => log.close()));
      await proxy.close();
      await broker.stop();
    },
  };
}
