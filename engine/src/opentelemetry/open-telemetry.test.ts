import { context, SpanKind, SpanStatusCode, trace } from "@opentelemetry/api";
import { AsyncLocalStorageContextManager } from "@opentelemetry/context-async-hooks";
import {
  BasicTracerProvider,
  InMemorySpanExporter,
  SimpleSpanProcessor,
  type ReadableSpan,
} from "@opentelemetry/sdk-trace-base";
import { afterAll, beforeAll, expect, test } from "vitest";
import { Interceptors, type StartCall, type TaskCall } from "../interceptors.ts";
import type { StartResult } from "../millrace.ts";
import { openTelemetry } from "./open-telemetry.ts";

const exporter = new InMemorySpanExporter();
const provider = new BasicTracerProvider({ spanProcessors: [new SimpleSpanProcessor(exporter)] });
const tracer = provider.getTracer("test");
const around = new Interceptors([openTelemetry({ tracer })]);

beforeAll(() => {
  context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable());
});
afterAll(async () => {
  context.disable();
  await provider.shutdown();
});

const start: StartCall = { workflowId: "a", type: "order", driver: "code", input: null, traceparent: null };
const task: TaskCall = {
  ...{ workflowId: "a", type: "order", run: 1, step: "charge", occurrence: 2, attempt: 3 },
  ...{ idempotencyKey: "a/1/charge#2", signal: new AbortController().signal, traceparent: null },
  ...{ queue: "payments", input: null },
};
const started = async ({ traceparent }: StartCall): Promise<StartResult> =>
  ({ handle: { id: traceparent }, created: true, sequence: 1 }) as unknown as StartResult;

async function spansOf(act: () => Promise<unknown>): Promise<ReadableSpan[]> {
  exporter.reset();
  await act();
  return exporter.getFinishedSpans();
}

test("a start is a child of the caller's span, and hands on its own context", async () => {
  let handed = "";
  const [span, caller] = await spansOf(async () => {
    await tracer.startActiveSpan("caller", async (outer) => {
      handed = (await around.start(start, started)).handle.id;
      outer.end();
    });
  });
  expect(span).toMatchObject({ name: "start order", kind: SpanKind.PRODUCER });
  expect(span?.parentSpanContext?.spanId).toBe(caller?.spanContext().spanId);
  const { traceId, spanId } = span?.spanContext() ?? { traceId: "", spanId: "" };
  expect(handed).toBe(`00-${traceId}-${spanId}-01`);
});

test("an attempt is a child of the run's context, whatever is active where it runs, and inner spans are its own", async () => {
  const traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
  const [inner, span] = await spansOf(() =>
    tracer.startActiveSpan("of the worker", (outer) => {
      const done = around.task({ ...task, traceparent }, async () => tracer.startSpan("inner").end());
      return done.finally(() => outer.end());
    }),
  );
  expect(span).toMatchObject({
    name: "task charge",
    kind: SpanKind.CONSUMER,
    attributes: {
      "millrace.workflow.id": "a",
      "millrace.workflow.type": "order",
      "millrace.run": 1,
      "millrace.step": "charge",
      "millrace.occurrence": 2,
      "millrace.attempt": 3,
      "millrace.idempotency_key": "a/1/charge#2",
      "millrace.queue": "payments",
    },
  });
  expect(span?.parentSpanContext).toMatchObject({
    traceId: "0af7651916cd43dd8448eb211c80319c",
    spanId: "b7ad6b7169203331",
    isRemote: true,
  });
  expect(inner?.parentSpanContext?.spanId).toBe(span?.spanContext().spanId);
});

test("an attempt that fails is an error in the trace, and fails as it did", async () => {
  const failure = new Error("card declined");
  const [span] = await spansOf(async () => {
    const failed = around.step({ ...task, kind: "step" }, () => Promise.reject(failure));
    await expect(failed).rejects.toBe(failure);
  });
  expect(span?.status).toEqual({ code: SpanStatusCode.ERROR, message: "card declined" });
  expect(span?.events[0]?.name).toBe("exception");
  expect(span?.parentSpanContext).toBeUndefined();
});

test("without a provider nothing is traced and a given context is handed on", async () => {
  trace.disable();
  const silent = new Interceptors([openTelemetry()]);
  const traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
  const spans = await spansOf(async () => {
    expect((await silent.start({ ...start, traceparent }, started)).handle.id).toBe(traceparent);
    expect((await silent.start(start, started)).handle.id).toBeNull();
    expect(await silent.step({ ...task, kind: "step" }, async () => 7)).toBe(7);
  });
  expect(spans).toEqual([]);
});
