/**
 * Runs each part in a process of its own and keeps it running.
 *
 * Owns: the child processes, when they are restarted. Does not own: the broker, what a part does.
 *
 * S1 A part is one process at most: a restart begins only after the exit of the process before it.
 * S2 Restarts are bounded (`core/restart-policy.ts`); a part that keeps ending is given up, which `onFailed` says once.
 *    A part that does not come up the first time is not restarted: `superviseParts` rejects with its error.
 * S3 A restarted stream server serves on the same port, also when it was a free one at first.
 * S4 No part outlives this process: it ends when the channel to us closes, however we ended.
 * S5 Ctrl-C in a terminal reaches us only: parts run in sessions of their own, and we drain them in order.
 *
 * Tested in `split.e2e.test.ts` with `kill -9` of each part and of the supervisor.
 */
import { spawn, type ChildProcess } from "node:child_process";
import { MillraceError } from "@millrace/schemas";
import { afterEnd, failuresMax, initialRestart } from "../core/restart-policy.ts";
import { errorOf, type DrainMessage, type PartMessage } from "./part-messages.ts";
import { stopOrder, type PartName } from "./part-name.ts";

/** One process: its part, and what it is called. */
export interface PartInstance {
  readonly name: PartName;
  /** The part's name; for the second process of a part and those after it with its number, `stream-server-2`. */
  readonly label: string;
}

/** The processes of some parts, in start order. */
export function instancesOf(parts: readonly PartName[], streamProcesses: number): readonly PartInstance[] {
  return parts.flatMap((name) =>
    Array.from({ length: name === "stream-server" ? streamProcesses : 1 }, (_, n) => ({
      name,
      label: n === 0 ? name : `${name}-${n + 1}`,
    })),
  );
}

export interface SuperviseOptions {
  readonly instances: readonly PartInstance[];
  /** What starts one part on a port; its channel is the fourth descriptor. */
  readonly command: (
    part: PartName,
    port: number,
  ) => { readonly file: string; readonly args: readonly string[] };
  readonly environment: Readonly<Record<string, string | undefined>>;
  readonly port: number;
  readonly onRestarted: (label: string, pid: number, reason: string) => void;
  readonly onEnded: (label: string, reason: string, delayMs: number) => void;
  readonly onFailed: (error: Error) => void;
}

export interface SupervisedParts {
  readonly url: string | null;
  /** The present process of each part. */
  readonly pids: () => Readonly<Record<string, number>>;
  /** Drains the parts in order; `drainMs` is how long running steps may take. Idempotent. */
  readonly stop: (drainMs: number) => Promise<void>;
}

/** From SIGKILL on a part that does not drain: its own time, and a margin for what comes after the steps. */
const stopMarginMs = 5_000;
/** A part connects to a broker that runs and opens a file; a slow, busy machine takes seconds. */
const readyTimeoutMs = 60_000;

export async function superviseParts(options: SuperviseOptions): Promise<SupervisedParts> {
  const parts: SupervisedPart[] = [];
  let stopping: Promise<void> | null = null;
  const stopAll = async (drainMs: number): Promise<void> => {
    for (const name of stopOrder)
      await Promise.all(parts.filter((part) => part.name === name).map((part) => part.stop(drainMs)));
  };
  const stop = (drainMs: number): Promise<void> => (stopping ??= stopAll(drainMs));
  let url: string | null = null;
  try {
    // One after the other, in start order: each relies on those before it.
    let port = options.port;
    for (const instance of options.instances) {
      const part = new SupervisedPart(instance, options, port);
      parts.push(part);
      url = (await part.start()) ?? url;
      // The first of several takes a free one where none was named; the others share it.
      if (url !== null) port = Number(new URL(url).port);
    }
  } catch (error) {
    await stop(0);
    throw error;
  }
  return {
    url,
    pids: () => Object.fromEntries(parts.map((part) => [part.label, part.pid])),
    stop,
  };
}

interface PartEnd {
  readonly reason: string;
  /** What the part said last, when it said that it cannot go on. */
  readonly error: MillraceError | null;
}

class SupervisedPart {
  readonly name: PartName;
  readonly label: string;
  readonly #options: SuperviseOptions;
  #process: PartProcess | null = null;
  #port: number;
  #restart = initialRestart;
  #stopped = false;
  #wake: (() => void) | null = null;
  #supervision: Promise<void> = Promise.resolve();

