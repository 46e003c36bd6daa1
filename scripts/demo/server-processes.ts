/**
 * The parts as processes of their own, started by `millrace dev --split`.
 *
 * Owns: the supervisor's process, what it says. Does not own: the parts; the supervisor restarts them.
 *
 * I1 The supervisor is in a process group of its own: Ctrl-C reaches the demo only, which then stops it in order.
 * I2 However the demo ends, also by kill -9, the supervisor is told to end (`leash.ts`), and with it every part and
 *    the broker.
 */
import { spawn, type ChildProcess } from "node:child_process";
import { createWriteStream } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { ChangeSignal } from "./change-signal.ts";
import { serverEnvironment } from "./config.ts";

export type PartName = "engine" | "projector" | "stream-server";

/** The ready line of `millrace dev --json`. */
export interface ReadyServer {
  readonly url: string;
  readonly streamUrl: string;
  readonly natsUrl: string;
  readonly durability: string;
  readonly namespace: string;
  readonly projection: string;
  readonly parts: Readonly<Record<PartName | "broker", number>>;
}

export interface ServerProcesses {
  readonly ready: ReadyServer;
  /** `kill -9` of a part; resolves with the process id of the one that took its place. */
  kill(part: PartName, signal: AbortSignal): Promise<{ readonly killed: number; readonly next: number }>;
  /** Drains and ends all of it. Idempotent. */
  stop(): Promise<void>;
}

export interface ServerOptions {
  readonly dataDir: string;
  /** Compiled modules with the workflows. */
  readonly workflowFile: string;
  /** Where the talk of the parts goes. */
  readonly logFile: string;
  /** Called with each line that is said before everything is ready, e.g. that a broker is being fetched. */
  readonly onStarting: (line: string) => void;
  /** Called when it ends without being asked to after it was ready, with what it said last. */
  readonly onFailed: (error: Error) => void;
  readonly signal: AbortSignal;
}

const program = fileURLToPath(new URL("../../../cli/dist/main.js", import.meta.url));
const leash = fileURLToPath(new URL("../leash.js", import.meta.url));
/** A drain of idle parts takes well under a second. */
const stopTimeoutMs = 15_000;
/** A supervisor's second signal ends it at once; its parts then end within 6 s. */
const endTimeoutMs = 8_000;
const lastLinesMax = 12;

type Said = Partial<ReadyServer> & {
  readonly ready?: boolean;
  readonly restarted?: PartName;
  readonly pid?: number;
};

/** Resolves when all parts are ready; rejects with what was said last, or the signal's reason. */
export async function startServerProcesses(options: ServerOptions): Promise<ServerProcesses> {
  const { dataDir, workflowFile } = options;
  const child = spawn(
    process.execPath,
    [
      ...[
        leash,
        program,
        "dev",
        "--split",
        "--json",
        "--namespace",
        "demo",
        "--host",
        "127.0.0.1",
        "--port",
        "0",
      ],
      ...["--data", dataDir, "--workflows", workflowFile],
    ],
    { env: serverEnvironment(), detached: true, stdio: ["ignore", "pipe", "pipe", "ipc"] },
  );
  const server = new Supervisor(child, options);
  try {
    const ready = await server.ready(options.signal);
    return {
      ready,
      kill: (part, signal) => server.kill(part, signal),
      stop: () => server.stop(),
    };
  } catch (error) {
    await server.stop();
    throw error;
  }
}

class Supervisor {
  readonly #child: ChildProcess;
  readonly #ended: Promise<void>;
  readonly #change = new ChangeSignal();
  readonly #lastLines: string[] = [];
  readonly #pids = new Map<PartName, number>();
  #ready: ReadyServer | null = null;
  #end: string | null = null;
  #stopping: Promise<void> | null = null;

  constructor(child: ChildProcess, { logFile, onStarting, onFailed }: ServerOptions) {
    this.#child = child;
    const log = createWriteStream(logFile);
    const endWithUs = (): void => {
      child.kill("SIGTERM");
    };
    process.once("exit", endWithUs);
    this.#ended = new Promise((resolve) => {
      const end = (reason: string): void => {
        process.removeListener("exit", endWithUs);
        this.#end = reason;
        log.end();
        resolve();
        this.#change.changed();
        if (this.#ready !== null && this.#stopping === null) onFailed(this.#failure());
      };
      child.on("error", (cause) => end(cause.message));
      child.on("exit", (code, signal) => end(signal === null ? `exit code ${code}` : `signal ${signal}`));
    });
    if (child.stdout === null || child.stderr === null)
      throw new TypeError("The server's output is not piped.");
    createInterface({ input: child.stdout }).on("line", (line) => this.#hear(JSON.parse(line) as Said));
    createInterface({ input: child.stderr }).on("line", (line) => {
      if (!log.writableEnded) log.write(`${line}\n`);
      this.#lastLines.push(line);
      if (this.#lastLines.length > lastLinesMax) this.#lastLines.shift();
      if (this.#ready === null) onStarting(line);
    });
  }

  async ready(signal: AbortSignal): Promise<ReadyServer> {
    await this.#change.until(() => this.#ready !== null || this.#end !== null, signal);
    if (this.#ready === null || this.#end !== null) throw this.#failure();
    return this.#ready;
  }

  async kill(part: PartName, signal: AbortSignal): Promise<{ killed: number; next: number }> {
    const killed = this.#pid(part);
    process.kill(killed, "SIGKILL");
    await this.#change.until(() => this.#pid(part) !== killed, signal);
    return { killed, next: this.#pid(part) };
  }

  stop(): Promise<void> {
    return (this.#stopping ??= this.#stop());
  }

  async #stop(): Promise<void> {
    for (const [kind, timeoutMs] of [
      ["SIGTERM", stopTimeoutMs],
      ["SIGTERM", endTimeoutMs],
      ["SIGKILL", endTimeoutMs],
    ] as const) {
      if (this.#end !== null) return;
      this.#signal(kind);
      const timeout = new AbortController();
      await Promise.race([
        this.#ended,
        delay(timeoutMs, undefined, { signal: timeout.signal }).catch(() => undefined),
      ]);
      timeout.abort();
    }
  }

  #signal(kind: "SIGTERM" | "SIGKILL"): void {
    if (kind === "SIGTERM") this.#child.kill(kind);
    // The whole group: the leash cannot pass this one on.
    else if (this.#child.pid !== undefined) process.kill(-this.#child.pid, kind);
  }

  #hear(said: Said): void {
    if (said.ready === true) {
      this.#ready = said as ReadyServer;
      for (const part of ["engine", "projector", "stream-server"] as const)
        this.#pids.set(part, this.#ready.parts[part]);
    }
    if (said.restarted !== undefined && said.pid !== undefined) this.#pids.set(said.restarted, said.pid);
    this.#change.changed();
  }

  #pid(part: PartName): number {
    const pid = this.#pids.get(part);
    if (pid === undefined || pid === 0) throw new Error(`The server named no process of its part ${part}.`);
    return pid;
  }

  #failure(): Error {
    return new Error(
      `The server ended by itself (${this.#end}). It said last:\n  ${this.#lastLines.join("\n  ")}`,
    );
  }
}
