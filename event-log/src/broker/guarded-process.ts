/**
 * Runs the broker so that it never outlives us, also after `kill -9` of this process, on every system in one way.
 *
 * A small guard process stands between: we → guard → broker. Its standard input is a pipe whose other end only this
 * process holds. However this process ends, the system closes that end; the guard sees the end of its input, sends
 * SIGTERM to the broker, SIGKILL when it is still there after a grace time, and ends. `stop()` closes the same pipe:
 * one code path for both, so the one after a crash is exercised by every ordinary stop. (The other ways: a process
 * group or Windows job object dies with a terminal, not with a parent; `PR_SET_PDEATHSIG` is Linux only and needs native
 * code; the broker itself has no "exit with stdin".)
 *
 * I1 No broker without a living guard: the guard starts it, as its own child, on the first byte that we send, after its
 *    process id is on record in the data folder's lock.
 * I2 The guard signals only its own child, so never a process that got a recycled id.
 * I3 When the guard itself is killed, we kill the broker before `ended` resolves: nobody starts a second broker beside it.
 * I4 The guard holds no inherited descriptor: input and output are pipes of ours, errors go nowhere, so a caller who
 *    waits for our output to close does not wait for the guard.
 * I5 Guard and broker run in a session of their own: Ctrl-C in a terminal reaches this process only, which drains first.
 *
 * The guard is a string for `node -e`, not a file: a `.ts` file cannot be run by Node 20, a `.js` file would not be
 * copied to `dist/` by the compiler, and a bundler would lose either.
 *
 * Tested in `start-broker.nats.test.ts`.
 */
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { setTimeout as delay } from "node:timers/promises";
import { MillraceError } from "@millrace/schemas";
import { processEnvironment } from "./config.ts";

/** Time from SIGTERM to SIGKILL: the broker writes its index on SIGTERM, which takes seconds for millions of subjects. */
const graceMs = 10_000;

const guardSource = `
const { spawn } = require("node:child_process");
const [command, graceMs, ...args] = process.argv.slice(1);
let broker;
let ending = false;
const report = (message) => process.stdout.write(JSON.stringify(message) + "\\n");
const finish = () => process.stdin.destroy();
const end = () => {
  if (ending) return;
  ending = true;
  if (broker === undefined) return finish();
  broker.kill("SIGTERM");
  setTimeout(() => broker.kill("SIGKILL"), Number(graceMs)).unref();
};
const start = () => {
  if (broker !== undefined || ending) return;
  let errors = "";
  broker = spawn(command, args, { stdio: ["ignore", "ignore", "pipe"], windowsHide: true });
  broker.stderr.on("data", (chunk) => { errors = (errors + chunk).slice(-4000); });
  broker.on("spawn", () => report({ pid: broker.pid }));
  broker.on("error", (error) => { report({ ended: error.message, errors }); finish(); });
  broker.on("close", (code, signal) => {
    report({ ended: signal === null ? "exit code " + code : "signal " + signal, errors });
    finish();
  });
};
// A parent that is gone reads no report; the end of the input says the same.
process.stdout.on("error", end);
process.stdin.on("data", start);
process.stdin.on("end", end);
process.stdin.on("error", end);
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.on(signal, end);
`;

export interface ProcessEnd {
  /** `exit code 1`, `signal SIGKILL`, or why it could not be started. */
  readonly reason: string;
  /** The last 4,000 characters of its standard error. */
  readonly errors: string;
}

export interface GuardedProcess {
  readonly pid: number;
  readonly guardPid: number;
  /** Resolves once the process is gone, for whatever reason. Never rejects. */
  readonly ended: Promise<ProcessEnd>;
  /** Ends process and guard; resolves when both are gone. Idempotent. */
  stop(): Promise<void>;
}

interface GuardMessage {
  readonly pid?: number;
  readonly ended?: string;
  readonly errors?: string;
}

/**
 * Starts `command` under a guard. `onGuard` gets the guard's process id before the command starts and may delay it
 * (see I1). Rejects with `broker_start_failed` when guard or command cannot be started.
 */
export async function startGuarded(
  command: string,
  args: readonly string[],
  cwd: string,
  onGuard: (guardPid: number) => Promise<void>,
): Promise<GuardedProcess> {
  // Options of this Node (inspector, loaders, coverage) are not for the guard.
  const env = { ...processEnvironment, NODE_OPTIONS: undefined, NODE_V8_COVERAGE: undefined };
  const guard = spawn(process.execPath, ["-e", guardSource, command, String(graceMs), ...args], {
    cwd,
    env,
    detached: true,
    windowsHide: true,
    stdio: ["pipe", "pipe", "ignore"],
  });
  let pid: number | undefined;
  let report: ProcessEnd | undefined;
  const running = new Promise<void>((resolve) => {
    createInterface({ input: guard.stdout }).on("line", (line) => {
      const message = JSON.parse(line) as GuardMessage;
      pid ??= message.pid;
      if (message.ended !== undefined) report = { reason: message.ended, errors: message.errors ?? "" };
      if (message.pid !== undefined) resolve();
    });
  });
  const closed = new Promise<string>((resolve) => {
    guard.on("error", (error) => {
      resolve(`its guard could not be started: ${error.message}`);
    });
    guard.on("close", (code, signal) => {
      resolve(`its guard ended without a word (${signal ?? `exit code ${code}`})`);
    });
  });
  const ended = closed.then(async (guardEnd): Promise<ProcessEnd> => {
    if (report === undefined) await endUnguarded(pid);
    return report ?? { reason: guardEnd, errors: "" };
  });
  // Writing to a guard that is gone; that it is gone is what `close` says.
  guard.stdin.on("error", () => undefined);

  const failed = (end: ProcessEnd): MillraceError =>
    new MillraceError(
      "broker_start_failed",
      `Cannot run ${command}: ${[end.reason, end.errors.trim()].filter((text) => text !== "").join("; ")}.`,
      { details: { command, reason: end.reason } },
    );
  if (guard.pid === undefined) throw failed(await ended);
  const guardPid = guard.pid;
  try {
    await onGuard(guardPid);
  } catch (error) {
    guard.stdin.end();
    await ended;
    throw error;
  }
  guard.stdin.write("\n");
  const early = await Promise.race([running, ended]);
  if (pid === undefined) throw failed(early ?? { reason: "it reported no process id", errors: "" });
  return {
    pid,
    guardPid,
    ended,
    async stop() {
      guard.stdin.end();
      await ended;
    },
  };
}

/** Kills a broker whose guard was killed, and waits until it is gone: it is not our child, so nothing tells us. */
async function endUnguarded(pid: number | undefined): Promise<void> {
  if (pid === undefined) return;
  const deadline = Date.now() + graceMs;
  while (Date.now() < deadline) {
    try {
      process.kill(pid, "SIGKILL");
    } catch {
      // ESRCH, it is gone; any other refusal means that the id is not our broker's any more.
      return;
    }
    await delay(20);
  }
}
