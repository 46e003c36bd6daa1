/** Corners of durable code where counts, nesting or order are extreme, in virtual time and in every way of keeping a run. */
import { describe, expect, test } from "vitest";
import { defineWorkflow, type AnyWorkflowDefinition } from "./definition.ts";
import { createTestEnvironment, type TestEnvironment } from "./testing/test-environment.ts";
import type { WorkerOptions } from "./worker.ts";

const hour = 3_600_000;
const modes: [string, Partial<WorkerOptions>][] = [
  ["kept in memory", { replayAlways: false }],
  ["replayed after every commit", {}],
  ["parked whenever idle", { replayAlways: false, runsMax: 0 }],
];
const codeOf = (error: unknown): string => (error as { code: string }).code;

async function inEnvironment(
  workflows: readonly AnyWorkflowDefinition[],
  worker: Partial<WorkerOptions>,
  act: (env: TestEnvironment) => Promise<void>,
): Promise<void> {
  const env = await createTestEnvironment({ workflows, worker });
  await act(env);
  // Replays every history once more.
  await env.close();
}

async function countsOf(env: TestEnvironment, id: string): Promise<Record<string, number>> {
  const counts: Record<string, number> = {};
  for (const { type } of (await env.history(id)).events) counts[type] = (counts[type] ?? 0) + 1;
  return counts;
}

test(
  "ten thousand timers in one run: all fire, each once, in order of time",
  { timeout: 60_000 },
  async () => {
    const count = 10_000;
    const many = defineWorkflow({ type: "many" }, async (ctx, _input: null) => {
      const order: number[] = [];
      const timers = Array.from({ length: count }, (_, n) =>
        ctx.sleep(((n * 7_919) % count) * 10, { name: `t${n}` }).then(() => order.push((n * 7_919) % count)),
      );
      await Promise.all(timers);
      return order.every((each, index) => index === 0 || (order[index - 1] ?? 0) < each);
    });
    await inEnvironment([many], { replayAlways: false }, async (env) => {
      const run = await env.start(many, null, { id: "m" });
      await env.advance(count * 10);
      expect(await run.result()).toBe(true);
      expect(await countsOf(env, "m")).toMatchObject({ TimerStarted: count, TimerFired: count });
    });
  },
);

