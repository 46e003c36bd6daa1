/** Interceptors, trace context and logs, in running workflows. */
import { trace } from "@opentelemetry/api";
import {
  BasicTracerProvider,
  InMemorySpanExporter,
  SimpleSpanProcessor,
} from "@opentelemetry/sdk-trace-base";
import { createMemoryLog, createMemoryServer } from "@millrace/event-log";
import { afterEach, describe, expect, test } from "vitest";
import { connect, type ConnectOptions } from "./connect.ts";
import { defineWorkflow } from "./definition.ts";
import type { Interceptor } from "./interceptors.ts";
import type { Logger } from "./logger.ts";
import type { Millrace } from "./millrace.ts";
import { openTelemetry } from "./opentelemetry/open-telemetry.ts";

const open: Millrace[] = [];
afterEach(async () => {
  await Promise.all(open.splice(0).map((connection) => connection.close()));
});

async function connected(options: ConnectOptions = {}, server = createMemoryServer()): Promise<Millrace> {
  const connection = await connect({ log: createMemoryLog({ server }), ...options });
  open.push(connection);
  return connection;
}

const fast = { retry: { initialDelayMs: 1, maxDelayMs: 5 } };
const traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

describe("interceptors in the engine", () => {
  test("are around starts, signals and every attempt of a step, in order, with their fields", async () => {
    const told: unknown[] = [];
    const named = (name: string): Interceptor => ({
      async start(call, next) {
        const { workflowId, type, driver } = call;
        told.push([name, "start", workflowId, type, driver]);
        return next({ ...call, input: { ...(call.input as object), [name]: true }, traceparent });
      },
      async signal(call, next) {
        told.push([name, "signal", call.workflowId, call.name]);
        return next({ ...call, payload: `${String(call.payload)} by ${name}` });
      },
      async step({ signal, ...call }, next) {
        told.push([name, "step", call, signal.aborted]);
        return next();
      },
    });
    const millrace = await connected({ interceptors: [named("outer"), named("inner")] });
    const flow = defineWorkflow({ type: "flow" }, async (ctx, input: unknown) => {
      ctx.compensate("undo", () => "undone");
      const signalled = await ctx.waitForSignal("go");
      const output = await ctx.step(
        "try",
        ({ attempt }) => {
          if (attempt === 1) throw new Error("again");
          return attempt;
        },
        fast,
      );
      throw Object.assign(new Error(JSON.stringify({ input, signalled, output })), { name: "Done" });
    });
    await millrace.worker({ workflows: [flow], replayAlways: true });
    const handle = await millrace.start(flow, { n: 1 }, { id: "f" });
    await handle.signal("go", "ready");
    await expect(handle.result()).rejects.toThrowError(
      JSON.stringify({
        input: { n: 1, outer: true, inner: true },
        signalled: "ready by outer by inner",
        output: 2,
      }),
    );
    const attempt = (step: string, number: number, kind: string): object => ({
      ...{ workflowId: "f", type: "flow", run: 1, step, occurrence: 1, attempt: number },
      ...{ idempotencyKey: `f/1/${step}#1`, traceparent, kind },
    });
    const twice = (...rest: unknown[]): unknown[] => [
      ["outer", ...rest],
      ["inner", ...rest],
    ];
    expect(told).toEqual([
      ...twice("start", "f", "flow", "code"),
      ...twice("signal", "f", "go"),
      ...twice("step", attempt("try", 1, "step"), false),
      ...twice("step", attempt("try", 2, "step"), false),
      ...twice("step", attempt("undo", 1, "compensation"), false),
    ]);
  });

  test("an error around a step is a failed attempt, and what comes back is what is recorded", async () => {
    let calls = 0;
    const unreliable: Interceptor = {
      async step(_call, next) {
        if (++calls === 1) throw new Error("no quota");
        return `<${String(await next())}>`;
      },
    };
    const millrace = await connected({ interceptors: [unreliable] });
    const flow = defineWorkflow({ type: "flow" }, (ctx) => ctx.step("once", () => "done", fast));
    await millrace.worker({ workflows: [flow] });
    expect(await (await millrace.start(flow, null, { id: "f" })).result()).toBe("<done>");
    const types = (await millrace.log.load("f")).flatMap(({ events }) => events.map(({ type }) => type));
    expect(types).toContain("StepRetryScheduled");
  });

  test("an error around a start reaches the caller, and nothing is started", async () => {
    const refusing: Interceptor = { start: () => Promise.reject(new Error("not today")) };
    const millrace = await connected({ interceptors: [refusing] });
    const started = millrace.startByType("x", null, { id: "a", driver: "external" });
    await expect(started).rejects.toThrowError("not today");
    expect(await millrace.log.load("a")).toEqual([]);
  });
});

