/** A workflow under test: no broker, no waiting, and every run replayed. */
import assert from "node:assert/strict";
import { defineWorkflow } from "@millrace/engine";
import { createTestEnvironment, replayHistories } from "@millrace/engine/testing";

const day = 86_400_000;

const subscription = defineWorkflow({ type: "subscription" }, async (ctx, input: { trialDays: number }) => {
  await ctx.sleep(input.trialDays * day);
  const paid = await ctx.task<boolean>("charge", { cents: 900 }, { queue: "payments" });
  const answer = await ctx.waitForSignal<string>("keep", { timeoutMs: 7 * day });
  return { paid, kept: answer ?? "no answer" };
});

const env = await createTestEnvironment({
  workflows: [subscription],
  // A stand-in for the worker of the queue, whatever language that is written in.
  tasks: { charge: ({ input }) => (input as { cents: number }).cents < 1_000 },
});

// A month and a week, in milliseconds.
const began = env.now();
const silent = await env.start(subscription, { trialDays: 30 }, { id: "silent" });
assert.deepEqual(await silent.result(), { paid: true, kept: "no answer" });
console.log(`${(env.now() - began) / day} days later: no answer`);

// Time stands still while nobody waits for a result: the signal comes in time.
const keen = await env.start(subscription, { trialDays: 1 }, { id: "keen" });
await env.advance(3 * day);
await keen.signal("keep", "yes");
assert.deepEqual(await keen.result(), { paid: true, kept: "yes" });
console.log("kept");

// What is recorded once is replayed on every later version of the code, in CI.
const recorded = [await env.history("silent"), await env.history("keen")];
console.log((await replayHistories([subscription], recorded)).map(({ ok }) => ok));

const shortened = defineWorkflow({ type: "subscription" }, async (ctx, input: { trialDays: number }) => {
  await ctx.sleep(input.trialDays * day);
  return ctx.task<boolean>("bill", { cents: 900 }, { queue: "payments" });
});
await replayHistories([shortened], recorded).catch((error: unknown) => console.log(String(error)));

// Clocks and randomness are refused to workflow code; steps may use them.
const hasty = defineWorkflow({ type: "hasty" }, (ctx, _input: null) => ctx.sleep(Date.now() + day));
await env.restart([subscription, hasty]);
const stuck = await env.start(hasty, null, { id: "hasty" });
await stuck.result().catch((error: unknown) => console.log(String(error)));

// Replays every run once more.
await env.close();
