/** Three ways to change the code of runs that are under way: a pinned version, a patch, a migration. */
import { connect, defineWorkflow, planMigration } from "@millrace/engine";

const first = defineWorkflow({ type: "visa", version: "1" }, async (ctx, _input: null) => {
  await ctx.step("check", () => "checked");
  await ctx.waitForSignal("decide");
  return "by version 1";
});

// Rung 1: the new version beside the old one. Runs stay on theirs.
const second = defineWorkflow({ type: "visa", version: "2" }, async (ctx, _input: null) => {
  await ctx.step("check", () => "checked");
  await ctx.waitForSignal("decide");
  await ctx.step("notify", () => "told");
  return "by version 2";
});
// Not one that fits runs of version 1: it asks for another step first.
const third = defineWorkflow({ type: "visa", version: "3" }, async (ctx, _input: null) => {
  await ctx.step("screen", () => "screened");
  await ctx.waitForSignal("decide");
  return "by version 3";
});

const millrace = await connect({ servers: process.env["MILLRACE_NATS_URL"] ?? "nats://127.0.0.1:4222" });
const old = await millrace.worker({ workflows: [first], group: "visa" });
for (const id of ["visa-1", "visa-2"]) {
  await millrace.start(first, null, { id });
  await reached(id, "WaitStarted");
}
await old.drain();
await millrace.worker({ workflows: [first, second], group: "visa" });

// Rung 3: a run goes on with other code, when its history fits it. First ask.
for (const plan of [
  ...(await planMigration(millrace.log, third, ["visa-1"])),
  ...(await planMigration(millrace.log, second, ["visa-1"])),
])
  console.log(
    `${plan.workflowId} to ${plan.to}: ${plan.outcome} ${plan.divergence?.message ?? ""}`.trimEnd(),
  );
await millrace.handle("visa-1").migrate("2", { by: "ada", reason: "notify them" });
for (const id of ["visa-1", "visa-2"]) {
  await millrace.handle(id).signal("decide");
  console.log(id, await millrace.handle(id).result());
}

// Rung 2: one code for both. A run that has passed the point keeps the old way, every other one takes the new.
const patched = defineWorkflow({ type: "permit" }, async (ctx, _input: null) => {
  if (ctx.patched("two-eyes")) {
    await ctx.step("first look", () => "fine");
    return ctx.step("second look", () => "fine, twice");
  }
  return ctx.step("look", () => "fine");
});
await millrace.worker({ workflows: [patched] });
console.log(await (await millrace.start(patched, null, { id: "permit-1" })).result());
await millrace.close();

async function reached(id: string, type: string): Promise<void> {
  for (;;) {
    const history = await millrace.log.load(id);
    if (history.some(({ events }) => events.some((event) => event.type === type))) return;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}
