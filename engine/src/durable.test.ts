import { createMemoryLog, createMemoryServer, type MemoryServer } from "@millrace/event-log";
import type { StandardSchemaV1 } from "@standard-schema/spec";
import { afterEach, describe, expect, test } from "vitest";
import { connect } from "./connect.ts";
import type { WorkflowContext } from "./context.ts";
import { defineWorkflow, type WorkflowDefinition } from "./definition.ts";
import { NonRetryableError, type CancelledError, type ChildFailedError } from "./failures.ts";
import type { Millrace } from "./millrace.ts";
import type { WorkerOptions } from "./worker.ts";

const open: Millrace[] = [];
afterEach(async () => {
  await Promise.all(open.splice(0).map((connection) => connection.close()));
});

async function connected(server: MemoryServer = createMemoryServer()): Promise<Millrace> {
  const millrace = await connect({
    log: createMemoryLog({ server }),
  });
  open.push(millrace);
  return millrace;
}

/** Each feature in memory, replayed after every commit, and with nothing kept in memory that need not be. */
const modes: [string, Partial<WorkerOptions>][] = [
  ["kept in memory", {}],
  ["replayed after every commit", { replayAlways: true }],
  ["parked whenever idle", { runsMax: 0 }],
];

const statusOf = (error: unknown): string => (error as ChildFailedError).status;
const codeOf = (error: unknown): string => (error as CancelledError).code;

async function typesOf(millrace: Millrace, id: string): Promise<string[]> {
  return (await millrace.log.load(id)).flatMap(({ events }) => events.map(({ type }) => type));
}

