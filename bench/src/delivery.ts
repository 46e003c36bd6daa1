/** From stored to delivered, for subscribers of one run, and the resume of a client that missed much. Server and clients in processes of their own. */
import { fork, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { createClient } from "@millrace/client";
import { openEventLog } from "@millrace/event-log";
import type { WorkflowEvent } from "@millrace/schemas";
import { ulid } from "ulid";
import { WebSocket } from "ws";
import { elapsedMs, percentile, round } from "./figures.ts";
import { fillWithProgress } from "./fill-log.ts";

export interface DeliveryFigures {
  readonly subscribers: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly deliveredPerS: number;
  readonly serverCpuUsPerDelivery: number;
}

export interface ResumeFigures {
  /** The server kept running: the newest part comes from its ring. */
  readonly ringMs: number;
  /** The server was started anew: all of it comes from SQLite. */
  readonly sqliteMs: number;
}

const eventsPerS = 20;
const seconds = 8;

export async function benchDelivery(
  natsUrl: string,
  folder: string,
  subscribers: number,
): Promise<DeliveryFigures> {
  const namespace = `delivery${subscribers}`;
  const log = await openEventLog({ servers: natsUrl, namespace });
  const server = await startPart(natsUrl, namespace, folder);
  const started: WorkflowEvent = {
    type: "WorkflowStarted",
    data: { version: "1", input: null, driver: "external" },
  };
  const run = { workflowId: "watched", type: "bench", condition: "waiting" } as const;
  let { sequence } = await log.append({ ...run, commitId: ulid(), expected: "new", events: [started] });
  const clients = start("subscribers.js", [
    `ws://127.0.0.1:${server.port}/v1/stream`,
    String(subscribers),
    "watched",
  ]);
  await message(clients);
  const cpuBefore = await cpuOf(server.child);
  const begun = process.hrtime.bigint();
  for (let n = 1; n <= eventsPerS * seconds; n++) {
    const progress: WorkflowEvent = { type: "ProgressReported", data: { current: n, message: `part ${n}` } };
    ({ sequence } = await log.append({ ...run, commitId: ulid(), expected: sequence, events: [progress] }));
    await sleep(Math.max(0, (n * 1_000) / eventsPerS - elapsedMs(begun)));
  }
  const tookMs = elapsedMs(begun);
  await sleep(1_000);
  const cpu = (await cpuOf(server.child)) - cpuBefore;
  clients.send("report");
  const { received, latenciesMs } = (await message(clients)) as { received: number; latenciesMs: number[] };
  await stop(server.child);
  await log.close();
  const expected = subscribers * eventsPerS * seconds;
  if (received !== expected)
    throw new Error(`${subscribers} subscribers got ${received} events, not ${expected}.`);
  return {
    subscribers,
    p50Ms: round(percentile(latenciesMs, 0.5), 1),
    p99Ms: round(percentile(latenciesMs, 0.99), 1),
    deliveredPerS: round(received / (tookMs / 1_000)),
    serverCpuUsPerDelivery: round(cpu / received, 1),
  };
}

export async function benchResume(natsUrl: string, folder: string, missed: number): Promise<ResumeFigures> {
  const namespace = "resume";
  const log = await openEventLog({ servers: natsUrl, namespace });
  let server = await startPart(natsUrl, namespace, folder);
  await fillWithProgress(log, "missed", 100, missed);
  await sleep(1_000);
  const ringMs = await resume(server.port, missed);
  await stop(server.child);
  server = await startPart(natsUrl, namespace, folder);
  const sqliteMs = await resume(server.port, missed);
  await stop(server.child);
  await log.close();
  return { ringMs: round(ringMs), sqliteMs: round(sqliteMs) };
}

/** Milliseconds from opening the socket to the last missed event. */
async function resume(port: number, missed: number): Promise<number> {
  const client = createClient({ url: `ws://127.0.0.1:${port}`, WebSocket });
  const begun = process.hrtime.bigint();
  let received = 0;
  for await (const item of client.watch({}, { from: "start" })) {
    if (item.kind === "event" && ++received === missed) break;
  }
  const tookMs = elapsedMs(begun);
  client.close();
  return tookMs;
}

async function startPart(
  natsUrl: string,
  namespace: string,
  folder: string,
): Promise<{ child: ChildProcess; port: number }> {
  const child = start("stream-part.js", [natsUrl, namespace, folder]);
  const { port } = (await message(child)) as { port: number };
  return { child, port };
}

function start(file: string, args: readonly string[]): ChildProcess {
  return fork(fileURLToPath(new URL(file, import.meta.url)), args, {
    stdio: ["ignore", "inherit", "inherit", "ipc"],
  });
}

async function message(child: ChildProcess): Promise<unknown> {
  const [value] = (await Promise.race([
    once(child, "message"),
    once(child, "exit").then(([code]) => {
      throw new Error(`A child process of the benchmark ended early with ${String(code)}.`);
    }),
  ])) as [unknown];
  return value;
}

/** CPU microseconds that the child has used. */
async function cpuOf(child: ChildProcess): Promise<number> {
  child.send("cpu");
  const { cpu } = (await message(child)) as { cpu: NodeJS.CpuUsage };
  return cpu.user + cpu.system;
}

async function stop(child: ChildProcess): Promise<void> {
  const exited = once(child, "exit");
  child.send("stop");
  await exited;
}
