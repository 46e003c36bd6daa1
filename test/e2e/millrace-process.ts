/**
 * The built command as its users run it: a server with `--json`, and what it says.
 *
 * Owns: one server process and the present process ids of its parts. Does not own: its data folder.
 */
import { spawn, type ChildProcess } from "node:child_process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { within } from "./deadline.ts";
import { Signal } from "./signal.ts";

const programFile = fileURLToPath(new URL("../../cli/dist/main.js", import.meta.url));
const readyDeadlineMs = 90_000;
const stopDeadlineMs = 30_000;
const shownErrorChars = 6_000;

export interface ReadyValue {
  readonly url: string;
  readonly streamUrl: string;
  readonly natsUrl: string;
  readonly namespace: string;
  /** The projector's file. */
  readonly projection: string;
  readonly parts: Readonly<Record<string, number>>;
}

export interface MillraceError {
  readonly code: string;
  readonly message: string;
}

type Environment = Readonly<Record<string, string | undefined>>;

export class MillraceProcess {
  readonly child: ChildProcess;
  readonly pids = new Map<string, number>();
  readonly ended: Promise<number | null>;
  #ready: ReadyValue | null = null;
  #errors = "";
  readonly #said = new Signal();

  private constructor(args: readonly string[], environment: Environment) {
    const child = spawn(process.execPath, [programFile, ...args, "--json"], {
      env: cleanEnvironment(environment),
      stdio: ["ignore", "pipe", "pipe"],
    });
    this.child = child;
    createInterface({ input: child.stdout }).on("line", (line) => {
      this.#take(JSON.parse(line) as Record<string, unknown>);
    });
    child.stderr.on("data", (chunk: Buffer) => {
      this.#errors += chunk.toString();
    });
    this.ended = new Promise((resolve) => {
      child.on("close", (code) => {
        resolve(code);
      });
    });
  }

  /** Resolves once it said that it is ready. */
  static async start(args: readonly string[], environment: Environment = {}): Promise<MillraceProcess> {
    const server = new MillraceProcess(args, environment);
    const ready = server.#said.until(() => server.#ready !== null);
    const early = server.ended.then((code): never => {
      throw new Error(`millrace ${args.join(" ")} ended with ${code}: ${server.errors}`);
    });
    try {
      await within(() => `ready: ${server.errors}`, readyDeadlineMs, Promise.race([ready, early]));
    } catch (error) {
      server.child.kill("SIGKILL");
      throw error;
    }
    return server;
  }

  get ready(): ReadyValue {
    if (this.#ready === null) throw new Error("The server is not ready.");
    return this.#ready;
  }

  /** The end of what it wrote to standard error. */
  get errors(): string {
    return this.#errors.slice(-shownErrorChars);
  }

  /** `kill -9` of one part's process; gives its id. */
  killPart(part: string): number {
    const pid = this.pids.get(part);
    if (pid === undefined) throw new Error(`There is no part ${part}.`);
    process.kill(pid, "SIGKILL");
    return pid;
  }

  /** Resolves once the supervisor has a part running in another process than `pid`. */
  async partBack(part: string, pid: number, deadlineMs: number): Promise<void> {
    const back = this.#said.until(() => this.pids.get(part) !== pid);
    await within(() => `${part} is back: ${this.errors}`, deadlineMs, back);
  }

  /** Drains it; kills it when it does not end. Gives the exit code. */
  async stop(): Promise<number | null> {
    this.child.kill("SIGTERM");
    try {
      return await within("the server has drained", stopDeadlineMs, this.ended);
    } catch (error) {
      this.child.kill("SIGKILL");
      throw error;
    }
  }

  #take(line: Record<string, unknown>): void {
    if (line["ready"] === true) {
      this.#ready = line as unknown as ReadyValue;
      for (const [part, pid] of Object.entries(this.#ready.parts)) this.pids.set(part, pid);
    } else if (typeof line["restarted"] === "string") {
      this.pids.set(line["restarted"], Number(line["pid"]));
    }
    this.#said.fire();
  }
}

/** Runs a command that is to fail, to its end; gives its exit code and the error that it left as JSON. */
export async function failingMillrace(
  args: readonly string[],
  environment: Environment = {},
): Promise<{ readonly code: number | null; readonly error: MillraceError }> {
  const child = spawn(process.execPath, [programFile, ...args, "--json"], {
    env: cleanEnvironment(environment),
    stdio: ["ignore", "ignore", "pipe"],
  });
  let errors = "";
  child.stderr.on("data", (chunk: Buffer) => {
    errors += chunk.toString();
  });
  const ended = new Promise<number | null>((resolve) => {
    child.on("close", resolve);
  });
  try {
    const code = await within(() => `millrace ${args.join(" ")} ends: ${errors}`, readyDeadlineMs, ended);
    const line = errors.split("\n").find((each) => each.startsWith('{"error"'));
    if (line === undefined) throw new Error(`millrace ${args.join(" ")} left no error: ${errors}`);
    return { code, error: (JSON.parse(line) as { error: MillraceError }).error };
  } finally {
    child.kill("SIGKILL");
  }
}

const keptSettings = new Set(["MILLRACE_NATS_SERVER", "MILLRACE_CACHE_DIR"]);

/** This environment without settings that would reach into a test, but for where a broker is found. */
function cleanEnvironment(given: Environment): Record<string, string | undefined> {
  const kept = Object.entries(process.env).filter(
    ([name]) => !name.startsWith("MILLRACE_") || keptSettings.has(name),
  );
  return { ...Object.fromEntries(kept), ...given };
}
