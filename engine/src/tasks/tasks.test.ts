import { createMemoryLog, createMemoryServer, type MemoryServer } from "@millrace/event-log";
import type { WorkflowEvent } from "@millrace/schemas";
import { afterEach, describe, expect, test } from "vitest";
import { connect } from "../connect.ts";
import type { TaskOptions, WorkflowContext } from "../context.ts";
import { defineWorkflow, type WorkflowDefinition } from "../definition.ts";
import { NonRetryableError, RetryAfterError, type StepFailedError } from "../failures.ts";
import type { Millrace } from "../millrace.ts";
import type { WorkerOptions } from "../worker.ts";
import type { TaskContext } from "./task-function.ts";

const open: Millrace[] = [];
afterEach(async () => {
  await Promise.all(open.splice(0).map((connection) => connection.close()));
});

const deadline = { timeout: 15_000, interval: 5 };

async function connected(server: MemoryServer, taskLeaseMs = 500): Promise<Millrace> {
  const millrace = await connect({ log: createMemoryLog({ server, taskLeaseMs }) });
  open.push(millrace);
  return millrace;
}

/** Each feature with runs kept in memory, replayed after every commit, and dropped whenever idle. */
const modes: [string, Partial<WorkerOptions>][] = [
  ["kept in memory", {}],
  ["replayed after every commit", { replayAlways: true }],
  ["parked whenever idle", { runsMax: 0 }],
];

async function eventsOf(millrace: Millrace, id: string): Promise<WorkflowEvent[]> {
  return (await millrace.log.load(id)).flatMap(({ events }) => [...events]);
}
async function typesOf(millrace: Millrace, id: string): Promise<string[]> {
  return (await eventsOf(millrace, id)).map(({ type }) => type);
}

/** One attempt at a time, without waiting between them. */
const quick = { retry: { maxAttempts: 3, initialDelayMs: 1, jitter: "none" as const } };
const payments: TaskOptions = { queue: "payments", ...quick };

