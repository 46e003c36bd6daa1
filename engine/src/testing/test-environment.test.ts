import { setTimeout as delay } from "node:timers/promises";
import { afterEach, describe, expect, test } from "vitest";
import { defineWorkflow } from "../definition.ts";
import type { AnyWorkflowDefinition } from "../definition.ts";
import {
  createTestEnvironment,
  type TestEnvironment,
  type TestEnvironmentOptions,
} from "./test-environment.ts";

const hour = 3_600_000;
const day = 24 * hour;
const messageOf = (error: unknown): string => (error as Error).message;
const open: TestEnvironment[] = [];
afterEach(async () => {
  await Promise.allSettled(open.splice(0).map((each) => each.close()));
});

async function environment(
  workflows: readonly AnyWorkflowDefinition[],
  options: Partial<TestEnvironmentOptions> = {},
): Promise<TestEnvironment> {
  const env = await createTestEnvironment({ workflows, ...options });
  open.push(env);
  return env;
}

describe("time", () => {
  test("E2: a month of sleep takes milliseconds, and every timer fires at its moment", async () => {
    const nap = defineWorkflow({ type: "nap" }, async (ctx, _input: null) => {
      const times = [ctx.now()];
      for (let round = 0; round < 30; round++) {
        await ctx.sleep(day);
        times.push(ctx.now());
      }
      return times;
    });
    const env = await environment([nap]);
    const begun = performance.now();
    const times = await (await env.start(nap, null)).result();
    expect(performance.now() - begun).toBeLessThan(3_000);
    expect(times).toEqual(Array.from({ length: 31 }, (_, n) => Date.UTC(2026, 0, 1) + n * day));
    expect(env.now()).toBe(Date.UTC(2026, 0, 31));
  });

  test("E1: it stands still while nobody waits, so that a signal comes before a time-out of two days", async () => {
    const approval = defineWorkflow(
      { type: "approval" },
      async (ctx, _input: null) =>
        (await ctx.waitForSignal<string>("approve", { timeoutMs: 2 * day })) ?? "late",
    );
    const env = await environment([approval]);
    const inTime = await env.start(approval, null, { id: "in-time" });
    await env.idle();
    await env.advance(2 * day - 1);
    await inTime.signal("approve", "ada");
    expect(await inTime.result()).toBe("ada");
    expect(await (await env.start(approval, null, { id: "late" })).result()).toBe("late");
    expect(env.now()).toBe(Date.UTC(2026, 0, 5) - 1);
  });

  test("E2: a step does what it does in real time, and its time limit passes by advance", async () => {
    const slow = defineWorkflow({ type: "slow" }, (ctx, _input: null) =>
      ctx.step("wait", () => delay(30, "done"), { timeoutMs: hour }),
    );
    const env = await environment([slow]);
    expect(await (await env.start(slow, null)).result()).toBe("done");
    expect(env.now()).toBe(Date.UTC(2026, 0, 1));
    const hangs = defineWorkflow({ type: "hangs" }, (ctx, _input: null) =>
      ctx.step("hang", () => new Promise(() => undefined), { timeoutMs: hour, retry: { maxAttempts: 1 } }),
    );
    const other = await environment([hangs]);
    const run = await other.start(hangs, null);
    await other.advance(hour);
    await expect(run.result()).rejects.toMatchObject({ code: "workflow_failed" });
  });

  test("retries, run time limits, children, updates: as in production, without the waiting", async () => {
    const child = defineWorkflow(
      { type: "child", timeoutMs: 3 * day },
      async (ctx, input: { ms: number }) => {
        await ctx.sleep(input.ms);
        return ctx.step(
          "flaky",
          ({ attempt }) => {
            if (attempt < 5) throw new Error("not yet");
            return attempt;
          },
          { retry: { maxAttempts: 5, initialDelayMs: hour, jitter: "none" } },
        );
      },
    );
    const parent = defineWorkflow({ type: "parent" }, async (ctx, _input: null) => {
      let asked = 0;
      ctx.onUpdate("ask", async () => {
        await ctx.sleep(hour);
        return ++asked;
      });
      const late = ctx.child(child, { ms: 9 * day }).catch(messageOf);
      const inTime = ctx.child(child, { ms: day });
      return [await inTime, await late, asked];
    });
    const env = await environment([parent, child]);
    const run = await env.start(parent, null, { id: "p" });
    await env.idle();
    expect(await run.update("ask")).toBe(1);
    expect(await run.result()).toEqual([5, "Child workflow p-child-1 timed out", 1]);
  });
});

