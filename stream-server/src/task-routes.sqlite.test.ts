import { createMemoryLog } from "@millrace/event-log";
import { defineWorkflow, type WorkflowContext } from "@millrace/engine";
import type { Page, Problem, QueueRow, DeadLetterRow, TaskRow, WorkflowRow } from "@millrace/schemas";
import { afterEach, describe, expect, it } from "vitest";
import type { StreamServerSettings } from "./start-stream-server.ts";
import { startWorld, type World } from "./testing/world.ts";

let world: World;
afterEach(() => world.close());

const onePlace = "/v1/queues/other/poll?waitMs=0";
const deadline = { timeout: 15_000, interval: 10 };
const leaseMs = 400;

interface Reply<T> {
  readonly status: number;
  readonly json: T;
}
interface Polled {
  readonly tasks: readonly TaskRow[];
}

async function call<T = Record<string, unknown>>(
  method: string,
  path: string,
  body?: unknown,
  signal?: AbortSignal,
): Promise<Reply<T>> {
  const response = await fetch(world.server.url + path, {
    method,
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    ...(signal === undefined ? {} : { signal }),
  });
  return { status: response.status, json: (await response.json()) as T };
}
async function poll(query = ""): Promise<readonly TaskRow[]> {
  const { status, json } = await call<Polled>("POST", `/v1/queues/payments/poll${query}`);
  expect(status).toBe(200);
  return json.tasks;
}
async function refused(method: string, path: string, body?: unknown): Promise<[number, string]> {
  const { status, json } = await call<Problem>(method, path, body);
  return [status, json.code];
}

/** A server beside a worker that runs the code, and a run of it. */
async function running(
  code: (ctx: WorkflowContext) => Promise<unknown>,
  settings: Partial<StreamServerSettings> = {},
): Promise<void> {
  world = await startWorld({ log: createMemoryLog({ taskLeaseMs: leaseMs }), server: { settings } });
  const workflow = defineWorkflow({ type: "order" }, (ctx, _input: null) => code(ctx));
  await world.millrace.worker({ workflows: [workflow] });
  await world.millrace.start(workflow, null, { id: "o" });
}
const retry = { maxAttempts: 2, initialDelayMs: 1, jitter: "none" as const };