describe.each(modes)("%s", (_title, options) => {
  interface World {
    readonly server: MemoryServer;
    readonly owner: Millrace;
    readonly workflow: WorkflowDefinition<null>;
  }
  async function world(code: (ctx: WorkflowContext) => Promise<unknown>): Promise<World> {
    const server = createMemoryServer();
    const owner = await connected(server);
    const workflow = defineWorkflow({ type: "order" }, (ctx, _input: null) => code(ctx));
    await owner.worker({ workflows: [workflow], ...options });
    return { server, owner, workflow };
  }

  test("a worker of another process does the task; its history says who and when", async () => {
    const { server, owner, workflow } = await world((ctx) => ctx.task("charge", { amount: 3 }, payments));
    const handle = await owner.start(workflow, null, { id: "o" });
    const elsewhere = await connected(server);
    const seen: Partial<TaskContext>[] = [];
    const worker = await elsewhere.worker({
      tasks: {
        charge: ({ signal: _signal, heartbeat: _heartbeat, lastDetails: _details, log: _log, ...task }) => {
          seen.push(task);
          return { paid: task.input.amount };
        },
      },
      queues: ["payments"],
      name: "till 7",
    });
    expect(await handle.result()).toEqual({ paid: 3 });
    expect(seen).toEqual([
      {
        input: { amount: 3 },
        name: "charge",
        workflowId: "o",
        queue: "payments",
        attempt: 1,
        idempotencyKey: "o/1/charge#1",
      },
    ]);
    expect(await typesOf(owner, "o")).toEqual([
      ...["WorkflowStarted", "StepScheduled", "StepStarted", "StepCompleted", "WorkflowCompleted"],
    ]);
    expect((await eventsOf(owner, "o"))[2]).toMatchObject({ data: { worker: "till 7", attempt: 1 } });
    await expect.poll(() => worker.stats().tasksRunning).toBe(0);
    expect(await owner.tasks.queues()).toMatchObject([{ queue: "payments", depth: 0, inFlight: 0 }]);
  });

  test("many tasks of one run at once, by two workers: each begun once, recorded once", async () => {
    const { server, owner, workflow } = await world(async (ctx) => {
      const all = Array.from({ length: 40 }, (_, n) => ctx.task("square", n, payments));
      return Promise.all(all);
    });
    const begun: string[] = [];
    for (let n = 0; n < 2; n++) {
      const elsewhere = await connected(server);
      await elsewhere.worker({
        tasks: {
          square: ({ input, idempotencyKey }: TaskContext<number>) => {
            begun.push(idempotencyKey);
            return input ** 2;
          },
        },
        queues: ["payments"],
        taskConcurrency: 10,
      });
    }
    const handle = await owner.start(workflow, null, { id: "o" });
    expect(await handle.result()).toEqual(Array.from({ length: 40 }, (_, n) => n ** 2));
    expect(new Set(begun).size).toBe(40);
    expect(begun).toHaveLength(40);
    const types = await typesOf(owner, "o");
    expect(types.filter((type) => type === "StepCompleted")).toHaveLength(40);
  });

  test("failed attempts are retried by the task's policy under new tokens, then it is a dead letter", async () => {
    const { owner, workflow } = await world((ctx) =>
      ctx.task("charge", 1, payments).catch((error: unknown) => (error as StepFailedError).message),
    );
    const attempts: number[] = [];
    await owner.worker({
      tasks: {
        charge: ({ attempt }) => {
          attempts.push(attempt);
          throw new Error(`no money ${attempt}`);
        },
      },
      queues: ["payments"],
    });
    const handle = await owner.start(workflow, null, { id: "o" });
    expect(await handle.result()).toMatch(/failed after 3 attempts: no money 3/);
    expect(attempts).toEqual([1, 2, 3]);
    const events = await eventsOf(owner, "o");
    const tokens = events.flatMap((event) => (event.type === "StepScheduled" ? [event.data.token] : []));
    expect(new Set(tokens).size).toBe(3);
    await expect
      .poll(() => owner.tasks.deadLetters("payments"), deadline)
      .toMatchObject([
        {
          reason: "no money 3",
          attempts: 3,
          task: { workflowId: "o", name: "charge", input: 1, token: tokens[2] },
        },
      ]);
    expect(await owner.tasks.queues()).toMatchObject([{ depth: 0, inFlight: 0, deadLetters: 1 }]);
  });

  test("an error that must not be retried is final; a delay that is asked for is kept to", async () => {
    const { owner, workflow } = await world(async (ctx) => {
      const failed = await ctx
        .task("refuse", null, { queue: "payments" })
        .catch((error: unknown) => (error as StepFailedError).error);
      return [failed, await ctx.task("later", null, { queue: "payments" })];
    });
    const times: number[] = [];
    await owner.worker({
      tasks: {
        refuse: () => {
          throw new NonRetryableError("never");
        },
        later: ({ attempt }) => {
          times.push(Date.now());
          if (attempt === 1) throw new RetryAfterError("in a moment", 120);
          return attempt;
        },
      },
      queues: ["payments"],
    });
    const handle = await owner.start(workflow, null, { id: "o" });
    expect(await handle.result()).toMatchObject([{ message: "never" }, 2]);
    expect((times[1] ?? 0) - (times[0] ?? 0)).toBeGreaterThanOrEqual(115);
  });

  test("schedule-to-start: nobody takes it in time", async () => {
    const { owner, workflow } = await world((ctx) =>
      ctx
        .task("charge", null, { queue: "nobody", scheduleToStartMs: 40 })
        .catch((error: unknown) => (error as StepFailedError).code),
    );
    const handle = await owner.start(workflow, null, { id: "o" });
    expect(await handle.result()).toBe("step_timeout");
    expect(await typesOf(owner, "o")).toContain("StepTimedOut");
    await expect
      .poll(() => owner.tasks.deadLetters("nobody"), deadline)
      .toMatchObject([{ attempts: 1, reason: expect.stringMatching(/schedule-to-start limit of 40 ms/) }]);
    // Who takes its message now does not run it.
    const late: string[] = [];
    await owner.worker({ tasks: { charge: () => late.push("ran") }, queues: ["nobody"] });
    await expect.poll(() => owner.tasks.queues(), deadline).toMatchObject([{ depth: 0, inFlight: 0 }]);
    expect(late).toEqual([]);
  });

  test("start-to-close: the worker is told, its late result is refused, the next attempt is begun", async () => {
    const { owner, workflow } = await world((ctx) =>
      ctx.task("charge", null, { ...payments, startToCloseMs: 60 }),
    );
    const aborted: string[] = [];
    await owner.worker({
      tasks: {
        charge: async ({ attempt, signal }) => {
          if (attempt > 1) return attempt;
          await new Promise((resolve) => signal.addEventListener("abort", resolve));
          aborted.push((signal.reason as { code: string }).code);
          return "too late";
        },
      },
      queues: ["payments"],
    });
    const handle = await owner.start(workflow, null, { id: "o" });
    expect(await handle.result()).toBe(2);
    await expect.poll(() => aborted, deadline).toEqual(["step_timeout"]);
    const types = await typesOf(owner, "o");
    expect(types.filter((type) => type === "StepRetryScheduled")).toHaveLength(1);
    expect(types.filter((type) => type === "StepCompleted")).toHaveLength(1);
  });

  test("heartbeats keep an attempt alive; silence ends it; the next one gets the last details", async () => {
    const { owner, workflow } = await world((ctx) =>
      ctx.task("import", null, { ...payments, heartbeatMs: 150 }),
    );
    const lasted: number[] = [];
    await owner.worker({
      tasks: {
        import: async ({ attempt, signal, heartbeat, lastDetails }) => {
          if (attempt > 1) return { attempt, from: await lastDetails() };
          const begun = Date.now();
          for (let row = 1; row <= 20; row++) {
            heartbeat({ row });
            await new Promise((resolve) => setTimeout(resolve, 20));
          }
          await new Promise((resolve) => signal.addEventListener("abort", resolve));
          lasted.push(Date.now() - begun);
          return null;
        },
      },
      queues: ["payments"],
    });
    const handle = await owner.start(workflow, null, { id: "o" });
    expect(await handle.result()).toMatchObject({ attempt: 2, from: { row: 20 } });
    expect((await eventsOf(owner, "o")).find(({ type }) => type === "StepRetryScheduled")).toMatchObject({
      data: { error: { message: expect.stringMatching(/heartbeat limit of 150 ms/) } },
    });
    await expect.poll(() => lasted, deadline).toHaveLength(1);
    expect(lasted[0]).toBeGreaterThanOrEqual(400);
  });

  test("a cancel reaches the worker with its next sign of life; a task that lost a race is told too", async () => {
    const { owner, workflow } = await world(async (ctx) => {
      await ctx.race([ctx.task("slow", null, payments), ctx.sleep(50)]);
      return ctx.task("slow", null, payments);
    });
    const reasons: string[] = [];
    await owner.worker({
      tasks: {
        slow: async ({ signal, heartbeat }) => {
          const beating = setInterval(() => heartbeat(), 20);
          await new Promise((resolve) => signal.addEventListener("abort", resolve));
          clearInterval(beating);
          reasons.push((signal.reason as { code: string }).code);
          throw new NonRetryableError("stopped");
        },
      },
      queues: ["payments"],
    });
    const handle = await owner.start(workflow, null, { id: "o" });
    await expect.poll(() => reasons, deadline).toHaveLength(1);
    await expect
      .poll(async () => (await typesOf(owner, "o")).filter((type) => type === "StepStarted").length)
      .toBe(2);
    await handle.cancel({ reason: "enough" });
    await expect(handle.result()).rejects.toMatchObject({ code: "cancelled" });
    await expect.poll(() => reasons, deadline).toEqual(["cancelled", "cancelled"]);
    await expect.poll(() => owner.tasks.queues(), deadline).toMatchObject([{ depth: 0, inFlight: 0 }]);
    expect(await owner.tasks.deadLetters("payments")).toEqual([]);
  });

  test("a worker that dies loses its task to another one, as the next attempt; its late result is refused", async () => {
    const { server, owner, workflow } = await world((ctx) => ctx.task("charge", null, payments));
    const dying = await connected(server, 150);
    const [polled] = await Promise.all([
      dying.tasks.poll("payments", { waitMs: 10_000, worker: "dying" }),
      owner.start(workflow, null, { id: "o" }),
    ]);
    expect(polled).toMatchObject([{ attempt: 1, name: "charge" }]);
    const alive = await connected(server, 150);
    await alive.worker({ tasks: { charge: ({ attempt }) => attempt }, queues: ["payments"] });
    expect(await owner.handle("o").result()).toBe(2);
    await expect(dying.tasks.complete(polled[0]?.token ?? "", "late")).rejects.toMatchObject({
      code: "attempt_superseded",
    });
  });
});

