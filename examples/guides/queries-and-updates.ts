/** A cart that is read by query and changed by update; the update is checked, recorded and answered. */
import { connect, defineWorkflow } from "@millrace/engine";
import { isMillraceError } from "@millrace/schemas";

interface Line {
  readonly item: string;
  readonly count: number;
}

const cart = defineWorkflow({ type: "cart" }, async (ctx, _input: null) => {
  const counts = new Map<string, number>();
  let paid = false;
  ctx.onQuery("content", () => Object.fromEntries(counts));
  ctx.onUpdate<Line>(
    "add",
    async ({ item, count }) => {
      const price = await ctx.step(`price of ${item}`, () => 7);
      counts.set(item, (counts.get(item) ?? 0) + count);
      return { item, costs: count * price };
    },
    {
      validate: ({ count }) => {
        if (count < 1) throw new Error(`${count} is not a number of things to buy.`);
      },
    },
  );
  ctx.onUpdate("pay", () => (paid = true));
  await ctx.waitUntil(() => paid);
  return Object.fromEntries(counts);
});

const millrace = await connect({ servers: process.env["MILLRACE_NATS_URL"] ?? "nats://127.0.0.1:4222" });
await millrace.worker({ workflows: [cart] });
const handle = await millrace.start(cart, null, { id: "cart-1" });

console.log(await handle.query("content"));
console.log(await handle.update("add", { item: "book", count: 2 }, { id: "click-1" }));
console.log(await handle.update("add", { item: "book", count: 2 }, { id: "click-1" }));
console.log(await handle.query("content"));
await handle.update("add", { item: "book", count: -1 }).catch((error: unknown) => {
  console.log(isMillraceError(error, "update_refused"), String(error));
});
await handle.update("pay");
console.log(await handle.result(), await handle.query("content"));
await millrace.close();
