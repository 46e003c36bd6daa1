/** Runs the built command as its users do. `npm test` builds it first. */
import { spawn, type ChildProcess } from "node:child_process";
import { EventEmitter, once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as delay } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { processEnvironment } from "../config.ts";

export const programFile = fileURLToPath(new URL("../../dist/main.js", import.meta.url));
export const examplesFolder = fileURLToPath(new URL("../../../examples/", import.meta.url));

type Environment = Readonly<Record<string, string | undefined>>;

/** The environment of this process without settings that would reach into a test. */
export function cleanEnvironment(given: Environment = {}): Record<string, string | undefined> {
  const {
    MILLRACE_NATS_URL: _nats,
    MILLRACE_URL: _url,
    MILLRACE_PORT: _port,
    MILLRACE_LOG: _log,
    ...rest
  } = processEnvironment;
  return { ...rest, ...given };
}

export interface Finished {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a program to its end. */
export async function run(file: string, args: readonly string[], env: Environment = {}): Promise<Finished> {
  const child = spawn(file, args, { env: cleanEnvironment(env), stdio: ["ignore", "pipe", "pipe"] });
  let stdout = "";
  let stderr = "";
  child.stdout.on("data", (chunk: Buffer) => (stdout += chunk.toString()));
  child.stderr.on("data", (chunk: Buffer) => (stderr += chunk.toString()));
  const code = await new Promise<number | null>((resolve, reject) => {
    child.on("error", reject);
    child.on("close", resolve);
  });
  return { code, stdout, stderr };
}

export function millrace(args: readonly string[], env: Environment = {}): Promise<Finished> {
  return run(process.execPath, [programFile, ...args], env);
}

/** The JSON values on standard output, one a line; shows standard error when the command did not succeed. */
export function jsonLines<Value>(finished: Finished): Value[] {
  if (finished.code !== 0) throw new Error(`exit code ${finished.code}: ${finished.stderr}`);
  return finished.stdout
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line) as Value);
}

/** The error that a command with `--json` left on standard error. */
export function jsonError(finished: Finished): { readonly code: string; readonly message: string } {
  const line = finished.stderr.split("\n").find((each) => each.startsWith('{"error"'));
  if (line === undefined) throw new Error(`no error on standard error: ${finished.stderr}`);
  return (JSON.parse(line) as { error: { code: string; message: string } }).error;
}

export interface ReadyValue {
  readonly ready: true;
  readonly url: string;
  readonly streamUrl: string;
  readonly natsUrl: string;
  readonly pid: number;
  readonly durability: string;
  readonly dataDir: string;
  readonly parts: Readonly<Record<string, number>>;
}

/** A server command that runs, with `--json`. */
export class Server {
  readonly child: ChildProcess;
  readonly ended: Promise<number | null>;
  stderr = "";
  /** What it has printed so far. */
  readonly lines: object[] = [];
  readonly #changed = new EventEmitter();

  constructor(args: readonly string[], env: Environment = {}) {
    this.child = spawn(process.execPath, [programFile, ...args, "--json"], {
      env: cleanEnvironment(env),
      stdio: ["ignore", "pipe", "pipe"],
    });
    const { stdout, stderr } = this.child;
    if (stdout === null || stderr === null) throw new Error("a pipe is missing");
    createInterface({ input: stdout }).on("line", (line) => {
      this.lines.push(JSON.parse(line) as object);
      this.#changed.emit("change");
    });
    stderr.on("data", (chunk: Buffer) => (this.stderr += chunk.toString()));
    this.ended = new Promise((resolve) => {
      this.child.on("exit", (code) => {
        resolve(code);
        this.#changed.emit("change");
      });
    });
  }

  /** The first line that fits, from now or before; waits for it. */
  async line(
    fits: (line: Record<string, unknown>) => boolean,
    deadlineMs: number,
  ): Promise<Record<string, unknown>> {
    const late = delay(deadlineMs, "late" as const, { ref: false });
    for (;;) {
      const found = (this.lines as Record<string, unknown>[]).find(fits);
      if (found !== undefined) return found;
      const next = once(this.#changed, "change");
      const ended = this.child.exitCode !== null || this.child.signalCode !== null;
      if (ended || (await Promise.race([next, late])) === "late") {
        throw new Error(
          `the line did not come (${ended ? "the server ended" : `${deadlineMs} ms`}): ${this.stderr}`,
        );
      }
    }
  }

  async ready(): Promise<ReadyValue> {
    return (await this.line(({ ready }) => ready === true, 90_000)) as unknown as ReadyValue;
  }

  /** Ends it in whatever state it is; for the end of a test. */
  async kill(): Promise<void> {
    this.child.kill("SIGTERM");
    const late = delay(20_000, "late" as const, { ref: false });
    if ((await Promise.race([this.ended, late])) === "late") this.child.kill("SIGKILL");
    await this.ended;
  }
}

export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    // ESRCH: there is no such process.
    return false;
  }
}

/** Waits until `holds`, which no push tells of: the end of processes that are not our children. */
export async function eventually(
  what: string,
  deadlineMs: number,
  holds: () => boolean | Promise<boolean>,
): Promise<void> {
  const deadline = Date.now() + deadlineMs;
  while (!(await holds())) {
    if (Date.now() > deadline) throw new Error(`not within ${deadlineMs} ms: ${what}`);
    await delay(50);
  }
}

export async function temporaryFolder(): Promise<{
  readonly path: string;
  readonly remove: () => Promise<void>;
}> {
  const path = await mkdtemp(join(tmpdir(), "millrace-cli-"));
  return { path, remove: () => rm(path, { recursive: true, force: true, maxRetries: 3 }) };
}
