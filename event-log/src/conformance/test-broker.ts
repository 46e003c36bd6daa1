import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { cp, mkdtemp, rm } from "node:fs/promises";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { findBroker } from "../broker/find-broker.ts";

/** A broker that a test may kill, start again and rob of its store. Port and store stay the same. */
export interface TestBroker {
  readonly port: number;
  readonly url: string;
  readonly storeDir: string;
  start(): Promise<void>;
  /** SIGKILL. */
  kill(): Promise<void>;
  /** Copies the store while the broker is down. */
  backUp(): Promise<void>;
  restore(): Promise<void>;
  /** Kills it and removes its folder. */
  stop(): Promise<void>;
}

const startDeadlineMs = 20_000;

/** Starts a real nats-server with JetStream on a free port of 127.0.0.1, in a temporary folder. */
export async function startTestBroker(): Promise<TestBroker> {
  const { path } = await findBroker();
  const folder = await mkdtemp(join(tmpdir(), "millrace-broker-"));
  const storeDir = join(folder, "store");
  const backUpDir = join(folder, "backup");
  const port = await freePort();
  let child: ChildProcess | null = null;

  async function start(): Promise<void> {
    const started = spawn(path, ["-a", "127.0.0.1", "-p", String(port), "-js", "-sd", storeDir], {
      stdio: "ignore",
    });
    child = started;
    const deadline = performance.now() + startDeadlineMs;
    while (!(await answers(port))) {
      if (started.exitCode !== null)
        throw new Error(`nats-server ended with ${started.exitCode} on port ${port}.`);
      if (performance.now() > deadline)
        throw new Error(`nats-server did not listen on ${port} in ${startDeadlineMs} ms.`);
      await delay(20);
    }
  }
  async function kill(): Promise<void> {
    if (child === null) return;
    const ended = once(child, "exit");
    child.kill("SIGKILL");
    await ended;
    child = null;
  }

  await start();
  return {
    port,
    url: `nats://127.0.0.1:${port}`,
    storeDir,
    start,
    kill,
    async backUp() {
      await rm(backUpDir, { recursive: true, force: true });
      await cp(storeDir, backUpDir, { recursive: true });
    },
    async restore() {
      await rm(storeDir, { recursive: true, force: true });
      await cp(backUpDir, storeDir, { recursive: true });
    },
    async stop() {
      await kill();
      await rm(folder, { recursive: true, force: true });
    },
  };
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  if (address === null || typeof address === "string") throw new Error("No free port.");
  return address.port;
}

/** Whether a broker greets on the port: it sends INFO to whoever connects. */
async function answers(port: number): Promise<boolean> {
  return await new Promise((resolve) => {
    const socket = connect({ port, host: "127.0.0.1" });
    const settle = (value: boolean): void => {
      socket.destroy();
      resolve(value);
    };
    socket.once("data", () => settle(true));
    socket.once("error", () => settle(false));
    socket.setTimeout(1_000, () => settle(false));
  });
}