  constructor({ name, label }: PartInstance, options: SuperviseOptions, port: number) {
    this.name = name;
    this.label = label;
    this.#options = options;
    this.#port = port;
  }

  get pid(): number {
    return this.#process?.pid ?? 0;
  }

  async start(): Promise<string | null> {
    const url = await this.#spawn();
    this.#supervision = this.#supervise();
    return url;
  }

  async stop(drainMs: number): Promise<void> {
    this.#stopped = true;
    this.#wake?.();
    await this.#process?.stop(drainMs);
    await this.#supervision;
  }

  async #spawn(): Promise<string | null> {
    const { file, args } = this.#options.command(this.name, this.#port);
    const started = new PartProcess(this.label, file, args, this.#options.environment);
    this.#process = started;
    const url = await started.ready;
    if (url !== null) this.#port = Number(new URL(url).port);
    return url;
  }

  async #supervise(): Promise<void> {
    while (!this.#stopped) {
      const running = this.#process;
      if (running === null) return;
      const { reason, error } = await running.ended;
      if (this.#stopped) return;
      const { state, delayMs } = afterEnd(this.#restart, running.livedMs());
      this.#restart = state;
      if (delayMs === null) {
        this.#options.onFailed(gaveUp(this.label, reason, error));
        return;
      }
      this.#options.onEnded(this.label, error === null ? reason : `${reason}: ${error.message}`, delayMs);
      await this.#sleep(delayMs);
      if (this.#stopped) return;
      try {
        await this.#spawn();
        this.#options.onRestarted(this.label, this.pid, reason);
      } catch {
        // How it ended is told by `ended` above, in the next round.
        continue;
      }
    }
  }

  async #sleep(delayMs: number): Promise<void> {
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, delayMs);
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
    this.#wake = null;
  }
}

class PartProcess {
  /** Address, for a stream server. Rejects when the process ends or says that it cannot start. */
  readonly ready: Promise<string | null>;
  /** Never rejects. */
  readonly ended: Promise<PartEnd>;
  readonly pid: number;
  readonly #child: ChildProcess;
  readonly #startedAt = performance.now();
  #livedMs: number | null = null;

  constructor(
    name: string,
    file: string,
    args: readonly string[],
    environment: Readonly<Record<string, string | undefined>>,
  ) {
    // What workflow code prints must not end up among the data on our standard output.
    const child = spawn(file, args, { env: environment, detached: true, stdio: ["ignore", 2, 2, "ipc"] });
    this.#child = child;
    this.pid = child.pid ?? 0;
    let error: MillraceError | null = null;
    this.ended = new Promise((resolve) => {
      const end = (reason: string): void => {
        this.#livedMs ??= performance.now() - this.#startedAt;
        resolve({ reason, error });
      };
      child.on("error", (cause) => {
        end(cause.message);
      });
      child.on("exit", (code, signal) => {
        end(signal === null ? `exit code ${code}` : `signal ${signal}`);
      });
    });
    const said = new Promise<string | null>((resolve) => {
      child.on("message", (message: PartMessage) => {
        if (message.kind === "failed") error = errorOf(message);
        else resolve(message.url);
      });
    });
    const endedFirst = this.ended.then((end): never => {
      throw end.error ?? new MillraceError("internal", `Part ${name} did not start: ${end.reason}.`);
    });
    const timer = setTimeout(() => child.kill("SIGKILL"), readyTimeoutMs);
    this.ready = Promise.race([said, endedFirst]).finally(() => {
      clearTimeout(timer);
    });
  }

  livedMs(): number {
    return this.#livedMs ?? performance.now() - this.#startedAt;
  }

  async stop(drainMs: number): Promise<void> {
    const timer = setTimeout(() => this.#child.kill("SIGKILL"), drainMs + stopMarginMs);
    const drain: DrainMessage = { kind: "drain", drainMs };
    // A process that is gone, or going, cannot be told: its end is what we wait for anyway.
    if (this.#child.connected) this.#child.send(drain, () => undefined);
    await this.ended;
    clearTimeout(timer);
  }
}

function gaveUp(name: string, reason: string, error: MillraceError | null): MillraceError {
  const last = error === null ? reason : error.message;
  return new MillraceError(
    error?.code ?? "internal",
    `Gave up on part ${name}: it ended ${failuresMax + 1} times in a row. Last: ${last}`,
    { details: { part: name, reason } },
  );
}
