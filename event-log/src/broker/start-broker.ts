/**
 * Owns: the embedded broker's life on one data folder: lock, configuration, process (through its guard), restarts.
 * Does not own: finding the program (`find-broker.ts`), how processes are kept from outliving us
 * (`guarded-process.ts`), who may use the folder (`data-folder-lock.ts`), connections to the broker.
 *
 * In the data folder: `jetstream/` (the store), `broker.conf`, `broker.log` (with older ones), `ports/`, `lock.N`.
 *
 * I1 Ready means that it answered: the port in its ports file greets with our `server_name` and with JetStream on.
 * I2 The address stays the same for the life of the returned object: the first start lets the broker choose a free
 *    port, restarts ask for that one.
 * I3 Never two broker processes on one store: a restart begins only after the old process is known to be gone, and the
 *    data folder stays locked as long as one of guard and broker lives.
 * I4 Restarts are limited: after `failuresMax` ends within `failureWindowMs` the status is `failed`, once and for good.
 *
 * Tested in `start-broker.nats.test.ts`.
 */
import { randomUUID } from "node:crypto";
import { watch } from "node:fs";
import { mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { connect } from "node:net";
import { join, resolve } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as delay } from "node:timers/promises";
import { MillraceError } from "@millrace/schemas";
import type { Broker, BrokerOptions, BrokerStatus } from "./broker.ts";
import { processEnvironment } from "./config.ts";
import type { DataFolderLock } from "./data-folder-lock.ts";
import { lockDataFolder } from "./data-folder-lock.ts";
import { findBroker } from "./find-broker.ts";
import type { GuardedProcess, ProcessEnd } from "./guarded-process.ts";
import { startGuarded } from "./guarded-process.ts";

/** Reading the index of a million subjects took 2.6 s when it was killed before; a slow disk takes many times that. */
const readyTimeoutMs = 120_000;
const greetTimeoutMs = 10_000;
const failuresMax = 5;
const failureWindowMs = 60_000;
const firstBackoffMs = 50;
const backoffMsMax = 5_000;
/** A commit has 1 MiB at most; its headers come on top. */
const payloadBytesMax = 1_048_576 + 65_536;

interface Folders {
  readonly dataDir: string;
  readonly store: string;
  readonly ports: string;
  readonly config: string;
  readonly log: string;
}

interface Settings {
  /** -1: the broker chooses a free one. */
  readonly port: number;
  readonly syncAlways: boolean;
}

interface RunningBroker {
  readonly process: GuardedProcess;
  readonly port: number;
  readonly version: string;
}

/**
 * Starts a broker on `dataDir` and resolves when it answers. It runs on the loopback interface, on a free port, without
 * credentials, and is stopped by `stop()` or by the end of this process, whatever ends it. When it ends by itself it is
 * started again on the same port and store; after 5 such ends within a minute it stays down, see
 * {@link BrokerOptions.onFailed}.
 *
 * Rejects with `data_folder_in_use`, `data_folder_not_writable`, `broker_not_found`, `broker_version_unsupported`,
 * `broker_start_failed`.
 *
 * @example
 * const broker = await startBroker({ dataDir: ".millrace/broker" });
 * const connection = await connect({ servers: broker.url, maxReconnectAttempts: -1 });
 * // …
 * await broker.stop();
 */
export async function startBroker(options: BrokerOptions): Promise<Broker> {
  const dataDir = resolve(options.dataDir);
  const folders: Folders = {
    dataDir,
    store: join(dataDir, "jetstream"),
    ports: join(dataDir, "ports"),
    config: join(dataDir, "broker.conf"),
    log: join(dataDir, "broker.log"),
  };
  const lock = await lockDataFolder(dataDir);
  try {
    const { path, version } = await findBroker({
      env: options.env ?? processEnvironment,
      ...(options.onProgress === undefined ? {} : { onProgress: options.onProgress }),
    });
    options.onProgress?.(`Starting nats-server ${version} (${path}) on ${dataDir}`);
    const syncAlways = options.durability === "fsync";
    const start = (port: number, signal: AbortSignal): Promise<RunningBroker> =>
      startOnce(path, folders, lock, { port, syncAlways }, signal);
    return supervised(await start(-1, new AbortController().signal), start, lock, options);
  } catch (error) {
    await lock.release();
    throw error;
  }
}

