/** Signals: early ones are kept, one id counts once, a wait has a time-out, a payload has a schema. */
import { connect, defineWorkflow } from "@millrace/engine";
import { isMillraceError } from "@millrace/schemas";
import * as v from "valibot";

const Approval = v.object({ by: v.string(), granted: v.boolean() });

const expense = defineWorkflow(
  { type: "expense", signals: { approval: Approval } },
  async (ctx, input: { amount: number; patienceMs: number }) => {
    const approvers: string[] = [];
    while (approvers.length < 2) {
      const approval = await ctx.waitForSignal<v.InferOutput<typeof Approval>>("approval", {
        timeoutMs: input.patienceMs,
      });
      if (approval === undefined) return `nobody else in time, after ${approvers.length}`;
      if (!approval.granted) return `refused by ${approval.by}`;
      approvers.push(approval.by);
    }
    return `granted by ${approvers.join(" and ")}`;
  },
);

const millrace = await connect({ servers: process.env["MILLRACE_NATS_URL"] ?? "nats://127.0.0.1:4222" });

// Before any worker runs: the signals are kept. The second one has an id that the run has had.
const input = { amount: 120, patienceMs: 60_000 };
const handle = await millrace.start(expense, input, { id: "expense-1" });
await handle.signal("approval", { by: "Ada", granted: true }, { id: "ada-1", by: "web" });
await handle.signal("approval", { by: "Ada", granted: true }, { id: "ada-1", by: "web" });
await handle.signal("approval", { by: "Bob", granted: true }, { id: "bob-1", by: "web" });
await handle.signal("approval", { by: "Bob" }).catch((error: unknown) => {
  console.log(isMillraceError(error, "invalid_input"), String(error));
});
await millrace.worker({ workflows: [expense] });
console.log(await handle.result());

// Signal with start: whoever comes first starts the run, and no signal is lost between the two.
const quick = await millrace.start(
  expense,
  { amount: 20, patienceMs: 200 },
  { id: "expense-2", signal: { name: "approval", payload: { by: "Ada", granted: true }, id: "ada-2" } },
);
console.log(await quick.result());
await millrace.close();