describe("tasks", () => {
  test("an interceptor is around every attempt, in the worker's process, with the run's trace context; task.log has its fields", async () => {
    const exporter = new InMemorySpanExporter();
    const provider = new BasicTracerProvider({ spanProcessors: [new SimpleSpanProcessor(exporter)] });
    const server = createMemoryServer();
    const owner = await connected({}, server);
    const logger = recorder();
    const told: unknown[] = [];
    const telling: Interceptor = {
      async task({ signal: _signal, ...call }, next) {
        told.push(call);
        return [await next({ ...call, signal: _signal, input: `${String(call.input)}!` }), "around"];
      },
    };
    const interceptors = [openTelemetry({ tracer: provider.getTracer("test") }), telling];
    const elsewhere = await connected({ interceptors, logger }, server);
    const flow = defineWorkflow({ type: "flow" }, (ctx) =>
      ctx.task("charge", "card", { queue: "q", retry: { maxAttempts: 2, initialDelayMs: 1 } }),
    );
    await owner.worker({ workflows: [flow] });
    await elsewhere.worker({
      tasks: {
        charge: (task) => {
          task.log.info({ step: "forged" }, "user: charging");
          if (task.attempt === 1) throw new Error("again");
          return task.input as string;
        },
      },
      queues: ["q"],
    });
    const handle = await owner.start(flow, null, { id: "f", traceparent });
    expect(await handle.result()).toEqual(["card!", "around"]);
    const attempt = (number: number): object => ({
      ...{ workflowId: "f", type: "flow", run: 1, step: "charge", occurrence: 1, attempt: number },
      ...{ queue: "q", idempotencyKey: "f/1/charge#1", input: "card", traceparent },
    });
    expect(told).toEqual([attempt(1), attempt(2)]);
    expect(logger.lines.map(({ fields }) => [fields["step"], fields["queue"], fields["attempt"]])).toEqual([
      ["charge", "q", 1],
      ["charge", "q", 2],
    ]);
    const spans = exporter.getFinishedSpans();
    expect(spans.map(({ name, status }) => [name, status.message])).toEqual([
      ["task charge", "again"],
      ["task charge", undefined],
    ]);
    for (const span of spans) expect(span.parentSpanContext?.spanId).toBe("b7ad6b7169203331");
  });
});

describe("trace context", () => {
  test("stands on every commit of the run and its children, and spans of all attempts hang on the start's", async () => {
    const exporter = new InMemorySpanExporter();
    const provider = new BasicTracerProvider({ spanProcessors: [new SimpleSpanProcessor(exporter)] });
    const interceptors = [openTelemetry({ tracer: provider.getTracer("test") })];
    const server = createMemoryServer();
    const client = await connected({ interceptors }, server);
    const worker = await connected({ interceptors }, server);
    const child = defineWorkflow({ type: "child" }, (ctx) => ctx.step("inner", () => 1));
    const parent = defineWorkflow({ type: "parent" }, async (ctx) => {
      await ctx.step(
        "flaky",
        ({ attempt }) => {
          if (attempt === 1) throw new Error("again");
        },
        fast,
      );
      return ctx.child(child, null, { id: "c" });
    });
    await worker.worker({ workflows: [parent, child], replayAlways: true });
    const handle = await client.start(parent, null, { id: "p", traceparent });
    await handle.result();
    const spans = exporter.getFinishedSpans();
    expect(spans.map(({ name, attributes }) => [name, attributes["millrace.attempt"] ?? 0])).toEqual([
      ["start parent", 0],
      ["step flaky", 1],
      ["step flaky", 2],
      ["step inner", 1],
    ]);
    const [start, ...attempts] = spans;
    expect(start?.parentSpanContext?.spanId).toBe("b7ad6b7169203331");
    for (const attempt of attempts)
      expect(attempt.parentSpanContext?.spanId).toBe(start?.spanContext().spanId);
    expect(new Set(spans.map((span) => span.spanContext().traceId))).toEqual(
      new Set(["0af7651916cd43dd8448eb211c80319c"]),
    );
    const { traceId, spanId } = start?.spanContext() ?? { traceId: "", spanId: "" };
    const commits = [...(await client.log.load("p")), ...(await client.log.load("c"))];
    expect(commits.length).toBeGreaterThan(4);
    for (const commit of commits) expect(commit.traceparent).toBe(`00-${traceId}-${spanId}-01`);
    expect(trace.getActiveSpan()).toBeUndefined();
  });

  test("is refused when it is none", async () => {
    const millrace = await connected();
    const started = millrace.startByType("x", null, { driver: "external", traceparent: "hello\r\nX: y" });
    await expect(started).rejects.toMatchObject({ code: "invalid_request" });
  });
});

interface Line {
  readonly level: string;
  readonly fields: Record<string, unknown>;
  readonly message: string;
}

/** A logger that keeps what the user's code wrote. */
function recorder(): Logger & { readonly lines: Line[] } {
  const lines: Line[] = [];
  const at = (level: string) => (fields: object, message: string) => {
    if (message.startsWith("user:"))
      lines.push({ level, fields: fields as Record<string, unknown>, message });
  };
  return { lines, debug: at("debug"), info: at("info"), warn: at("warn"), error: at("error") };
}

