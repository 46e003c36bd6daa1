/**
 * A part of the benchmark in a process of its own: the parent asks, the part answers. Separate processes so that
 * the server's CPU and memory are its own, and a busy driver does not delay the sampled clients.
 */
import { fork, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";

interface Question {
  readonly id: number;
  readonly name: string;
  readonly value: unknown;
}
interface Answer {
  readonly id: number;
  readonly value?: unknown;
  readonly error?: string;
}

export class Part {
  readonly child: ChildProcess;
  readonly #name: string;
  readonly #open = new Map<number, { resolve(value: unknown): void; reject(error: Error): void }>();
  #nextId = 1;
  #stopping = false;

  constructor(file: string, args: readonly string[] = [], execArgv: readonly string[] = []) {
    this.#name = file;
    this.child = fork(fileURLToPath(new URL(file, import.meta.url)), args, {
      stdio: ["ignore", "inherit", "inherit", "ipc"],
      execArgv: [...execArgv],
    });
    this.child.on("message", (message) => {
      const { id, value, error } = message as Answer;
      const waiting = this.#open.get(id);
      this.#open.delete(id);
      if (error === undefined) waiting?.resolve(value);
      else waiting?.reject(new Error(`${this.#name}: ${error}`));
    });
    this.child.on("exit", (code, signal) => {
      if (this.#open.size === 0 && this.#stopping) return;
      const ended = new Error(`${this.#name} ended early with ${String(code ?? signal)}.`);
      for (const waiting of this.#open.values()) waiting.reject(ended);
      this.#open.clear();
    });
  }

  async ask<T = void>(name: string, value?: unknown): Promise<T> {
    const question: Question = { id: this.#nextId++, name, value };
    return await new Promise<T>((resolve, reject) => {
      this.#open.set(question.id, { resolve: (answer) => resolve(answer as T), reject });
      this.child.send(question, (error) => {
        if (error === null || !this.#open.delete(question.id)) return;
        reject(error);
      });
    });
  }

  async stop(): Promise<void> {
    this.#stopping = true;
    if (this.child.exitCode !== null || this.child.signalCode !== null) return;
    const exited = once(this.child, "exit");
    this.child.disconnect();
    await exited;
  }

  async kill(): Promise<void> {
    this.#stopping = true;
    if (this.child.exitCode !== null || this.child.signalCode !== null) return;
    const exited = once(this.child, "exit");
    this.child.kill("SIGKILL");
    await exited;
  }
}

export type Handlers = Readonly<Record<string, (value: never) => unknown>>;

/** In the part: answers questions until the parent lets go, then runs `stop`. */
export function serveParent(handlers: Handlers, stop: () => Promise<void> | void = () => undefined): void {
  process.on("message", (message) => {
    const { id, name, value } = message as Question;
    const handler = handlers[name] as ((value: unknown) => unknown) | undefined;
    const answer = async (): Promise<unknown> => {
      if (handler === undefined) throw new Error(`no answer to ${name}`);
      return await handler(value);
    };
    answer().then(
      (result) => process.send?.({ id, value: result } satisfies Answer),
      (error: unknown) =>
        process.send?.({
          id,
          error: error instanceof Error ? (error.stack ?? error.message) : String(error),
        } satisfies Answer),
    );
  });
  process.once("disconnect", () => {
    const stopped = async (): Promise<void> => stop();
    stopped().then(
      () => process.exit(0),
      (error: unknown) => {
        process.stderr.write(`${String(error)}\n`);
        process.exit(1);
      },
    );
  });
}

export interface Usage {
  /** Microseconds of CPU that the process has used. */
  readonly cpuUs: number;
  readonly heapBytes: number;
  readonly rssBytes: number;
}

/** For parts that are measured. Collects garbage first when the process was started with `--expose-gc`. */
export function usage(collect: boolean): Usage {
  if (collect) for (let i = 0; i < 3; i++) globalThis.gc?.();
  const { user, system } = process.cpuUsage();
  const { heapUsed, rss } = process.memoryUsage();
  return { cpuUs: user + system, heapBytes: heapUsed, rssBytes: rss };
}