function supervised(
  first: RunningBroker,
  start: (port: number, signal: AbortSignal) => Promise<RunningBroker>,
  lock: DataFolderLock,
  options: BrokerOptions,
): Broker {
  const { port } = first;
  let running = first;
  let status: BrokerStatus = "running";
  let endedAt: number[] = [];
  const stopping = new AbortController();
  const { signal } = stopping;

  /** A new process, as often as the limit allows; undefined when it was given up or `stop()` was called. */
  const restart = async (ended: string): Promise<RunningBroker | undefined> => {
    let reason = ended;
    for (;;) {
      const now = Date.now();
      endedAt = [...endedAt.filter((at) => at > now - failureWindowMs), now];
      if (endedAt.length > failuresMax) {
        status = "failed";
        await lock.release();
        options.onFailed?.(gaveUp(reason, options.dataDir));
        return undefined;
      }
      options.onRestart?.(
        `${reason}. Restarting on port ${port}, ${endedAt.length} of at most ${failuresMax} a minute.`,
      );
      try {
        await delay(Math.min(backoffMsMax, firstBackoffMs * 3 ** (endedAt.length - 1)), undefined, {
          signal,
        });
        return await start(port, signal);
      } catch (error) {
        if (signal.aborted) return undefined;
        reason = error instanceof Error ? error.message.replace(/\.$/, "") : String(error);
      }
    }
  };

  const supervise = async (): Promise<void> => {
    for (;;) {
      const end = await endUnless(signal, running.process);
      if (end === undefined) break;
      status = "restarting";
      const next = await restart(`Broker process ${running.process.pid} ended by itself (${end.reason})`);
      if (next === undefined) break;
      running = next;
      status = "running";
    }
    if (status !== "failed") status = "stopped";
  };
  const supervision = (async () => {
    try {
      await supervise();
    } finally {
      await lock.release();
    }
  })();
  // Node ends a process for a rejection that nobody looks at; this one is looked at by `stop()`.
  supervision.catch(() => undefined);

  return {
    url: `nats://127.0.0.1:${port}`,
    durability: options.durability ?? "default",
    get pid() {
      return running.process.pid;
    },
    get version() {
      return running.version;
    },
    get status() {
      return status;
    },
    async stop() {
      stopping.abort();
      await supervision;
    },
  };
}

/** How the process ended by itself; undefined when the signal came first, and then it has been stopped. */
async function endUnless(signal: AbortSignal, process: GuardedProcess): Promise<ProcessEnd | undefined> {
  const stopped = new Promise<undefined>((resolvePromise) => {
    if (signal.aborted) resolvePromise(undefined);
    signal.addEventListener("abort", () => resolvePromise(undefined), { once: true });
  });
  const end = await Promise.race([process.ended, stopped]);
  if (end === undefined) await process.stop();
  return end;
}

async function startOnce(
  program: string,
  folders: Folders,
  lock: DataFolderLock,
  settings: Settings,
  signal: AbortSignal,
): Promise<RunningBroker> {
  const serverName = `millrace-${randomUUID()}`;
  try {
    await mkdir(folders.store, { recursive: true });
    await rm(folders.ports, { recursive: true, force: true });
    await mkdir(folders.ports);
    await writeFile(folders.config, configuration(folders, serverName, settings));
  } catch (cause) {
    throw startFailed(`cannot prepare its files: ${String(cause)}`, folders, cause);
  }
  const greeting = watchForPort(folders.ports);
  try {
    const guarded = await startGuarded(program, ["-c", folders.config], folders.dataDir, (guard) =>
      lock.record({ guard }),
    );
    try {
      await lock.record({ guard: guarded.guardPid, broker: guarded.pid });
      const port = await Promise.race([
        greeting.port,
        guarded.ended.then(async (end) => {
          const said = [end.errors.trim(), await lastLines(folders.log)]
            .filter((text) => text !== "")
            .join("\n");
          throw startFailed(`it ended at once (${end.reason})${said === "" ? "" : `:\n${said}`}`, folders);
        }),
        rejectAtDeadline(signal, folders),
      ]);
      const info = await greet(port, folders);
      if (info.server_name !== serverName || info.jetstream !== true) {
        throw startFailed(
          `port ${port} greets as ${info.server_name}, expected ${serverName} with JetStream`,
          folders,
        );
      }
      return { process: guarded, port, version: info.version };
    } catch (error) {
      await guarded.stop();
      throw error;
    }
  } finally {
    greeting.close();
  }
}

