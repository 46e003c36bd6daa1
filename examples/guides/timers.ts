/** Durable timers: the worker that began the sleep is gone when it ends; another one wakes the run. */
import { connect, defineWorkflow } from "@millrace/engine";

let welcomed = (): void => undefined;
const greeted = new Promise<void>((resolve) => (welcomed = resolve));

const trial = defineWorkflow({ type: "trial" }, async (ctx, input: { name: string; trialMs: number }) => {
  const until = new Date(ctx.now() + input.trialMs);
  await ctx.step("welcome", () => {
    console.log(`Welcome, ${input.name}.`);
    welcomed();
  });
  await ctx.sleep(until, { name: "trial" });
  await ctx.step("remind", () => console.log(`${input.name}, your trial is over.`));
  await ctx.sleep(50);
  return "asked twice";
});

const millrace = await connect({ servers: process.env["MILLRACE_NATS_URL"] ?? "nats://127.0.0.1:4222" });
const first = await millrace.worker({ workflows: [trial] });
const handle = await millrace.start(trial, { name: "Ada", trialMs: 1_000 }, { id: "trial-ada" });
// Draining records what runs: the end of the step, and with it the timer that the code asks for next.
await greeted;
await first.drain();
console.log("No worker runs.");
await millrace.worker({ workflows: [trial] });
console.log(await handle.result());

const late = await millrace.start(
  trial,
  { name: "Bob", trialMs: 3_600_000 },
  { id: "trial-bob", timeoutMs: 200 },
);
await late.result().catch((error: unknown) => console.log(String(error)));
await millrace.close();
