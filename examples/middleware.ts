/** An interceptor, spans and logs around one workflow. MILLRACE_NATS_URL is printed by `npm start`. */
import { connect, defineWorkflow, type Interceptor } from "@millrace/engine";
import { openTelemetry } from "@millrace/engine/opentelemetry";
import {
  BasicTracerProvider,
  InMemorySpanExporter,
  SimpleSpanProcessor,
} from "@opentelemetry/sdk-trace-base";
import { pino } from "pino";

const order = defineWorkflow({ type: "order" }, async (ctx, input: { amount: number }) => {
  ctx.log.info({ amount: input.amount }, "Order came in");
  const paid = await ctx.step(
    "charge",
    (step) => {
      if (step.attempt === 1) throw new Error("the bank does not answer");
      step.log.info("Charged");
      return input.amount;
    },
    { retry: { initialDelayMs: 10 } },
  );
  ctx.log.info({ paid }, "Order is paid");
  return paid;
});

/** Counts attempts by their outcome: what you would give to your metrics. */
const attempts = new Map<string, number>();
const counting: Interceptor = {
  async step(call, next) {
    let outcome = "failed";
    try {
      const output = await next();
      outcome = "completed";
      return output;
    } finally {
      const key = `${call.type}/${call.step} ${outcome}`;
      attempts.set(key, (attempts.get(key) ?? 0) + 1);
    }
  },
};

const exporter = new InMemorySpanExporter();
const provider = new BasicTracerProvider({ spanProcessors: [new SimpleSpanProcessor(exporter)] });
const millrace = await connect({
  servers: process.env["MILLRACE_NATS_URL"] ?? "nats://127.0.0.1:4222",
  interceptors: [counting, openTelemetry({ tracer: provider.getTracer("orders") })],
  logger: pino({ base: null, timestamp: false }),
});
await millrace.worker({ workflows: [order] });
const handle = await millrace.start(order, { amount: 42 }, { id: "order-middleware" });
await handle.result();
await millrace.close();

console.log(Object.fromEntries(attempts));
for (const span of exporter.getFinishedSpans())
  console.log(
    span.spanContext().traceId === exporter.getFinishedSpans()[0]?.spanContext().traceId,
    span.name,
  );