describe.each(modes)("%s", (_title, worker) => {
  test("what was due in the past fires at once", async () => {
    const past = defineWorkflow({ type: "past" }, async (ctx, _input: null) => {
      const before = ctx.now();
      await ctx.sleep(new Date(0));
      await ctx.sleep(-hour);
      return ctx.now() - before;
    });
    await inEnvironment([past], worker, async (env) => {
      expect(await (await env.start(past, null)).result()).toBe(0);
    });
  });

  test("races of races and scopes in scopes: the nearest limit ends its own part and nothing else", async () => {
    const nested = defineWorkflow({ type: "nested" }, async (ctx, _input: null) => {
      const raced = await ctx.race([
        ctx.race([ctx.sleep(3 * hour).then(() => "slow"), ctx.sleep(2 * hour).then(() => "two")]),
        ctx.race([ctx.waitForSignal("never"), ctx.sleep(hour).then(() => "one")]),
      ]);
      const scoped = await ctx.scope(
        async (outer) => {
          const inner = await outer
            .scope((innermost) => innermost.sleep(9 * hour), { timeoutMs: hour })
            .catch(codeOf);
          const shielded = await outer.shield((own) => own.sleep(hour).then(() => "shielded"));
          return [inner, shielded];
        },
        { timeoutMs: 5 * hour },
      );
      const late = await ctx
        .scope((outer) => outer.scope((inner) => inner.sleep(9 * hour), { timeoutMs: 8 * hour }), {
          timeoutMs: hour,
        })
        .catch(codeOf);
      return { raced, scoped, late };
    });
    await inEnvironment([nested], worker, async (env) => {
      const began = env.now();
      const output = await (await env.start(nested, null)).result();
      expect(output).toEqual({ raced: "one", scoped: ["cancelled", "shielded"], late: "cancelled" });
      expect(env.now() - began).toBe(4 * hour);
    });
  });

  test("an update that waits, one that races the end, and one after it", async () => {
    const open = defineWorkflow({ type: "open" }, async (ctx, _input: null) => {
      let said = "";
      ctx.onUpdate<string>("say", async (word) => {
        await ctx.sleep(hour);
        said += word;
        return said;
      });
      await ctx.waitUntil(() => said.length >= 2);
      return said;
    });
    await inEnvironment([open], worker, async (env) => {
      const run = await env.start(open, null, { id: "o" });
      await env.idle();
      const first = run.update("say", "a", { id: "1" });
      await env.idle();
      // The run ends with the second one; the third one is taken in, and never done.
      const second = run.update("say", "b", { id: "2" });
      const third = run.update("say", "c", { id: "3" });
      const ends = await Promise.allSettled([first, second, third]);
      expect(ends.filter(({ status }) => status === "fulfilled").length).toBeGreaterThanOrEqual(2);
      expect(await run.result()).toHaveLength(2);
      await expect(run.update("say", "d")).rejects.toMatchObject({ code: "workflow_closed" });
      expect((await countsOf(env, "o"))["UpdateAccepted"]).toBeLessThanOrEqual(3);
    });
  });

  test("a cancel while compensations run does not stop them, and a child's end reaches a parent that was put away", async () => {
    const undone: string[] = [];
    const child = defineWorkflow({ type: "child" }, async (ctx, _input: null) => {
      await ctx.sleep(9 * hour);
      return "grown";
    });
    const saga = defineWorkflow({ type: "saga" }, async (ctx, _input: null) => {
      ctx.compensate("first", () => void undone.push("first"));
      ctx.compensate(
        "second",
        ({ attempt }) => {
          if (attempt < 3) throw new Error("not yet");
          undone.push("second");
        },
        { retry: { initialDelayMs: hour, jitter: "none" } },
      );
      const same = ctx.child(child, null, { id: "only" });
      const again = await ctx.child(child, null, { id: "only" }).catch(codeOf);
      const grown = await same;
      throw new Error(`${grown} ${again}`);
    });
    await inEnvironment([saga, child], worker, async (env) => {
      const run = await env.start(saga, null, { id: "s" });
      await env.advance(9 * hour + 1_000);
      await run.cancel();
      await expect(run.result()).rejects.toMatchObject({
        code: expect.stringMatching(/workflow_failed|cancelled/) as string,
      });
      expect(undone).toEqual(["second", "first"]);
      const counts = await countsOf(env, "s");
      expect(counts).toMatchObject({ ChildWorkflowClosed: 1, CompensationCompleted: 2 });
    });
  });

  test("patched, with the deploy and an eviction in the middle: one answer for the rest of the run", async () => {
    const before = defineWorkflow({ type: "p" }, async (ctx, _input: null) => {
      await ctx.step("old", () => 1);
      await ctx.waitForSignal("go");
      await ctx.sleep(hour);
      return "old";
    });
    const after = defineWorkflow({ type: "p" }, async (ctx, _input: null) => {
      const early = ctx.patched("early");
      await ctx.step(early ? "new" : "old", () => 1);
      await ctx.waitForSignal("go");
      const late = ctx.patched("late");
      await ctx.sleep(hour);
      return [early, late, ctx.patched("early"), ctx.patched("late")];
    });
    const env = await createTestEnvironment({ workflows: [before], worker });
    const old = await env.start(before, null, { id: "old" });
    await env.idle();
    await env.restart([after]);
    const fresh = await env.start(after, null, { id: "fresh" });
    await env.idle();
    await Promise.all([old.signal("go"), fresh.signal("go")]);
    await env.idle();
    await env.restart();
    expect(await env.handle("old").result()).toEqual([false, true, false, true]);
    expect(await env.handle("fresh").result()).toEqual([true, true, true, true]);
    await env.close();
  });
});
