/** Two workers share the runs; one is drained as in a deploy, and what it had goes on with the other. */
import { connect, defineWorkflow } from "@millrace/engine";

const nap = defineWorkflow({ type: "nap" }, async (ctx, input: { ms: number }) => {
  await ctx.sleep(input.ms);
  return ctx.step("wake", () => "up");
});

const servers = process.env["MILLRACE_NATS_URL"] ?? "nats://127.0.0.1:4222";
// Two processes, in earnest: a connection and a worker each.
const [old, fresh] = [await connect({ servers }), await connect({ servers })];
const before = await old.worker({ workflows: [nap], group: "naps" });
const after = await fresh.worker({ workflows: [nap], group: "naps" });

const naps = await Promise.all(
  Array.from({ length: 8 }, (_, n) => fresh.start(nap, { ms: 1_000 }, { id: `nap-${n}` })),
);
await before.drain();
const { sessions } = await fresh.fleet();
const left = sessions.filter(({ group }) => group === "naps");
console.log(`${left.length} worker holds ${after.stats().shards} shards`);
console.log((await Promise.all(naps.map((each) => each.result()))).join(" "));
await Promise.all([old.close(), fresh.close()]);
