/** A parent that awaits three children, one of which fails, and leaves one behind that its own end cancels. */
import { ChildFailedError, connect, defineWorkflow, NonRetryableError } from "@millrace/engine";

const parcel = defineWorkflow({ type: "parcel" }, async (ctx, input: { to: string }) => {
  if (input.to === "") throw new NonRetryableError("a parcel needs an address");
  return ctx.step("hand over", () => `on its way to ${input.to}`);
});

const watch = defineWorkflow({ type: "watch" }, async (ctx, _input: null) => {
  await ctx.waitForSignal("lost");
});

const shipment = defineWorkflow({ type: "shipment" }, async (ctx, input: { to: string[] }) => {
  // Begun and not awaited: it is cancelled when this run closes.
  const watching = ctx.child(watch, null, { id: `${ctx.workflowId}-watch`, onClose: "cancel" });
  watching.catch(() => undefined);
  return Promise.all(
    input.to.map((to, n) =>
      ctx.child(parcel, { to }, { id: `${ctx.workflowId}-parcel-${n}` }).catch((error: unknown) => {
        if (error instanceof ChildFailedError) return `${error.status}: ${error.error?.message}`;
        throw error;
      }),
    ),
  );
});

const millrace = await connect({ servers: process.env["MILLRACE_NATS_URL"] ?? "nats://127.0.0.1:4222" });
await millrace.worker({ workflows: [shipment, parcel, watch] });
const handle = await millrace.start(shipment, { to: ["Berlin", "", "Lima"] }, { id: "shipment-1" });
console.log(await handle.result());
const watching = millrace.handle("shipment-1-watch");
await watching.result().catch((error: unknown) => console.log(String(error)));
await millrace.close();
