/** Task workers in other languages against a real server: what they do is recorded once, and `kill -9` loses nothing. */
import { execFile, spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { eventually, within } from "./deadline.ts";
import { HttpApi } from "./http-api.ts";
import { MillraceProcess } from "./millrace-process.ts";
import { Signal } from "./signal.ts";
import { temporaryFolder, type TemporaryFolder } from "./temporary-folder.ts";
import { UpdatesClient } from "./updates-client.ts";

const root = fileURLToPath(new URL("../../", import.meta.url));
const waitMs = 60_000;

interface StoredEvent {
  readonly type: string;
  readonly data: Readonly<Record<string, unknown>>;
}

/** One worker process and what it prints. */
class TaskWorkerProcess {
  readonly child: ChildProcess;
  readonly #said = new Signal();
  #output = "";

  constructor(program: string, args: readonly string[], environment: Readonly<Record<string, string>>) {
    this.child = spawn(program, args, {
      cwd: root,
      env: { ...process.env, ...environment },
      stdio: ["ignore", "pipe", "pipe"],
    });
    for (const stream of [this.child.stdout, this.child.stderr]) {
      stream?.on("data", (chunk: Buffer) => {
        this.#output += chunk.toString();
        this.#said.fire();
      });
    }
  }

  async says(text: string): Promise<void> {
    const said = this.#said.until(() => this.#output.includes(text));
    await within(() => `the worker says ${text}: ${this.#output}`, waitMs, said);
  }

  kill(): void {
    this.child.kill("SIGKILL");
  }

  /** Killed and gone, its sockets closed: a poll of it that is still open could take the next test's task. */
  async gone(): Promise<void> {
    this.kill();
    if (this.child.exitCode === null && this.child.signalCode === null) await once(this.child, "exit");
  }
}

describe("task workers in other languages", () => {
  let folder: TemporaryFolder;
  let server: MillraceProcess;
  let api: HttpApi;
  const workers: TaskWorkerProcess[] = [];

  beforeAll(async () => {
    folder = await temporaryFolder();
    server = await MillraceProcess.start([
      ...["dev", "--port", "0", "--data", join(folder.path, "data")],
      ...["--workflows", join(root, "examples/dist/payment.js"), "--task-lease", "2"],
    ]);
    api = new HttpApi(server.ready.url);
  });
  afterEach(async () => {
    await Promise.all(workers.splice(0).map((worker) => worker.gone()));
  });
  afterAll(async () => {
    await server.stop();
    await folder.remove();
  });

  function start(program: string, file: string, environment: Record<string, string> = {}): TaskWorkerProcess {
    const args = [join("examples", file), "payments"];
    const worker = new TaskWorkerProcess(program, args, { MILLRACE_URL: server.ready.url, ...environment });
    workers.push(worker);
    return worker;
  }
  /** A client command's answer. */
  async function millrace(...args: readonly string[]): Promise<unknown> {
    const program = join(root, "cli/dist/main.js");
    const { stdout } = await promisify(execFile)(process.execPath, [
      program,
      ...args,
      ...["--url", server.ready.url, "--json"],
    ]);
    return JSON.parse(stdout) as unknown;
  }
  async function completed(id: string): Promise<unknown> {
    const updates = await UpdatesClient.open(server.ready.url, id);
    await within(`${id} completes`, waitMs, updates.untilStatus("completed"));
    const { body } = await api.send("GET", `/v1/workflows/${id}?min=${updates.updates.at(-1)?.sequence}`);
    return body["output"];
  }
  async function eventsOf(id: string): Promise<readonly StoredEvent[]> {
    const { body } = await api.send("GET", `/v1/workflows/${id}/events`);
    return body["items"] as readonly StoredEvent[];
  }

  it("Python: killed in the middle of a task, another worker does it as the next attempt", async () => {
    const input = { amount: 42, steps: 60, stepMs: 50 };
    await api.mustPost("/v1/workflows", { type: "payment", id: "py", input });
    const first = start("python3", "task-worker.py");
    await first.says("py/1/charge#1: 3/60 in attempt 1");
    first.kill();
    const second = start("python3", "task-worker.py");
    // Longer than a lease: its heartbeats keep the task.
    expect(await completed("py")).toEqual({ paid: 42, by: `python:${second.child.pid}`, attempt: 2 });
    const events = await eventsOf("py");
    expect(events.map(({ type }) => type)).toEqual([
      ...["WorkflowStarted", "StepScheduled", "StepStarted", "StepStarted"],
      ...["StepCompleted", "WorkflowCompleted"],
    ]);
    expect(events.slice(2, 4).map(({ data }) => data["worker"])).toEqual([
      `python:${first.child.pid}`,
      `python:${second.child.pid}`,
    ]);
  });

  it("Python: ten runs by two workers, one of them killed on the way: each is recorded once", async () => {
    const [dying, living] = [start("python3", "task-worker.py"), start("python3", "task-worker.py")];
    const ids = Array.from({ length: 10 }, (_, n) => `many-${n}`);
    for (const id of ids) {
      const input = { amount: 1, steps: 4, stepMs: 50 };
      await api.mustPost("/v1/workflows", { type: "payment", id, input });
    }
    await dying.says("2/4");
    dying.kill();
    await living.says("2/4");
    for (const id of ids) {
      expect(await completed(id)).toMatchObject({ paid: 1 });
      const types = (await eventsOf(id)).map(({ type }) => type);
      expect(types.filter((type) => type === "StepCompleted")).toHaveLength(1);
    }
  });

  it("bash and curl: killed in the middle of a task, another worker does it as the next attempt", async () => {
    await api.mustPost("/v1/workflows", { type: "payment", id: "sh", input: { amount: 7 } });
    const first = start("bash", "task-worker.sh", { WORK_SECONDS: "5" });
    await first.says("sh/1/charge#1: attempt 1");
    first.kill();
    const second = start("bash", "task-worker.sh", { WORK_SECONDS: "0" });
    expect(await completed("sh")).toEqual({ by: "bash", attempt: 2 });
    const workersOf = (await eventsOf("sh")).flatMap(({ type, data }) =>
      type === "StepStarted" ? [data["worker"]] : [],
    );
    expect(workersOf).toEqual([`bash:${first.child.pid}`, `bash:${second.child.pid}`]);
  });

  it("a task that fails for good is a dead letter; the command line limits, lists, redrives and discards", async () => {
    start("python3", "task-worker.py");
    // Without an amount there is nothing to charge.
    await api.mustPost("/v1/workflows", { type: "payment", id: "broke", input: {} });
    const failed = await UpdatesClient.open(server.ready.url, "broke");
    await within("it fails", waitMs, failed.untilStatus("failed"));
    const limited = await millrace("queue", "limit", "payments", "--concurrency", "3", "--rate", "50");
    expect(limited).toEqual({ queue: "payments", limits: { concurrency: 3, ratePerS: 50, burst: null } });
    const dead = await millrace("queue", "dead", "payments");
    expect(dead).toMatchObject({
      items: [{ workflowId: "broke", step: "charge", attempts: 3, reason: "'amount'" }],
      next: null,
    });
    const queues = await millrace("queues");
    expect(queues).toMatchObject({
      items: [{ queue: "payments", deadLetters: 1, limits: { concurrency: 3, ratePerS: 50 } }],
    });
    const redriven = await millrace("queue", "redrive", "payments", "--reason", "try again", "--by", "ada");
    expect(redriven).toMatchObject({ redriven: [{ workflowId: "broke" }], skipped: [] });
    const reset = (await eventsOf("broke")).find(({ type }) => type === "WorkflowReset");
    expect(reset?.data).toMatchObject({ run: 2, kind: "retry", reason: "try again", by: "ada" });
    // It is as broke as before.
    await eventually("it fails again", waitMs, async () => {
      const events = await eventsOf("broke");
      return events.filter(({ type }) => type === "WorkflowFailed").length === 2;
    });
    expect(await millrace("queue", "redrive", "payments", "--discard")).toMatchObject({
      redriven: [{ workflowId: "broke" }],
    });
    expect(await millrace("queue", "dead", "payments")).toMatchObject({ items: [] });
    await millrace("queue", "limit", "payments");
  });

  it("Python: a cancel reaches the worker with its next heartbeat", async () => {
    const input = { amount: 1, steps: 400, stepMs: 50 };
    await api.mustPost("/v1/workflows", { type: "payment", id: "cancelled", input });
    const worker = start("python3", "task-worker.py");
    await worker.says("cancelled/1/charge#1: 2/400");
    await api.mustPost("/v1/workflows/cancelled/cancel", { reason: "changed my mind" });
    await worker.says("cancelled/1/charge#1: not wanted any more");
    const row = await api.send("GET", "/v1/workflows/cancelled");
    expect(row.body).toMatchObject({ status: "cancelled" });
    // Its message is done with: nobody takes it again.
    await eventually("the queue is empty", waitMs, async () => {
      const { body } = await api.send("GET", "/v1/queues");
      const [queue] = body["items"] as readonly { readonly depth: number; readonly inFlight: number }[];
      return queue?.depth === 0 && queue.inFlight === 0;
    });
  });
});
