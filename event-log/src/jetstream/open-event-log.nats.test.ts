import { createServer, type Socket } from "node:net";
import { DiscardPolicy, jetstreamManager } from "@nats-io/jetstream";
import { connect } from "nats";
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { logNames } from "@millrace/schemas";
import { startOf } from "../conformance/sample-append.ts";
import { startTestBroker, type TestBroker } from "../conformance/test-broker.ts";
import { openEventLog } from "./open-event-log.ts";

let broker: TestBroker;
beforeAll(async () => {
  broker = await startTestBroker();
});
afterAll(async () => {
  await broker.stop();
});

/** Something on a port that greets as a broker would. */
async function greeting(lines: string, use: (url: string) => Promise<void>): Promise<void> {
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on("error", () => socket.destroy());
    socket.on("data", (data) => {
      if (lines.includes("-ERR")) socket.end("-ERR 'Authorization Violation'\r\n");
      else if (data.includes("PING")) socket.write("PONG\r\n");
    });
    socket.write(lines.replace(/-ERR.*$/, ""));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = server.address();
  try {
    if (address === null || typeof address === "string") throw new Error("no port");
    await use(`nats://127.0.0.1:${address.port}`);
  } finally {
    for (const socket of sockets) socket.destroy();
    await new Promise((resolve) => server.close(resolve));
  }
}
const info = (version: string, jetstream: boolean): string =>
  `INFO ${JSON.stringify({ server_id: "A", version, proto: 1, headers: true, max_payload: 1_048_576, jetstream })}\r\n`;

test("a broker that is too old is refused with found and required version", async () => {
  await greeting(info("2.13.9", true), async (servers) => {
    await expect(openEventLog({ servers })).rejects.toMatchObject({
      code: "broker_version_unsupported",
      details: { found: "2.13.9", required: "2.14.0" },
    });
  });
});

test("a broker without JetStream is refused", async () => {
  await greeting(info("2.15.1", false), async (servers) => {
    await expect(openEventLog({ servers })).rejects.toMatchObject({ code: "broker_start_failed" });
  });
});

test("wrong credentials are told from a broker that is away", async () => {
  await greeting(`${info("2.15.1", true)}-ERR`, async (servers) => {
    await expect(openEventLog({ servers })).rejects.toMatchObject({
      code: "broker_auth_failed",
      retryable: false,
    });
  });
  await greeting("", async (gone) => {
    const port = Number(new URL(gone).port);
    await expect(openEventLog({ servers: `127.0.0.1:${port === 1 ? 2 : 1}` })).rejects.toMatchObject({
      code: "unavailable",
      retryable: true,
    });
  });
});

test("a stream that would lose commits is no event log", async () => {
  const { stream, all } = logNames("foreign");
  const connection = await connect({ servers: broker.url });
  const manager = await jetstreamManager(connection);
  await manager.streams.add({
    name: stream,
    subjects: [all],
    discard: DiscardPolicy.Old,
    metadata: { "millrace-shards": "64" },
  });
  await expect(openEventLog({ servers: broker.url, namespace: "foreign" })).rejects.toMatchObject({
    code: "invalid_request",
    message: expect.stringContaining(`discards "old"`) as string,
  });
  await connection.close();
});

test("a log that is made has the settings that it needs, whoever of many makes it", async () => {
  const logs = await Promise.all(
    [1, 2, 3, 4].map(() => openEventLog({ servers: broker.url, namespace: "made" })),
  );
  const created = await Promise.all(logs.map(async (log) => (await log.info()).created));
  expect(new Set(created).size).toBe(1);
  const connection = await connect({ servers: broker.url });
  const { config } = await (await jetstreamManager(connection)).streams.info(logNames("made").stream);
  expect(config).toMatchObject({
    subjects: ["mr.made.>"],
    storage: "file",
    retention: "limits",
    discard: "new",
    discard_new_per_subject: true,
    max_msgs_per_subject: 1_000_000,
    max_age: 0,
    allow_direct: true,
    deny_delete: true,
    metadata: { "millrace-shards": "64" },
  });
  await connection.close();
  await Promise.all(logs.map((log) => log.close()));
});

test("I2 of the publisher: the window and its queue are bounded", async () => {
  const log = await openEventLog({ servers: broker.url, namespace: "bounded", inFlightMax: 4, queuedMax: 8 });
  const appends = await Promise.allSettled(
    Array.from({ length: 40 }, (_, index) => log.append(startOf(`order-${index}`))),
  );
  const refused = appends.flatMap((append) =>
    append.status === "rejected" ? [append.reason as { code: string }] : [],
  );
  expect(refused).toHaveLength(40 - 12);
  expect(refused[0]).toMatchObject({ code: "overloaded", retryable: true, details: { limit: 8 } });
  expect(await log.append(startOf("later"))).toMatchObject({ sequence: 13 });
  await log.close();
});

test("a log whose broker limit is reached says that it is full", async () => {
  const log = await openEventLog({ servers: broker.url, namespace: "full", bytesMax: 20_000 });
  let stored = 0;
  const full = await vi.waitFor(
    async () => {
      for (;;) {
        const error = await log
          .append(startOf(`order-${stored}`))
          .catch((thrown: unknown) => thrown as { code: string });
        if ("code" in error) return error;
        stored++;
      }
    },
    { timeout: 20_000 },
  );
  expect(full).toMatchObject({ code: "log_full" });
  expect(stored).toBeGreaterThan(20);
  expect(await log.load("order-0"), "a full log loses nothing").toHaveLength(1);
  await log.close();
});

test("where the log's beginning was archived, a follower is refused or begins with the first commit kept", async () => {
  const log = await openEventLog({ servers: broker.url, namespace: "archived" });
  for (let index = 0; index < 10; index++) await log.append(startOf(`order-${index}`));
  const { created } = await log.info();
  const commitId = (await log.read(3))?.commitId ?? "";
  const connection = await connect({ servers: broker.url });
  await (await jetstreamManager(connection)).streams.purge(logNames("archived").stream, { seq: 6 });
  await connection.close();

  expect(await log.info()).toMatchObject({ firstSequence: 6, lastSequence: 10 });
  expect(await log.verify({ sequence: 3, commitId, streamCreated: created })).toBe("expired");
  await expect(log.follow({ after: 4, onCommit: () => undefined })).rejects.toMatchObject({
    code: "cursor_expired",
    details: { after: 4, first: 6 },
  });
  for (const after of [0, 5]) {
    const delivered: number[] = [];
    const follower = await log.follow({ after, onCommit: ({ sequence }) => void delivered.push(sequence) });
    await vi.waitFor(() => expect(delivered).toEqual([6, 7, 8, 9, 10]), { timeout: 20_000 });
    await follower.stop();
  }
  await log.close();
});