describe.each(modes)("%s", (_title, options) => {
  async function run<Output>(
    code: (ctx: WorkflowContext) => Promise<Output>,
    type = "w",
  ): Promise<{ millrace: Millrace; workflow: WorkflowDefinition<null, Output> }> {
    const millrace = await connected();
    const workflow = defineWorkflow({ type }, (ctx, _input: null) => code(ctx));
    await millrace.worker({ workflows: [workflow], ...options });
    return { millrace, workflow };
  }

  test("ctx.sleep fires once, at its time", async () => {
    const { millrace, workflow } = await run(async (ctx) => {
      const before = ctx.now();
      await ctx.sleep(30);
      await ctx.sleep(new Date(ctx.now() + 10));
      return ctx.now() - before;
    });
    const handle = await millrace.start(workflow, null, { id: "s" });
    const slept = await handle.result();
    expect(slept).toBeGreaterThanOrEqual(40);
    expect(slept).toBeLessThan(5_000);
    expect((await typesOf(millrace, "s")).filter((type) => type.startsWith("Timer"))).toEqual([
      "TimerStarted",
      "TimerFired",
      "TimerStarted",
      "TimerFired",
    ]);
  });

  test("signals: early ones are kept in order, one id comes once, a time-out gives undefined", async () => {
    const { millrace, workflow } = await run(async (ctx) => {
      const got = [await ctx.waitForSignal("go"), await ctx.waitForSignal("go")];
      got.push(await ctx.waitForSignal("never", { timeoutMs: 20 }));
      return got;
    });
    const handle = await millrace.start(workflow, null, {
      id: "s",
      signal: { name: "go", payload: 1, id: "first" },
    });
    await handle.signal("go", 1, { id: "first" });
    await handle.signal("go", 2, { id: "second" });
    await handle.signal("go", 2, { id: "second" });
    expect(await handle.result()).toEqual([1, 2, null]);
    const types = await typesOf(millrace, "s");
    expect(types.filter((type) => type === "SignalReceived")).toHaveLength(2);
    expect(types.filter((type) => type === "WaitSatisfied")).toHaveLength(2);
    expect(types).toContain("WaitTimedOut");
    await expect(handle.signal("go", 3)).rejects.toMatchObject({ code: "workflow_closed" });
  });

  test("signals are typed by the definition: a sender is refused, and what comes in another way is ignored", async () => {
    const millrace = await connected();
    const approve: StandardSchemaV1 = {
      "~standard": {
        version: 1,
        vendor: "test",
        validate: (value) =>
          (value as { by?: unknown } | null)?.by === undefined
            ? { issues: [{ message: "says nobody", path: ["by"] }] }
            : { value },
      },
    };
    const workflow = defineWorkflow(
      { type: "typed", signals: { approve } },
      async (ctx, _input: null) => await ctx.waitForSignal("approve"),
    );
    await millrace.worker({ workflows: [workflow], ...options });
    const handle = await millrace.start(workflow, null, { id: "typed" });
    await expect(handle.signal("approve", {})).rejects.toMatchObject({
      code: "invalid_input",
      message: expect.stringContaining("by: says nobody") as string,
    });
    // By a handle that knows no definition, as over HTTP.
    await millrace.handle("typed").signal("approve", {});
    await handle.signal("approve", { by: "ada" });
    expect(await handle.result()).toEqual({ by: "ada" });
    await expect(
      millrace.start(workflow, null, { id: "other", signal: { name: "approve", payload: 1 } }),
    ).rejects.toMatchObject({ code: "invalid_input" });
  });

  test("queries and updates: read without a commit, validated, recorded once, answered; also when it is over", async () => {
    const { millrace, workflow } = await run(async (ctx) => {
      let sum = 0;
      ctx.onQuery("sum", () => sum);
      ctx.onUpdate<number>(
        "add",
        async (by) => {
          await ctx.step("note", () => by);
          return (sum += by);
        },
        {
          validate: (by) => {
            if (by < 0) throw new Error("only upwards");
          },
        },
      );
      await ctx.waitUntil(() => sum >= 5);
      return sum;
    });
    const handle = await millrace.start(workflow, null, { id: "u" });
    expect(await handle.query("sum")).toBe(0);
    const twice = ["add", 2, { id: "a" }] as const;
    expect(await Promise.all([handle.update(...twice), handle.update(...twice)])).toEqual([2, 2]);
    expect(await handle.update(...twice)).toBe(2);
    await expect(handle.update("add", -1)).rejects.toMatchObject({ code: "update_refused" });
    await expect(handle.update("subtract", 1)).rejects.toMatchObject({ code: "update_unknown" });
    await expect(handle.query("product")).rejects.toMatchObject({ code: "query_unknown" });
    expect(await handle.query("sum")).toBe(2);
    expect(await handle.update("add", 3, { id: "b" })).toBe(5);
    expect(await handle.result()).toBe(5);
    expect(await handle.query("sum")).toBe(5);
    expect(await handle.update("add", 3, { id: "b" })).toBe(5);
    const types = await typesOf(millrace, "u");
    expect(types.filter((type) => type === "UpdateAccepted")).toHaveLength(2);
  });

  test("children: output, failure, refusal, cancel by policy; each end reaches the parent once", async () => {
    const millrace = await connected();
    const child = defineWorkflow({ type: "child" }, async (ctx, input: { n: number }) => {
      if (input.n < 0) throw new NonRetryableError("negative");
      if (input.n === 0) await ctx.waitForSignal("never");
      return ctx.step("double", () => input.n * 2);
    });
    const parent = defineWorkflow({ type: "parent" }, async (ctx, _input: null) => {
      const [two, four] = await Promise.all([ctx.child(child, { n: 1 }), ctx.child(child, { n: 2 })]);
      const failed = await ctx.child(child, { n: -1 }).catch(statusOf);
      const taken = await ctx.child(child, { n: 1 }, { id: "taken" }).catch(statusOf);
      // Begun and not awaited.
      const others = [
        ctx.child(child, { n: 0 }, { id: "to-cancel" }),
        ctx.child(child, { n: 0 }, { id: "to-terminate", onClose: "terminate" }),
        ctx.child(child, { n: 0 }, { id: "to-abandon", onClose: "abandon" }),
      ];
      expect(others).toHaveLength(3);
      await ctx.sleep(20);
      return [two, four, failed, taken];
    });
    await millrace.worker({ workflows: [parent, child], ...options });
    await millrace.start(child, { n: 0 }, { id: "taken" });
    const handle = await millrace.start(parent, null, { id: "p" });
    expect(await handle.result()).toEqual([2, 4, "failed", "refused"]);
    await expect(millrace.handle("to-cancel").result()).rejects.toMatchObject({ code: "cancelled" });
    await expect(millrace.handle("to-terminate").result()).rejects.toMatchObject({ code: "terminated" });
    const types = await typesOf(millrace, "p");
    expect(types.filter((type) => type === "ChildWorkflowClosed")).toHaveLength(4);
    expect(await typesOf(millrace, "to-abandon")).toEqual(["WorkflowStarted", "WaitStarted"]);
  });

  test("cancel: scopes end what they wait for, a shield does not let it through, compensations run in reverse", async () => {
    const done: string[] = [];
    const { millrace, workflow } = await run(async (ctx) => {
      ctx.compensate("first", () => void done.push("first"));
      ctx.compensate("second", () => void done.push("second"));
      const timedOut = await ctx.scope((scope) => scope.sleep(60_000), { timeoutMs: 10 }).catch(codeOf);
      try {
        await ctx.waitForSignal("never");
      } finally {
        await ctx.shield((shielded) => shielded.step("clean up", () => void done.push(String(timedOut))));
      }
    });
    const handle = await millrace.start(workflow, null, { id: "c" });
    await expect.poll(() => typesOf(millrace, "c")).toContain("WaitStarted");
    await handle.cancel({ reason: "enough" });
    await expect(handle.result()).rejects.toMatchObject({ code: "cancelled" });
    expect(done).toEqual(["cancelled", "second", "first"]);
    const types = await typesOf(millrace, "c");
    expect(types.slice(-7)).toEqual([
      "WaitCancelled",
      "StepCompleted",
      "CompensationStarted",
      "CompensationCompleted",
      "CompensationStarted",
      "CompensationCompleted",
      "WorkflowCancelled",
    ]);
  });

  test("ctx.race cancels what lost: timers, waits, steps", async () => {
    const { millrace, workflow } = await run(async (ctx) => {
      const winner = await ctx.race([
        ctx.step("fast", () => "fast"),
        ctx.sleep(3_600_000).then(() => "slow"),
        ctx.waitForSignal<string>("never", { timeoutMs: 3_600_000 }),
      ]);
      const timer = ctx.sleep(3_600_000);
      await ctx.race([ctx.step("again", () => 1), timer.then(() => 2), timer as Promise<unknown>]);
      return winner;
    });
    expect(await (await millrace.start(workflow, null, { id: "r" })).result()).toBe("fast");
    const types = await typesOf(millrace, "r");
    expect(types.filter((type) => type === "TimerCancelled" || type === "WaitCancelled")).toEqual([
      "WaitCancelled",
      "TimerCancelled",
    ]);
  });

  test("continue as new: a short history under the same id, attributes and untaken signals go along", async () => {
    const millrace = await connected();
    const loop = defineWorkflow({ type: "loop" }, async (ctx, round: number) => {
      await ctx.step("work", ({ idempotencyKey }) => idempotencyKey);
      ctx.setAttributes({ round, seen: true });
      if (round < 3) return ctx.continueAsNew(round + 1);
      const kept = await ctx.waitForSignal("kept");
      return [ctx.run, kept, await ctx.step("work", ({ idempotencyKey }) => idempotencyKey)];
    });
    await millrace.worker({ workflows: [loop], ...options });
    const handle = await millrace.start(loop, 1, { id: "l", signal: { name: "kept", payload: "k" } });
    expect(await handle.result()).toEqual([3, "k", "l/3/work#2"]);
    const types = await typesOf(millrace, "l");
    expect(types.filter((type) => type === "WorkflowStarted")).toHaveLength(3);
    expect(types.filter((type) => type === "WorkflowContinuedAsNew")).toHaveLength(2);
  });

  test("continue as new: what came in before its commit is lost in no order: signals, and a cancel", async () => {
    const millrace = await connected();
    const loop = defineWorkflow({ type: "loop" }, async (ctx, got: unknown[]) => {
      const next = [...got, await ctx.waitForSignal("n")];
      return next.length === 5 ? next : ctx.continueAsNew(next);
    });
    const handle = await millrace.start(loop, [], { id: "l" });
    for (let n = 1; n <= 5; n++) await handle.signal("n", n, { id: `n${n}` });
    const toCancel = await millrace.start(loop, [], { id: "c", signal: { name: "n", payload: 1 } });
    await toCancel.cancel({ reason: "enough" });
    await millrace.worker({ workflows: [loop], ...options });
    expect(await handle.result()).toEqual([1, 2, 3, 4, 5]);
    await expect(toCancel.result()).rejects.toMatchObject({ code: "cancelled" });
  });

  test("a run's time limit closes it as timed out", async () => {
    const millrace = await connected();
    const slow = defineWorkflow({ type: "slow", timeoutMs: 30 }, (ctx, _input: null) => ctx.sleep(3_600_000));
    await millrace.worker({ workflows: [slow], ...options });
    const handle = await millrace.start(slow, null, { id: "t" });
    await expect(handle.result()).rejects.toMatchObject({ code: "workflow_timed_out" });
  });

  test("patched: new runs take the new way, a run that has passed the point keeps the old one", async () => {
    const server = createMemoryServer();
    const first = await connected(server);
    const before = defineWorkflow({ type: "p" }, async (ctx, _input: null) => {
      await ctx.step("old", () => 1);
      await ctx.waitForSignal("go");
      return "old";
    });
    const after = defineWorkflow({ type: "p" }, async (ctx, _input: null) => {
      const patched = ctx.patched("better");
      await ctx.step(patched ? "new" : "old", () => 1);
      await ctx.waitForSignal("go");
      return ctx.patched("better") ? "new" : "old";
    });
    const oldWorker = await first.worker({ workflows: [before], ...options });
    const oldRun = await first.start(before, null, { id: "o" });
    await expect.poll(() => typesOf(first, "o")).toContain("WaitStarted");
    await oldWorker.drain();
    const second = await connected(server);
    await second.worker({ workflows: [after], ...options });
    const newRun = await second.start(after, null, { id: "n" });
    await expect.poll(() => typesOf(second, "n")).toContain("WaitStarted");
    await Promise.all([oldRun.signal("go"), newRun.signal("go")]);
    expect(await second.handle("o").result()).toBe("old");
    expect(await newRun.result()).toBe("new");
    expect((await typesOf(second, "n")).filter((type) => type === "PatchRecorded")).toHaveLength(1);
  });
});
