/**
 * One workflow for each feature, of which a history was recorded. The code must not change: its histories under `golden/`
 * are those that older engines wrote, and every later engine has to follow them. A new feature gets a new workflow.
 */
import { defineWorkflow } from "../definition.ts";
import { NonRetryableError } from "../failures.ts";
import type { TestEnvironment } from "./test-environment.ts";

const hour = 3_600_000;
const messageOf = (error: unknown): string => (error as Error).message;

const child = defineWorkflow({ type: "golden-child" }, async (ctx, input: { fail: boolean }) => {
  await ctx.sleep(hour);
  if (input.fail) throw new NonRetryableError("as asked");
  return ctx.step("work", ({ idempotencyKey }) => idempotencyKey);
});

const steps = defineWorkflow(
  { type: "golden-steps", steps: ["a", "b"] },
  async (ctx, input: { n: number }) => {
    const [a, flaky] = await Promise.all([
      ctx.step("a", () => input.n + 1),
      ctx.step(
        "flaky",
        ({ attempt }) => {
          if (attempt < 3) throw new Error(`attempt ${attempt}`);
          return attempt;
        },
        { retry: { initialDelayMs: 1_000, jitter: "none" } },
      ),
    ]);
    const failed = await ctx.step("b", () => Promise.reject(new NonRetryableError("no"))).catch(messageOf);
    ctx.progress({ current: 1, total: 2, message: "half" });
    return { a, flaky, failed };
  },
);

const time = defineWorkflow({ type: "golden-time" }, async (ctx, _input: null) => {
  const began = ctx.now();
  await ctx.sleep(24 * hour);
  await ctx.sleep(new Date(ctx.now() + hour), { name: "until" });
  const raced = await ctx.race([ctx.sleep(9 * hour).then(() => "slow"), ctx.step("fast", () => "fast")]);
  return { sleptMs: ctx.now() - began, raced };
});

const signals = defineWorkflow({ type: "golden-signals" }, async (ctx, _input: null) => {
  const early = await ctx.waitForSignal("go");
  const late = await ctx.waitForSignal("go");
  const never = await ctx.waitForSignal("never", { timeoutMs: hour });
  return { early, late, never: never ?? null };
});

const updates = defineWorkflow({ type: "golden-updates" }, async (ctx, _input: null) => {
  let sum = 0;
  ctx.onUpdate("add", async (by: number) => {
    await ctx.step("note", () => by);
    return (sum += by);
  });
  const reached = await ctx.waitUntil(() => sum > 4, { timeoutMs: hour });
  const again = await ctx.waitUntil(() => sum > 100, { timeoutMs: hour });
  return { sum, reached, again };
});

const children = defineWorkflow({ type: "golden-children" }, async (ctx, _input: null) => {
  const good = ctx.child(child, { fail: false });
  const bad = ctx.child(child, { fail: true }, { id: "named" }).catch(messageOf);
  const lost = ctx.race([
    ctx.child(child, { fail: false }, { onClose: "terminate" }),
    ctx.step("first", () => "first"),
  ]);
  return [await good, await bad, await lost];
});

const saga = defineWorkflow({ type: "golden-saga" }, async (ctx, _input: null) => {
  ctx.compensate("undo first", () => "undone");
  ctx.compensate("undo second", () => "undone");
  const scoped = await ctx.scope((scope) => scope.sleep(9 * hour), { timeoutMs: hour }).catch(messageOf);
  try {
    await ctx.waitForSignal("never");
  } finally {
    await ctx.shield((shielded) => shielded.step("clean up", () => scoped));
  }
});

const continued = defineWorkflow({ type: "golden-continued" }, async (ctx, input: { round: number }) => {
  ctx.setAttributes({ round: input.round });
  const drawn = [ctx.random() < 0.5, ctx.uuid()];
  await ctx.step(drawn[0] === true ? "heads" : "tails", () => drawn);
  if (input.round < 3) return ctx.continueAsNew({ round: input.round + 1 });
  return ctx.run;
});

const patched = defineWorkflow({ type: "golden-patched" }, async (ctx, _input: null) => {
  if (ctx.patched("better")) await ctx.step("better", () => 1);
  else await ctx.step("worse", () => 1);
  await ctx.waitForSignal("go");
  return ctx.patched("later");
});

export const goldenWorkflows = [
  steps,
  time,
  signals,
  updates,
  children,
  child,
  saga,
  continued,
  patched,
] as const;

/** Runs each of them as it is recorded; ids are the names of the files. */
export async function runGoldenWorkflows(env: TestEnvironment): Promise<string[]> {
  const begun = [
    await env.start(steps, { n: 1 }, { id: "steps" }),
    await env.start(time, null, { id: "time" }),
    await env.start(signals, null, { id: "signals", signal: { name: "go", payload: "early", id: "once" } }),
    await env.start(updates, null, { id: "updates" }),
    await env.start(children, null, { id: "children", attributes: { region: "eu" } }),
    await env.start(saga, null, { id: "saga" }),
    await env.start(continued, { round: 1 }, { id: "continued" }),
    await env.start(patched, null, { id: "patched" }),
  ];
  await env.idle();
  await env.handle("signals").signal("go", "late");
  await env.handle("updates").update("add", 3, { id: "first" });
  await env.handle("updates").update("add", 4, { id: "second" });
  await env.handle("patched").signal("go");
  await env.advance(2 * hour);
  await env.handle("saga").cancel({ reason: "enough", by: "ada" });
  await Promise.allSettled(begun.map((handle) => handle.result()));
  return [...begun.map(({ id }) => id), "children-golden-child-1", "named"];
}