/**
 * Nothing here is for others to tune. Not set: `lame_duck_duration`, whose minimum is 30 s (SIGTERM ends the broker at
 * once, which is what a single node should do), and `max_file_store`, which is 75 % of the free disk by default.
 */
function configuration(folders: Folders, serverName: string, settings: Settings): string {
  const text = JSON.stringify;
  return [
    `server_name: ${text(serverName)}`,
    `host: "127.0.0.1"`,
    `port: ${settings.port}`,
    `ports_file_dir: ${text(folders.ports)}`,
    `log_file: ${text(folders.log)}`,
    `logfile_size_limit: 8MB`,
    `logfile_max_num: 3`,
    `max_payload: ${payloadBytesMax}`,
    `jetstream {`,
    `  store_dir: ${text(folders.store)}`,
    ...(settings.syncAlways ? [`  sync_interval: always`] : []),
    `}`,
    ``,
  ].join("\n");
}

/** The port that the broker writes into the ports folder once it listens. The folder must exist and be empty. */
function watchForPort(folder: string): { readonly port: Promise<number>; close(): void } {
  let close = (): void => undefined;
  const port = new Promise<number>((resolvePromise, reject) => {
    const look = async (): Promise<void> => {
      const found = await portIn(folder);
      if (found !== undefined) resolvePromise(found);
    };
    const watcher = watch(folder, () => {
      look().catch(reject);
    });
    watcher.on("error", reject);
    close = () => {
      watcher.close();
    };
  });
  // It may fail while nobody waits for it yet; the waiting sees it all the same.
  port.catch(() => undefined);
  return { port, close };
}

async function portIn(folder: string): Promise<number | undefined> {
  for (const name of await readdir(folder)) {
    if (!name.endsWith(".ports")) continue;
    // Being written, it is empty or cut, and the next change tells again; gone, the broker ended, which its guard tells.
    const text = await readFile(join(folder, name), "utf8").catch(() => "");
    const port = /:(\d+)"/.exec(text)?.[1];
    if (port !== undefined) return Number(port);
  }
  return undefined;
}

interface Greeting {
  readonly server_name?: string;
  readonly version: string;
  readonly jetstream?: boolean;
}

/** The first line that a broker sends to whoever connects: `INFO {json}`. */
async function greet(port: number, folders: Folders): Promise<Greeting> {
  const socket = connect({ host: "127.0.0.1", port, timeout: greetTimeoutMs });
  socket.on("timeout", () => socket.destroy(new Error(`no greeting within ${greetTimeoutMs} ms`)));
  try {
    for await (const line of createInterface({ input: socket })) {
      if (line.startsWith("INFO ")) return JSON.parse(line.slice("INFO ".length)) as Greeting;
    }
    throw new Error("it closed the connection without a greeting");
  } catch (cause) {
    throw startFailed(`port ${port} does not greet: ${String(cause)}`, folders, cause);
  } finally {
    socket.destroy();
  }
}

function rejectAtDeadline(signal: AbortSignal, folders: Folders): Promise<never> {
  const either = AbortSignal.any([signal, AbortSignal.timeout(readyTimeoutMs)]);
  return new Promise((_, reject) => {
    const fail = (): void => {
      const why = signal.aborted
        ? "stopped while it started"
        : `it was not ready within ${readyTimeoutMs} ms`;
      reject(startFailed(why, folders));
    };
    if (either.aborted) fail();
    either.addEventListener("abort", fail, { once: true });
  });
}

/** The end of the log, which says why it does not start: lines of warning and worse, at most 5. */
async function lastLines(log: string): Promise<string> {
  const text = await readFile(log, "utf8").catch(() => "");
  const telling = text.split("\n").filter((line) => /\[(WRN|ERR|FTL)\]/.test(line));
  return telling.slice(-5).join("\n");
}

function startFailed(reason: string, folders: Folders, cause?: unknown): MillraceError {
  return new MillraceError(
    "broker_start_failed",
    `The broker on ${folders.dataDir} did not start: ${reason}. See ${folders.log}.`,
    { cause, details: { dataDir: folders.dataDir, log: folders.log } },
  );
}

function gaveUp(reason: string, dataDir: string): MillraceError {
  return new MillraceError(
    "broker_start_failed",
    `Gave up on the broker on ${dataDir}: it ended more than ${failuresMax} times within ${failureWindowMs / 1_000} s. ` +
      `Last: ${reason}. Mend the cause, then start again; the stored events are untouched.`,
    { details: { dataDir, failuresMax, failureWindowMs } },
  );
}