describe("what would go wrong in production fails here", () => {
  test("E3: code that a replay would not follow makes the run stuck at its first commit, and result says where", async () => {
    let replays = 0;
    const fickle = defineWorkflow({ type: "fickle" }, async (ctx, _input: null) => {
      const name = replays++ === 0 ? "first" : "other";
      await ctx.sleep(hour, { name });
      return name;
    });
    const env = await environment([fickle]);
    const run = await env.start(fickle, null, { id: "f" });
    await expect(run.result()).rejects.toMatchObject({
      code: "non_determinism",
      message: expect.stringContaining("recorded TimerStarted of first") as string,
    });
  });

  test("the guard: a clock in workflow code makes the run stuck, and names the call to use", async () => {
    const clocked = defineWorkflow({ type: "clocked" }, async (ctx, _input: null) => {
      await ctx.sleep(Date.now() % 7);
    });
    const env = await environment([clocked]);
    await expect((await env.start(clocked, null)).result()).rejects.toMatchObject({
      code: "non_deterministic_call",
      message: expect.stringContaining("Call ctx.now() instead") as string,
    });
  });

  test("a result that cannot come is refused, and says what the run waits for", async () => {
    const waits = defineWorkflow({ type: "waits" }, (ctx, _input: null) => ctx.waitForSignal("go"));
    const env = await environment([waits], { stalledMs: 20 });
    await expect((await env.start(waits, null, { id: "w" })).result()).rejects.toMatchObject({
      code: "timeout",
      message: expect.stringContaining("waits for signal go") as string,
    });
  });
});

test("tasks: stand-ins by name, whatever the queue, with retries and time limits; a month passes beside them", async () => {
  const attempts: number[] = [];
  const shipping = defineWorkflow({ type: "shipping" }, async (ctx, item: string) => {
    const label = await ctx.task("print", { item }, { queue: "printers", retry: { initialDelayMs: hour } });
    await ctx.sleep(30 * day);
    const lost = await ctx
      .task("lose", null, { queue: "void", startToCloseMs: hour, retry: { maxAttempts: 1 } })
      .catch(messageOf);
    return { label, lost };
  });
  const env = await environment([shipping], {
    tasks: {
      print: ({ input, attempt }) => {
        attempts.push(attempt);
        if (attempt === 1) throw new Error("paper jam");
        return `label for ${(input as { item: string }).item}`;
      },
      lose: () => new Promise(() => undefined),
    },
  });
  const run = await env.start(shipping, "book", { id: "s" });
  await env.advance(31 * day);
  expect(await run.result()).toEqual({
    label: "label for book",
    lost: expect.stringContaining("start-to-close limit") as string,
  });
  expect(attempts).toEqual([1, 2]);
});

test("restart: a crash in the middle, with the next version beside the old one; runs stay on theirs", async () => {
  const version = (number: string) =>
    defineWorkflow({ type: "v", version: number }, async (ctx, _input: null) => {
      const before = await ctx.step("before", () => number);
      await ctx.waitForSignal("go");
      return [before, await ctx.step("after", () => number)];
    });
  const env = await environment([version("1")]);
  const old = await env.start(version("1"), null, { id: "old" });
  await env.idle();
  await env.restart([version("1"), version("2")]);
  const fresh = await env.start(version("2"), null, { id: "fresh" });
  await env.idle();
  await Promise.all([old.signal("go"), fresh.signal("go")]);
  expect(await old.result()).toEqual(["1", "1"]);
  expect(await fresh.result()).toEqual(["2", "2"]);
});
