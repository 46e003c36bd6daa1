/** A counter that would run for ever: after some orders a new run number begins, with a short history. */
import { connect, defineWorkflow } from "@millrace/engine";

interface Ledger {
  readonly orders: number;
  readonly total: number;
}

const ledger = defineWorkflow({ type: "ledger" }, async (ctx, before: Ledger) => {
  let { orders, total } = before;
  // Real code asks `ctx.continueAsNewSuggested`; three is for the example.
  for (let taken = 0; taken < 3 && !ctx.continueAsNewSuggested; taken++) {
    const amount = await ctx.waitForSignal<number>("order");
    if (amount === 0) return { orders, total, run: ctx.run };
    orders++;
    total += amount ?? 0;
  }
  return ctx.continueAsNew({ orders, total });
});

const millrace = await connect({ servers: process.env["MILLRACE_NATS_URL"] ?? "nats://127.0.0.1:4222" });
const handle = await millrace.start(ledger, { orders: 0, total: 0 }, { id: "ledger-1" });
for (const amount of [5, 10, 15, 20, 25, 0]) await handle.signal("order", amount);
await millrace.worker({ workflows: [ledger] });
console.log(await handle.result());
await millrace.close();
