/**
 * The parts as processes of their own, started by `millrace dev --split`.
 *
 * Owns: the supervisor's process, what it says. Does not own: the parts; the supervisor restarts them.
 *
 * I1 The supervisor is in a process group of its own: Ctrl-C reaches the demo only, which then stops it in order.
 * I2 However the demo ends by itself, the supervisor is told to end, and with it every part and the broker.
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
  /** Resolves when it ended without being asked to, with what it said last. */
  readonly failed: Promise<Error>;
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
  readonly signal: AbortSignal;
}

const program = fileURLToPath(new URL("../../../cli/dist/main.js", import.meta.url));
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
    [program, "dev", "--split", "--json", "--host", "127.0.0.1", "--port", "0", "--namespace", "demo"].concat(
      [...["--data", dataDir], ...["--workflows", workflowFile]],
    ),
    { env: serverEnvironment(), detached: true, stdio: ["ignore", "pipe", "pipe"] },
  );
  const server = new Supervisor(child, options);
  try {
    const ready = await server.ready(options.signal);
    return {
      ready,
      kill: (part, signal) => server.kill(part, signal),
      failed: server.failed,
      stop: () => server.stop(),
    };
  } catch (error) {
    await server.stop();
    throw error;
  }
}

class Supervisor {
  readonly failed: Promise<Error>;
  readonly #child: ChildProcess;
  readonly #ended: Promise<void>;
  readonly #change = new ChangeSignal();
  readonly #lastLines: string[] = [];
  readonly #pids = new Map<PartName, number>();
  #ready: ReadyServer | null = null;
  #end: string | null = null;
  #stopping: Promise<void> | null = null;

  constructor(child: ChildProcess, { logFile, onStarting }: ServerOptions) {
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
      };
      child.on("error", (cause) => end(cause.message));
      child.on("exit", (code, signal) => end(signal === null ? `exit code ${code}` : `signal ${signal}`));
    });
    this.failed = this.#ended.then(
      () => new Promise((resolve) => void (this.#stopping === null && resolve(this.#failure()))),
    );
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
      this.#child.kill(kind);
      const timeout = new AbortController();
      await Promise.race([
        this.#ended,
        delay(timeoutMs, undefined, { signal: timeout.signal }).catch(() => undefined),
      ]);
      timeout.abort();
    }
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
