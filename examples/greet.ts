/** Code-first, whole: define, run, start, await. MILLRACE_NATS_URL is printed by `npm start`. */
import { connect, defineWorkflow } from "@millrace/engine";

const greet = defineWorkflow(
  { type: "greet", steps: ["look up", "write"] },
  async (ctx, input: { id: number }) => {
    const name = await ctx.step("look up", () => lookUp(input.id), {
      retry: { maxAttempts: 5 },
      timeoutMs: 10_000,
    });
    ctx.progress({ message: `Writing to ${name}` });
    return ctx.step("write", ({ idempotencyKey }) => `Hello ${name} (${idempotencyKey})`);
  },
);

const millrace = await connect({ servers: process.env["MILLRACE_NATS_URL"] ?? "nats://127.0.0.1:4222" });
const worker = await millrace.worker({ workflows: [greet], concurrency: 200 });
const handle = await millrace.start(greet, { id: 7 }, { id: "greet-7" });
console.log(await handle.result());
await worker.drain();
await millrace.close();

function lookUp(id: number): string {
  return id === 7 ? "Ada" : "nobody";
}
