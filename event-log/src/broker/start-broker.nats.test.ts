import { mkdtemp, readFile, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { jetstream, jetstreamManager } from "@nats-io/jetstream";
import type { NatsConnection } from "nats";
import { connect } from "nats";
import { beforeAll, beforeEach, describe, expect, onTestFinished, test } from "vitest";
import type { Broker, BrokerOptions } from "./broker.ts";
import { isBrokerVersionSupported } from "./broker-version.ts";
import { findBroker } from "./find-broker.ts";
import { runCompiled } from "./run-compiled.ts";
import { startBroker } from "./start-broker.ts";

let program: string;
let dataDir: string;
beforeAll(async () => {
  program = (await findBroker()).path;
});
beforeEach(async () => {
  dataDir = await mkdtemp(join(tmpdir(), "millrace-broker-"));
});

async function started(options: Partial<BrokerOptions> = {}): Promise<Broker> {
  const broker = await startBroker({ dataDir, ...options });
  onTestFinished(() => broker.stop());
  return broker;
}

async function connected(broker: { readonly url: string }): Promise<NatsConnection> {
  const options = { maxReconnectAttempts: -1, reconnectTimeWait: 50, waitOnFirstConnect: true };
  const connection = await connect({ servers: broker.url, ...options });
  onTestFinished(() => connection.close());
  return connection;
}

async function statusOf(connection: NatsConnection, type: string): Promise<void> {
  for await (const status of connection.status()) {
    if (status.type === type) return;
  }
  throw new Error(`The connection closed without "${type}"`);
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

const gone = { timeout: 10_000, interval: 20 };

async function pidsInLock(): Promise<Record<string, number>> {
  const record = JSON.parse(await readFile(join(dataDir, "lock.1"), "utf8")) as {
    processes: { role: string; pid: number }[];
  };
  return Object.fromEntries(record.processes.map(({ role, pid }) => [role, pid]));
}

test("I1: when it is there it answers, on loopback only, with JetStream on disk and room for a commit", async () => {
  const broker = await started();
  expect(broker.url).toMatch(/^nats:\/\/127\.0\.0\.1:\d+$/);
  expect(broker).toMatchObject({ status: "running", durability: "default" });
  expect(isBrokerVersionSupported(broker.version)).toBe(true);
  const connection = await connected(broker);
  expect(connection.info).toMatchObject({ host: "127.0.0.1", jetstream: true, version: broker.version });
  expect(connection.info?.max_payload).toBeGreaterThan(1_048_576);
  const manager = await jetstreamManager(connection);
  await manager.streams.add({ name: "S", subjects: ["s.>"] });
  const big = await jetstream(connection).publish("s.big", new Uint8Array(1_048_576));
  expect(big.seq).toBe(1);
  await connection.close();
  await broker.stop();
  await broker.stop();
  expect(broker.status).toBe("stopped");
  expect(isAlive(broker.pid)).toBe(false);
  const again = await started();
  const info = await (await jetstreamManager(await connected(again))).streams.info("S");
  expect(info.state.messages).toBe(1);
});

test("durability fsync makes the broker sync always", async () => {
  const broker = await started({ durability: "fsync" });
  expect(broker.durability).toBe("fsync");
  expect(await readFile(join(dataDir, "broker.conf"), "utf8")).toContain("sync_interval: always");
  await broker.stop();
  const other = await started();
  expect(other.durability).toBe("default");
  expect(await readFile(join(dataDir, "broker.conf"), "utf8")).not.toContain("sync_interval");
});

test("a second start on the same folder is refused and leaves the first alone", async () => {
  const broker = await started();
  await expect(startBroker({ dataDir })).rejects.toMatchObject({
    code: "data_folder_in_use",
    message: expect.stringContaining(`pid ${process.pid}`),
  });
  expect(isAlive(broker.pid)).toBe(true);
});

test("I2, I3: killed with SIGKILL it is back on the same port with the same data", async () => {
  const restarts: string[] = [];
  const broker = await started({ onRestart: (detail) => restarts.push(detail) });
  const [url, pid] = [broker.url, broker.pid];
  const connection = await connected(broker);
  const manager = await jetstreamManager(connection);
  await manager.streams.add({ name: "S", subjects: ["s.>"] });
  for (let index = 0; index < 50; index += 1) await jetstream(connection).publish("s.a", String(index));
  const reconnected = statusOf(connection, "reconnect");
  process.kill(pid, "SIGKILL");
  await reconnected;
  await expect.poll(() => broker.pid, gone).not.toBe(pid);
  expect(isAlive(pid)).toBe(false);
  expect(broker).toMatchObject({ url, status: "running" });
  expect(restarts).toEqual([
    expect.stringContaining(`Broker process ${pid} ended by itself (signal SIGKILL)`),
  ]);
  expect((await manager.streams.info("S")).state.messages).toBe(50);
  expect((await jetstream(connection).publish("s.a", "50")).seq).toBe(51);
});

test("I3: when its guard is killed the unguarded broker is ended and a guarded one started", async () => {
  const broker = await started();
  const { guard, broker: pid } = await pidsInLock();
  expect(pid).toBe(broker.pid);
  process.kill(Number(guard), "SIGKILL");
  await expect.poll(() => broker.pid, gone).not.toBe(pid);
  expect(isAlive(Number(pid))).toBe(false);
  await (await connected(broker)).flush();
});

test("I4: ending again and again it stays down, says so once, and frees the folder", async () => {
  const failures: unknown[] = [];
  const restarts: string[] = [];
  const broker = await started({
    onFailed: (error) => failures.push(error),
    onRestart: (detail) => {
      restarts.push(detail);
    },
  });
  for (let end = 0; end < 5; end += 1) {
    const { pid } = broker;
    process.kill(pid, "SIGKILL");
    await expect.poll(() => broker.status === "running" && broker.pid !== pid, gone).toBe(true);
  }
  process.kill(broker.pid, "SIGKILL");
  await expect.poll(() => broker.status, gone).toBe("failed");
  await expect
    .poll(() => failures, gone)
    .toEqual([
      expect.objectContaining({
        code: "broker_start_failed",
        message: expect.stringMatching(/Gave up.*5 times.*60 s/),
      }),
    ]);
  expect(restarts).toHaveLength(5);
  await broker.stop();
  expect(broker.status).toBe("failed");
  await (await connected(await started())).flush();
});

test("stop in the middle of a restart leaves nothing running", async () => {
  const broker = await started();
  process.kill(broker.pid, "SIGKILL");
  await expect.poll(() => broker.status, gone).toBe("restarting");
  await broker.stop();
  expect(broker.status).toBe("stopped");
  await (await started()).stop();
});

test("a program that does not start: broker_start_failed with what it said, and the folder is free", async () => {
  const fake = join(dataDir, "nats-server");
  const script = `#!/bin/sh\n[ "$1" = --version ] && echo "nats-server: v9.0.0" && exit\necho "no licence" >&2\nexit 3\n`;
  await writeFile(fake, script, { mode: 0o755 });
  await expect(startBroker({ dataDir, env: { MILLRACE_NATS_SERVER: fake } })).rejects.toMatchObject({
    code: "broker_start_failed",
    message: expect.stringMatching(/ended at once \(exit code 3\):\nno licence/),
  });
  await (await started()).stop();
});

describe("no orphan", () => {
  const script = `
    import { startBroker } from "./dist/broker/index.js";
    const broker = await startBroker({ dataDir: process.argv[1] });
    console.log(JSON.stringify({ pid: broker.pid, url: broker.url }));
    process.on("SIGUSR2", () => process.exit(0));
  `;

  async function parentWithBroker() {
    const parent = await runCompiled(script, [dataDir], { MILLRACE_NATS_SERVER: program });
    onTestFinished(() => parent.kill("SIGKILL"));
    const broker = JSON.parse(await parent.nextLine()) as { pid: number; url: string };
    expect(isAlive(broker.pid)).toBe(true);
    return { parent, broker };
  }

  test.each([
    ["kill -9", "SIGKILL"],
    ["SIGTERM without a handler", "SIGTERM"],
    ["process.exit without stop()", "SIGUSR2"],
  ] as const)(
    "after %s of the parent broker and guard are gone and the folder can be used",
    async (_name, signal) => {
      const { parent, broker } = await parentWithBroker();
      const { guard } = await pidsInLock();
      parent.kill(signal);
      await expect.poll(() => isAlive(broker.pid), gone).toBe(false);
      await expect.poll(() => isAlive(Number(guard)), gone).toBe(false);
      await (await connected(await started())).flush();
    },
  );

  test("a start right after kill -9 of the parent waits for the old broker and then has its data", async () => {
    const { parent, broker } = await parentWithBroker();
    const connection = await connected(broker);
    await (await jetstreamManager(connection)).streams.add({ name: "S", subjects: ["s.>"] });
    for (let index = 0; index < 50; index += 1) await jetstream(connection).publish("s.a", String(index));
    await connection.close();
    parent.kill("SIGKILL");
    await parent.closed;
    const next = await started();
    expect(isAlive(broker.pid)).toBe(false);
    const manager = await jetstreamManager(await connected(next));
    expect((await manager.streams.info("S")).state.messages).toBe(50);
  });

  test("the guard holds none of the parent's output", async (context) => {
    context.skip(process.platform === "win32", "there is no SIGSTOP");
    const { parent, broker } = await parentWithBroker();
    const guard = Number((await pidsInLock())["guard"]);
    process.kill(guard, "SIGSTOP");
    try {
      parent.kill("SIGKILL");
      let closed = false;
      const seen = parent.closed.then(() => {
        closed = true;
      });
      await expect.poll(() => closed, gone).toBe(true);
      await seen;
      expect(isAlive(broker.pid)).toBe(true);
    } finally {
      process.kill(guard, "SIGCONT");
    }
    await expect.poll(() => isAlive(broker.pid), gone).toBe(false);
  });
});