describe("tasks over HTTP", () => {
  it("gives a task to a poll, takes heartbeats and its result, once and again", async () => {
    await running((ctx) => ctx.task("charge", { amount: 3 }, { queue: "payments", heartbeatMs: 60_000 }));
    const [task, ...more] = await poll("?worker=curl");
    expect(more).toEqual([]);
    expect(task).toEqual({
      token: expect.stringMatching(/^[A-Za-z0-9_-]{50,1000}$/),
      name: "charge",
      workflowId: "o",
      queue: "payments",
      input: { amount: 3 },
      attempt: 1,
      idempotencyKey: "o/1/charge#1",
      leaseMs,
      startToCloseMs: null,
      heartbeatMs: 60_000,
      lastDetails: null,
    });
    const path = `/v1/tasks/${task?.token}`;
    expect((await call("POST", `${path}/heartbeat`, { details: { row: 1 } })).json).toEqual({
      cancelRequested: false,
    });
    const done = await call<{ sequence: number }>("POST", `${path}/complete`, { output: { paid: 3 } });
    expect(done).toMatchObject({ status: 200, json: { sequence: expect.any(Number) } });
    expect(await call("POST", `${path}/complete`, { output: { paid: 3 } })).toMatchObject({ status: 200 });
    expect(await world.millrace.handle("o").result()).toEqual({ paid: 3 });
    const row = await call<WorkflowRow>("GET", `/v1/workflows/o?min=${done.json.sequence}`);
    expect(row.json.steps).toMatchObject([{ name: "charge", status: "completed", attempt: 1 }]);
    expect(await refused("POST", `${path}/fail`, { error: { message: "late" } })).toEqual([
      409,
      "workflow_closed",
    ]);
  });

  it("answers a poll at once when a task comes, and with none after its wait or when the server leaves", async () => {
    await running(
      async (ctx) => {
        await ctx.waitForSignal("go");
        return ctx.task("charge", null, { queue: "payments" });
      },
      { waitingPollsMax: 1 },
    );
    expect(await poll("?waitMs=30")).toEqual([]);
    const pushed = poll("?waitMs=20000");
    await world.millrace.handle("o").signal("go");
    const [task] = await pushed;
    expect(task?.name).toBe("charge");
    const waiting = poll("?waitMs=60000");
    // It is there once it takes the only place.
    await expect.poll(async () => (await refused("POST", onePlace))[1], deadline).toBe("overloaded");
    const begun = performance.now();
    await world.server.drain();
    expect(await waiting).toEqual([]);
    expect(performance.now() - begun).toBeLessThan(4_000);
  });

  it("a worker that went silent loses its task; one that hangs up while it waits costs nothing", async () => {
    await running((ctx) => ctx.task("charge", null, { queue: "payments", retry }));
    const [first] = await poll();
    const gone = new AbortController();
    const hungUp = call<Polled>("POST", "/v1/queues/payments/poll?waitMs=20000", {}, gone.signal).catch(
      (error: unknown) => (error as Error).name,
    );
    await new Promise((resolve) => setTimeout(resolve, 50));
    gone.abort();
    expect(await hungUp).toBe("AbortError");
    const [second] = await poll("?waitMs=10000");
    expect([first?.attempt, second?.attempt]).toEqual([1, 2]);
    expect(await refused("POST", `/v1/tasks/${first?.token}/complete`, {})).toEqual([
      409,
      "attempt_superseded",
    ]);
    expect(await refused("POST", `/v1/tasks/${first?.token}/heartbeat`, {})).toEqual([
      409,
      "attempt_superseded",
    ]);
    // Heartbeats over any connection keep it.
    for (let n = 0; n < 6; n++) {
      await new Promise((resolve) => setTimeout(resolve, leaseMs / 3));
      await call("POST", `/v1/tasks/${second?.token}/heartbeat`, {});
    }
    expect(await poll("?waitMs=0")).toEqual([]);
    await call("POST", `/v1/tasks/${second?.token}/complete`, { output: 2 });
    expect(await world.millrace.handle("o").result()).toBe(2);
  });

  it("failures follow the task's policy, then there is a dead letter; a cancel reaches the heartbeat", async () => {
    await running(async (ctx) => {
      const error = await ctx
        .task("charge", 7, { queue: "payments", retry })
        .catch((failed: unknown) => failed);
      await ctx.task("slow", String(error), { queue: "payments" });
    });
    const [first] = await poll();
    const failed = await call("POST", `/v1/tasks/${first?.token}/fail`, {
      error: { message: "no" },
      retryAfterMs: 5,
    });
    expect(failed.json).toMatchObject({ final: false, nextAttemptAt: expect.stringMatching(/Z$/) });
    const [second] = await poll();
    expect(second).toMatchObject({ name: "charge", attempt: 2, input: 7 });
    const last = await call("POST", `/v1/tasks/${second?.token}/fail`, { error: { message: "never" } });
    expect(last.json).toMatchObject({ final: true, nextAttemptAt: null });
    const dead = await call<Page<DeadLetterRow>>("GET", "/v1/queues/payments/dead");
    expect(dead.json).toMatchObject({
      items: [{ workflowId: "o", type: "order", step: "charge", input: 7, attempts: 2, reason: "never" }],
      next: null,
    });
    const [slow] = await poll();
    const queues = await call<Page<QueueRow>>("GET", "/v1/queues");
    expect(queues.json.items).toMatchObject([{ queue: "payments", depth: 0, inFlight: 1, deadLetters: 1 }]);
    await call("POST", "/v1/workflows/o/cancel", {});
    const beat = await call("POST", `/v1/tasks/${slow?.token}/heartbeat`, {});
    expect(beat.json).toEqual({ cancelRequested: true });
    const discarded = await call("POST", "/v1/queues/payments/dead/redrive", { discard: true });
    expect(discarded.json).toMatchObject({ redriven: [{ workflowId: "o" }], skipped: [] });
    expect((await call<Page<DeadLetterRow>>("GET", "/v1/queues/payments/dead")).json.items).toEqual([]);
  });

  it("limits of a queue hold for polls", async () => {
    await running((ctx) => Promise.all([1, 2, 3].map((n) => ctx.task("n", n, { queue: "payments" }))));
    const set = await call("PUT", "/v1/queues/payments", { concurrency: 2 });
    expect(set.json).toEqual({
      queue: "payments",
      limits: { concurrency: 2, ratePerS: null, burst: null },
    });
    const two = await poll("?max=10&waitMs=5000");
    const more = two.length < 2 ? await poll("?max=10&waitMs=5000") : [];
    const taken = [...two, ...more];
    expect(taken).toHaveLength(2);
    expect(await poll("?max=10&waitMs=50")).toEqual([]);
    await call("POST", `/v1/tasks/${taken[0]?.token}/complete`, {});
    expect(await poll("?max=10&waitMs=5000")).toHaveLength(1);
  });

  it("refuses what is wrong, with a code", async () => {
    await running((ctx) => ctx.sleep(1));
    const wrong: [string, string, unknown, number, string][] = [
      ["POST", "/v1/queues/a.b/poll", {}, 400, "invalid_id"],
      ["POST", "/v1/queues/q/poll?waitMs=60001", {}, 400, "invalid_request"],
      ["POST", "/v1/queues/q/poll?max=0", {}, 400, "invalid_request"],
      ["POST", "/v1/tasks/nonsense/complete", {}, 400, "invalid_id"],
      ["POST", "/v1/tasks/nonsense/complete", { result: 1 }, 400, "invalid_request"],
      ["POST", "/v1/tasks/nonsense/fail", {}, 400, "invalid_request"],
      ["PUT", "/v1/queues/q", { concurrency: 0 }, 400, "invalid_request"],
      ["PUT", "/v1/queues/q", { burst: 3 }, 400, "invalid_request"],
      ["GET", "/v1/queues/q/dead?limit=0", undefined, 400, "invalid_request"],
      ["GET", "/v1/queues/q", undefined, 405, "method_not_allowed"],
    ];
    for (const [method, path, body, status, code] of wrong)
      expect([path, ...(await refused(method, path, body))]).toEqual([path, status, code]);
    const forged = Buffer.from(
      JSON.stringify(["o", "order", 1, "charge", 1, "payments", 1, "guess", 1, "$JS.API.X"]),
    ).toString("base64url");
    expect(await refused("POST", `/v1/tasks/${forged}/complete`, {})).toEqual([409, "step_not_begun"]);
  });

  it("has a limit of waiting polls", async () => {
    world = await startWorld({ server: { settings: { waitingPollsMax: 1 } } });
    const first = call<Polled>("POST", "/v1/queues/q/poll?waitMs=1000");
    await expect
      .poll(async () => (await refused("POST", "/v1/queues/q/poll?waitMs=0"))[1], deadline)
      .toBe("overloaded");
    expect((await first).json.tasks).toEqual([]);
  });
});