describe("logs of user code", () => {
  const flow = defineWorkflow({ type: "flow", version: "7" }, async (ctx, input: { times: number }) => {
    ctx.log.info("user: begun");
    for (let n = 1; n <= input.times; n++) {
      const output = await ctx.step("work", (step) => {
        step.log.warn({ n, workflowId: "forged" }, "user: working");
        return n;
      });
      ctx.log.debug({ output }, "user: worked");
    }
    const go = await ctx.waitForSignal("go");
    ctx.log.error({ go }, "user: signalled");
    await ctx.sleep(1);
    ctx.log.info("user: slept");
    return null;
  });
  const wanted = ["begun", "working", "worked", "working", "worked", "signalled", "slept"].map(
    (word) => `user: ${word}`,
  );

  test.for([
    ["kept in memory", {}],
    ["replayed after every commit", { replayAlways: true }],
    ["thrown out of memory whenever it rests", { runsMax: 1 }],
  ] as const)("each line is written once, whether the run is %s", async ([, options]) => {
    const logger = recorder();
    const millrace = await connected({ logger });
    await millrace.worker({ workflows: [flow], ...options });
    const handle = await millrace.start(flow, { times: 2 }, { id: "a" });
    await expect.poll(() => logger.lines.length).toBe(5);
    // Another run takes the only place in memory.
    const other = await millrace.start(flow, { times: 0 }, { id: "b" });
    await expect.poll(() => logger.lines.length).toBe(6);
    await handle.signal("go", 1);
    await other.signal("go", 2);
    await Promise.all([handle.result(), other.result()]);
    const ofRun = logger.lines.filter(({ fields }) => fields["workflowId"] === "a");
    expect(ofRun.map(({ message }) => message)).toEqual(wanted);
    expect(logger.lines).toHaveLength(wanted.length + 3);
  });

  test("lines have the fields of their run and step, which cannot be forged", async () => {
    const logger = recorder();
    const millrace = await connected({ logger });
    await millrace.worker({ workflows: [flow] });
    const handle = await millrace.start(flow, { times: 1 }, { id: "a" });
    await handle.signal("go", "x");
    await handle.result();
    const run = { workflowId: "a", type: "flow", run: 1 };
    expect(logger.lines.slice(0, 4)).toEqual([
      { level: "info", fields: { ...run, version: "7" }, message: "user: begun" },
      {
        level: "warn",
        fields: { ...run, n: 1, step: "work", occurrence: 1, attempt: 1 },
        message: "user: working",
      },
      { level: "debug", fields: { ...run, version: "7", output: 1 }, message: "user: worked" },
      { level: "error", fields: { ...run, version: "7", go: "x" }, message: "user: signalled" },
    ]);
  });

  test("a worker that takes over is silent about what was seen, and says what was not", async () => {
    const server = createMemoryServer();
    const [before, after] = [recorder(), recorder()];
    const first = await connected({ logger: before }, server);
    const worker = await first.worker({ workflows: [flow] });
    const handle = await first.start(flow, { times: 1 }, { id: "a" });
    await expect.poll(() => before.lines.length).toBe(3);
    // The wait stands in the log, so the code has been brought this far for all to see.
    await expect.poll(async () => (await first.log.last("a"))?.events.at(-1)?.type).toBe("WaitStarted");
    await worker.drain({ deadlineMs: 0 });
    await handle.signal("go", 1);
    const second = await connected({ logger: after }, server);
    await second.worker({ workflows: [flow] });
    await second.handle("a").result();
    expect(after.lines.map(({ message }) => message)).toEqual(["user: signalled", "user: slept"]);
  });

  test("a reset is silent about what it keeps, and says what is done anew", async () => {
    const logger = recorder();
    const millrace = await connected({ logger });
    await millrace.worker({ workflows: [flow], replayAlways: true });
    const handle = await millrace.start(flow, { times: 2 }, { id: "a" });
    await handle.signal("go", 1);
    await handle.result();
    logger.lines.length = 0;
    await handle.reset({ step: "work#2" });
    await expect.poll(() => logger.lines.length).toBe(4);
    await handle.result();
    expect(logger.lines.map(({ message, fields }) => [message, fields["run"]])).toEqual(
      ["working", "worked", "signalled", "slept"].map((word) => [`user: ${word}`, 2]),
    );
  });

  test("a run continued as new speaks again, and a turn that fails says its lines", async () => {
    const logger = recorder();
    const millrace = await connected({ logger });
    const rounds = defineWorkflow({ type: "rounds" }, async (ctx, input: { round: number }) => {
      ctx.log.info({ round: input.round }, "user: round");
      if (input.round < 3) return ctx.continueAsNew({ round: input.round + 1 });
      const missing = null as unknown as { length: number };
      return missing.length;
    });
    await millrace.worker({ workflows: [rounds], replayAlways: true });
    await millrace.start(rounds, { round: 1 }, { id: "r" });
    await expect
      .poll(async () => (await millrace.log.last("r"))?.events.at(-1)?.type)
      .toBe("WorkflowTurnFailed");
    expect(logger.lines.map(({ fields }) => [fields["run"], fields["round"]])).toEqual([
      [1, 1],
      [2, 2],
      [3, 3],
    ]);
  });
});