test("a worker that is drained gives back what does not end in time; what ends in time is recorded", async () => {
  const server = createMemoryServer();
  const owner = await connected(server, 10_000);
  const workflow = defineWorkflow({ type: "order" }, async (ctx, _input: null) =>
    Promise.all([ctx.task("short", null, payments), ctx.task("long", null, payments)]),
  );
  await owner.worker({ workflows: [workflow] });
  const leaving = await connected(server, 10_000);
  const begun: string[] = [];
  const worker = await leaving.worker({
    tasks: {
      short: async () => {
        begun.push("short");
        await new Promise((resolve) => setTimeout(resolve, 60));
        return "short by the first";
      },
      long: async ({ signal }) => {
        begun.push("long");
        await new Promise((resolve) => signal.addEventListener("abort", resolve));
        return "never";
      },
    },
    queues: ["payments"],
  });
  const handle = await owner.start(workflow, null, { id: "o" });
  await expect.poll(() => begun.length, deadline).toBe(2);
  await worker.drain({ deadlineMs: 250 });
  const staying = await connected(server, 10_000);
  await staying.worker({
    tasks: { short: () => "short by the second", long: ({ attempt }) => `long ${attempt}` },
    queues: ["payments"],
  });
  expect(await handle.result()).toEqual(["short by the first", "long 2"]);
});

