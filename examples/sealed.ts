/** Payloads that only this service can read, one of them too large for the log. MILLRACE_NATS_URL is printed by `npm start`. */
import { randomBytes } from "node:crypto";
import { aesGcmCodec, connect, defineWorkflow } from "@millrace/engine";

const report = defineWorkflow({ type: "report" }, async (ctx, input: { customer: string }) => {
  const rows = await ctx.step("collect", () =>
    Array.from({ length: 10_000 }, (_, row) => ({ row, customer: input.customer })),
  );
  return ctx.step("count", () => `${rows.length} rows of ${input.customer}`);
});

const servers = process.env["MILLRACE_NATS_URL"] ?? "nats://127.0.0.1:4222";
// Yours come from a secret store. Both open; the current one seals.
const keys = { "2026-05": randomBytes(32), "2026-11": randomBytes(32) };
const codec = aesGcmCodec({ keys, current: "2026-11" });
const millrace = await connect({ servers, payloads: { codec } });
await millrace.worker({ workflows: [report] });
const handle = await millrace.start(report, { customer: "Ada" });
console.log("result:", await handle.result());

// What everybody sees who has no keys, the stream server and its clients included.
const keyless = await connect({ servers });
for (const { events } of await keyless.log.load(handle.id))
  for (const { type, data } of events) console.log(type, JSON.stringify(data).slice(0, 120));
await keyless.close();
await millrace.close();
