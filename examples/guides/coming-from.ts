/** An order that is charged, waits for an approval, and is shipped or refunded: what docs/coming-from.md ports. */
import { connect, defineWorkflow } from "@millrace/engine";

const order = defineWorkflow({ type: "approved-order" }, async (ctx, input: { item: string }) => {
  const payment = await ctx.step("charge", ({ idempotencyKey }) => charge(input.item, idempotencyKey), {
    retry: { maxAttempts: 5 },
    timeoutMs: 10_000,
  });
  const approval = await ctx.waitForSignal<{ by: string }>("approve", { timeoutMs: 24 * 3_600_000 });
  if (approval === undefined) {
    await ctx.step("refund", () => refund(payment));
    return "refunded";
  }
  await ctx.sleep(100, { name: "cool off" });
  return ctx.step("ship", () => `shipped, approved by ${approval.by}`);
});

const millrace = await connect({ servers: process.env["MILLRACE_NATS_URL"] ?? "nats://127.0.0.1:4222" });
await millrace.worker({ workflows: [order] });
const handle = await millrace.start(order, { item: "book" }, { id: "approved-order-1" });
await handle.signal("approve", { by: "Ada" }, { id: "approval-of-order-1" });
console.log(await handle.result());
await millrace.close();

function charge(item: string, idempotencyKey: string): string {
  return `payment of ${item} (${idempotencyKey})`;
}

function refund(payment: string): string {
  return `${payment} is given back`;
}
