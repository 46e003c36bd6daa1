/** A schedule: made once, fired by whoever hosts its workflow. */
import { EventEmitter, once } from "node:events";
import { connect, defineWorkflow } from "@millrace/engine";

const written = new EventEmitter();
const report = defineWorkflow({ type: "report" }, async (ctx, input: { kind: string }) =>
  ctx.step("write", () => {
    console.log(`${input.kind} report of ${ctx.workflowId}`);
    written.emit(ctx.workflowId);
  }),
);

const millrace = await connect({ servers: process.env["MILLRACE_NATS_URL"] ?? "nats://127.0.0.1:4222" });
await millrace.worker({ workflows: [report] });

// Made at each deploy: the same again changes nothing.
await millrace.schedules.create("nightly", {
  cron: "0 3 * * *",
  timeZone: "Europe/Amsterdam",
  jitterMs: 60_000,
  overlap: "buffer-one",
  workflow: { type: report, input: { kind: "daily" } },
});

const { workflowId } = await millrace.schedules.trigger("nightly", { key: "now" });
await millrace.handle(workflowId).result();

// The nights of a weekend in which the clock was set forward.
const last = once(written, "nightly-20260330T010000Z");
await millrace.schedules.backfill("nightly", { from: "2026-03-28T00:00:00Z", to: "2026-03-30T12:00:00Z" });
await last;
await millrace.close();