test("a task goes to a worker that has its function; at most so many of a queue run in a worker", async () => {
  const server = createMemoryServer();
  const owner = await connected(server);
  const workflow = defineWorkflow({ type: "order" }, async (ctx, _input: null) =>
    Promise.all(Array.from({ length: 12 }, (_, n) => ctx.task(n % 2 === 0 ? "even" : "odd", n, payments))),
  );
  await owner.worker({ workflows: [workflow] });
  let running = 0;
  let most = 0;
  const slow = async ({ name, input }: TaskContext<number>): Promise<string> => {
    most = Math.max(most, ++running);
    await new Promise((resolve) => setTimeout(resolve, 5));
    running--;
    return `${name} ${input}`;
  };
  const [first, second] = [await connected(server), await connected(server)];
  await first.worker({ tasks: { even: slow }, queues: ["payments"], taskConcurrency: 1 });
  await second.worker({ tasks: { odd: slow }, queues: ["payments"], taskConcurrency: 1 });
  const result = await (await owner.start(workflow, null, { id: "o" })).result();
  expect(result).toEqual(Array.from({ length: 12 }, (_, n) => `${n % 2 === 0 ? "even" : "odd"} ${n}`));
  expect(most).toBeLessThanOrEqual(2);
});

test("an outcome waits for a log that is away; a task lost while its worker is alive goes on there", async () => {
  const server = createMemoryServer();
  const owner = await connected(server);
  const workflow = defineWorkflow({ type: "order" }, (ctx, _input: null) =>
    ctx.task("charge", null, payments),
  );
  let runs = 0;
  let finish = (): void => undefined;
  await owner.worker({
    workflows: [workflow],
    tasks: {
      charge: async ({ attempt }) => {
        runs++;
        await new Promise<void>((resolve) => (finish = resolve));
        return attempt;
      },
    },
    queues: ["payments"],
  });
  const handle = await owner.start(workflow, null, { id: "o" });
  await expect.poll(() => runs, deadline).toBe(1);
  server.disconnect();
  finish();
  await new Promise((resolve) => setTimeout(resolve, 50));
  server.reconnect();
  expect(await handle.result()).toBe(1);
  expect(runs).toBe(1);
});

