/**
 * For tests of what happens when a process of ours is killed: runs a script on the compiled package in a process of its
 * own. Compiled, since Node 20 cannot run the sources.
 */
import type { ChildProcess } from "node:child_process";
import { execFile, spawn } from "node:child_process";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { processEnvironment } from "./config.ts";

export interface CompiledRun {
  readonly pid: number;
  /** The next line that the script prints; rejects when it ends before. */
  nextLine(): Promise<string>;
  /** Resolves when the process is gone and its output and errors are closed by whoever else held them. */
  readonly closed: Promise<void>;
  kill(signal: NodeJS.Signals): void;
}

const packageDir = fileURLToPath(new URL("../../", import.meta.url));
let built: Promise<void> | undefined;

/** Brings `dist/` up to date; errors in types are the business of `npm run check` and do not keep it from emitting. */
async function build(): Promise<void> {
  const compiler = join(
    dirname(createRequire(import.meta.url).resolve("typescript/package.json")),
    "bin",
    "tsc",
  );
  await promisify(execFile)(process.execPath, [compiler, "-b", packageDir]).catch(() => undefined);
}

/** Runs the text of a module, with the working directory in this package, so that `./dist/…` is its compiled form. */
export async function runCompiled(
  script: string,
  args: readonly string[],
  env: Readonly<Record<string, string>> = {},
): Promise<CompiledRun> {
  await (built ??= build());
  const child: ChildProcess = spawn(process.execPath, ["--input-type=module", "-e", script, ...args], {
    cwd: packageDir,
    env: { ...processEnvironment, ...env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  if (child.pid === undefined || child.stdout === null || child.stderr === null) {
    throw new Error("Cannot start a child process");
  }
  // Through a pipe, so that `closed` also tells that nobody else holds it.
  child.stderr.pipe(process.stderr, { end: false });
  const closed = new Promise<void>((resolve) => child.once("close", () => resolve()));
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  return {
    pid: child.pid,
    async nextLine() {
      const line = await lines.next();
      if (line.done === true)
        throw new Error("The script ended without printing the line that was waited for");
      return line.value;
    },
    closed,
    kill: (signal) => child.kill(signal),
  };
}
