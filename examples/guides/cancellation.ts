/** A trip that is cancelled half-way: what was booked is undone, last booking first, whatever happens to the worker. */
import { setTimeout as delay } from "node:timers/promises";
import { connect, defineWorkflow } from "@millrace/engine";

const trip = defineWorkflow({ type: "trip" }, async (ctx, input: { confirmMs: number }) => {
  ctx.compensate("cancel flight", () => console.log("flight cancelled"));
  await ctx.step("book flight", () => console.log("flight booked"));
  ctx.compensate("cancel hotel", () => console.log("hotel cancelled"));
  await ctx.step("book hotel", () => console.log("hotel booked"));

  // Whichever comes first; what lost is cancelled.
  const answer = await ctx.race([
    ctx.waitForSignal<string>("confirm"),
    ctx.sleep(input.confirmMs, { name: "confirmation" }),
  ]);
  if (answer === undefined) throw new Error("The customer did not confirm.");

  // A part of its own, with a time limit; only this part is cancelled by it.
  const weather = await ctx
    .scope(async (part) => part.step("weather", slowly, { timeoutMs: 60_000 }), { timeoutMs: 100 })
    .catch(() => "unknown");
  try {
    return await ctx.step("travel", slowly);
  } finally {
    // A cancel does not reach what is shielded.
    await ctx.shield(async (safe) => safe.step("note", () => console.log(`noted, weather ${weather}`)));
  }
});

/** A step that ends when it is told to. */
function slowly({ signal }: { readonly signal: AbortSignal }): Promise<string> {
  return new Promise((_resolve, reject) => {
    signal.addEventListener("abort", () => reject(new Error("stopped")), { once: true });
  });
}

const millrace = await connect({ servers: process.env["MILLRACE_NATS_URL"] ?? "nats://127.0.0.1:4222" });
await millrace.worker({ workflows: [trip] });
const silent = await millrace.start(trip, { confirmMs: 100 }, { id: "trip-1" });
await silent.result().catch((error: unknown) => console.log(String(error)));

const handle = await millrace.start(trip, { confirmMs: 60_000 }, { id: "trip-2" });
await handle.signal("confirm", "yes");
await delay(500);
await handle.cancel({ reason: "fell ill", by: "ada" });
await handle.result().catch((error: unknown) => console.log(String(error)));
await millrace.close();