test("a task of a paused run is not begun until the run is resumed", async () => {
  const server = createMemoryServer();
  const owner = await connected(server);
  const workflow = defineWorkflow({ type: "order" }, (ctx, _input: null) => ctx.task("charge", 1, payments));
  await owner.worker({ workflows: [workflow] });
  const handle = await owner.start(workflow, null, { id: "o" });
  await expect.poll(async () => (await owner.tasks.queues())[0]?.depth, deadline).toBe(1);
  await handle.pause({ reason: "audit" });
  let calls = 0;
  await owner.worker({ tasks: { charge: () => ++calls }, queues: ["payments"] });
  // It was taken, and given back for later.
  await expect
    .poll(async () => (await owner.tasks.queues())[0], deadline)
    .toMatchObject({ depth: 0, inFlight: 1 });
  expect(calls).toBe(0);
  await handle.resume();
  expect(await handle.result()).toBe(1);
});

test("redrive: runs that failed with their task go on from it; one that dealt with the failure is left alone", async () => {
  const server = createMemoryServer();
  const owner = await connected(server);
  const once: TaskOptions = { queue: "payments", retry: { maxAttempts: 1 } };
  const failing = defineWorkflow({ type: "order" }, async (ctx, _input: null) => {
    const stock = await ctx.step("reserve", () => "reserved");
    return [stock, await Promise.all([ctx.task("charge", 1, once), ctx.task("charge", 2, once)])];
  });
  const dealing = defineWorkflow({ type: "dealing" }, async (ctx, _input: null) => {
    const paid = await ctx.task("charge", 3, once).catch(() => "not paid");
    await ctx.waitForSignal("go");
    return paid;
  });
  let broken = true;
  await owner.worker({
    workflows: [failing, dealing],
    tasks: {
      charge: ({ input }) => {
        if (broken) throw new Error("till is broken");
        return input;
      },
    },
    queues: ["payments"],
  });
  const failed = await owner.start(failing, null, { id: "failed" });
  const going = await owner.start(dealing, null, { id: "open" });
  await expect(failed.result()).rejects.toMatchObject({ code: "workflow_failed" });
  await expect.poll(() => owner.tasks.deadLetters("payments"), deadline).toHaveLength(3);
  broken = false;
  const { redriven, skipped } = await owner.tasks.redrive("payments", { reason: "mended", by: "ada" });
  expect(new Set(redriven.map(({ workflowId }) => workflowId))).toEqual(new Set(["failed"]));
  expect(redriven).toHaveLength(2);
  expect(skipped).toMatchObject([{ workflowId: "open", reason: expect.stringMatching(/open/) }]);
  expect(await failed.result()).toEqual(["reserved", [1, 2]]);
  const reset = (await eventsOf(owner, "failed")).find(({ type }) => type === "WorkflowReset");
  expect(reset).toMatchObject({ data: { reason: "mended", by: "ada", kind: "retry" } });
  const letters = await owner.tasks.deadLetters("payments");
  expect(letters).toMatchObject([{ task: { workflowId: "open" } }]);
  const tokens = letters.map(({ task }) => task.token);
  await owner.tasks.redrive("payments", { tokens, discard: true });
  expect(await owner.tasks.deadLetters("payments")).toEqual([]);
  await going.signal("go");
  expect(await going.result()).toBe("not paid");
});

test("what is no worker of tasks is refused", async () => {
  const millrace = await connected(createMemoryServer());
  const wrong: WorkerOptions[] = [{ tasks: { a: () => 1 } }, { queues: ["q"] }, {}];
  for (const options of wrong)
    await expect(millrace.worker(options)).rejects.toMatchObject({ code: "invalid_request" });
  await expect(millrace.worker({ tasks: { a: () => 1 }, queues: ["a.b"] })).rejects.toMatchObject({
    code: "invalid_id",
  });
  await expect(
    millrace.worker({ tasks: { a: () => 1 }, queues: ["q"], taskConcurrency: 0 }),
  ).rejects.toMatchObject({ code: "invalid_request" });
  for (const token of ["", "abc", Buffer.from("[1,2]").toString("base64url")])
    await expect(async () => millrace.tasks.complete(token)).rejects.toMatchObject({ code: "invalid_id" });
});
