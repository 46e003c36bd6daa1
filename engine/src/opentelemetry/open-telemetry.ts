import {
  context,
  isSpanContextValid,
  ROOT_CONTEXT,
  SpanKind,
  SpanStatusCode,
  trace,
  TraceFlags,
  type Attributes,
  type Context,
  type SpanOptions,
  type Tracer,
} from "@opentelemetry/api";
import type { Interceptor, StepCall, TaskCall } from "../interceptors.ts";

export interface OpenTelemetryOptions {
  /** Default: `@millrace/engine` of the registered provider; without one nothing is traced and nothing fails. */
  readonly tracer?: Tracer;
}

/**
 * Spans for starts, signals, and attempts of steps and tasks. A start's span is a child of the caller's; its context is
 * stored with the run, so that the attempts of its steps and tasks, in whichever process, are its children, and so are
 * the starts of its child workflows. A span is ended with the attempt and not with the run, which may take months.
 *
 * Spans: `start <type>`, `signal <name>` (producer), `step <name>` (internal), `task <name>` (consumer). Attributes:
 * `millrace.workflow.id`, `.workflow.type`, `.run`, `.step`, `.occurrence`, `.attempt`, `.idempotency_key`, `.queue`.
 *
 * @example
 * const millrace = await connect({ interceptors: [openTelemetry()] });
 */
export function openTelemetry(options: OpenTelemetryOptions = {}): Interceptor {
  // Asked for at each span: a provider may be registered after the connection was made.
  const tracer = (): Tracer => options.tracer ?? trace.getTracer("@millrace/engine");

  async function traced<T>(
    name: string,
    how: SpanOptions,
    parent: Context,
    act: (traceparent: string | null) => Promise<T>,
  ): Promise<T> {
    const span = tracer().startSpan(name, how, parent);
    try {
      return await context.with(trace.setSpan(parent, span), () => act(traceparentOf(span.spanContext())));
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error);
      span.recordException(error instanceof Error ? error : message);
      span.setStatus({ code: SpanStatusCode.ERROR, message });
      throw error;
    } finally {
      span.end();
    }
  }

  return {
    start(call, next) {
      const attributes = { "millrace.workflow.id": call.workflowId, "millrace.workflow.type": call.type };
      const how = { kind: SpanKind.PRODUCER, attributes };
      return traced(`start ${call.type}`, how, parentOf(call.traceparent), (traceparent) =>
        next({ ...call, traceparent: traceparent ?? call.traceparent }),
      );
    },
    signal(call, next) {
      const how = { kind: SpanKind.PRODUCER, attributes: { "millrace.workflow.id": call.workflowId } };
      return traced(`signal ${call.name}`, how, context.active(), () => next());
    },
    step(call, next) {
      const how = { kind: SpanKind.INTERNAL, attributes: attributesOf(call) };
      return traced(`step ${call.step}`, how, remote(call.traceparent), () => next());
    },
    task(call, next) {
      const attributes = { ...attributesOf(call), "millrace.queue": call.queue };
      const how = { kind: SpanKind.CONSUMER, attributes };
      return traced(`task ${call.step}`, how, remote(call.traceparent), () => next());
    },
  };
}

function attributesOf(call: StepCall | TaskCall): Attributes {
  return {
    "millrace.workflow.id": call.workflowId,
    "millrace.workflow.type": call.type,
    "millrace.run": call.run,
    "millrace.step": call.step,
    "millrace.occurrence": call.occurrence,
    "millrace.attempt": call.attempt,
    "millrace.idempotency_key": call.idempotencyKey,
  };
}

/** Version 00 of https://www.w3.org/TR/trace-context/#traceparent-header, whatever propagator the process uses. */
const pattern = /^00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})$/;

function traceparentOf(of: {
  readonly traceId: string;
  readonly spanId: string;
  readonly traceFlags: number;
}): string | null {
  if (!isSpanContextValid(of)) return null;
  const sampled = (of.traceFlags & TraceFlags.SAMPLED) === 0 ? "00" : "01";
  return `00-${of.traceId}-${of.spanId}-${sampled}`;
}

/** The context that the run carries, and nothing of the process that happens to run it. */
function remote(traceparent: string | null): Context {
  const [, traceId, spanId, flags] = pattern.exec(traceparent ?? "") ?? [];
  if (traceId === undefined || spanId === undefined || flags === undefined) return ROOT_CONTEXT;
  const traceFlags = Number.parseInt(flags, 16);
  return trace.setSpanContext(ROOT_CONTEXT, { traceId, spanId, traceFlags, isRemote: true });
}

/** The caller's own span if it has one, else what it was given. */
function parentOf(traceparent: string | null): Context {
  return trace.getSpan(context.active()) === undefined ? remote(traceparent) : context.active();
}
