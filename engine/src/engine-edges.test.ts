/** Where engines break: values that do not survive JSON, wake-ups between two awaits, brokers that are away. */
import {
  createMemoryLog,
  createMemoryServer,
  type AppendRequest,
  type AppendResult,
  type EventLog,
  type MemoryServer,
} from "@millrace/event-log";
import { MillraceError } from "@millrace/schemas";
import type { StandardSchemaV1 } from "@standard-schema/spec";
import { afterEach, describe, expect, test } from "vitest";
import { connect } from "./connect.ts";
import { defineWorkflow } from "./definition.ts";
import { RetryAfterError } from "./failures.ts";
import { silentLogger } from "./logger.ts";
import type { Millrace } from "./millrace.ts";

const open: Millrace[] = [];
afterEach(async () => {
  await Promise.all(open.splice(0).map((connection) => connection.close()));
});

async function connected(log: EventLog = createMemoryLog(), warnings: string[] = []): Promise<Millrace> {
  const logger = { ...silentLogger, warn: (_fields: object, message: string) => void warnings.push(message) };
  const connection = await connect({ log, logger });
  open.push(connection);
  return connection;
}

const fast = { retry: { initialDelayMs: 1, maxDelayMs: 5 } };
const never = (): Promise<never> => new Promise(() => undefined);

function gate(): { readonly opened: Promise<void>; readonly open: () => void } {
  let release = (): void => undefined;
  const opened = new Promise<void>((resolve) => (release = resolve));
  return { opened, open: release };
}

async function typesOf(log: EventLog, id: string): Promise<string[]> {
  return (await log.load(id)).flatMap((commit) => commit.events.map((event) => event.type));
}

/** A log on `server` whose appends go through `around`. */
function withAppend(
  server: MemoryServer,
  around: (request: AppendRequest, append: () => Promise<AppendResult>) => Promise<AppendResult>,
): EventLog {
  const log = createMemoryLog({ server });
  return { ...log, append: (request) => around(request, () => log.append(request)) };
}

/** Fails with a message of its own instead of the test's time limit. */
async function soon<T>(promise: Promise<T>, limitMs = 2_000): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => reject(new Error(`Nothing within ${limitMs} ms.`)), limitMs);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

describe("values", () => {
  test("what the code does to an output or input of its own is not what is recorded", async () => {
    const millrace = await connected();
    const growing = defineWorkflow({ type: "growing" }, async (ctx, input: { list: string[] }) => {
      input.list.push("mine");
      const list = await ctx.step("list", () => ["recorded"]);
      list.push("mine");
      return ctx.step("next", () => [...input.list, ...list]);
    });
    await millrace.worker({ workflows: [growing] });
    const handle = await millrace.start(growing, { list: ["given"] }, { id: "g" });
    expect(await handle.result()).toEqual(["given", "mine", "recorded", "mine"]);
    const events = (await millrace.log.load("g")).flatMap((commit) => commit.events);
    expect(events[1]).toMatchObject({ type: "StepCompleted", data: { output: ["recorded"] } });
  });

  test.each([
    ["an object without a prototype", () => Object.create(null) as unknown],
    [
      "an object that refuses to be text",
      () => ({
        toString: () => {
          throw new Error("no");
        },
      }),
    ],
    ["an error whose message is an object", () => Object.assign(new Error("x"), { message: { code: 1 } })],
    ["an error without a message", () => Object.assign(new Error("x"), { message: undefined })],
    [
      "an error with other types everywhere",
      () => Object.assign(new Error("x"), { name: 5, code: 7, stack: ["a"] }),
    ],
    [
      "an error whose name throws",
      () =>
        Object.defineProperty(new Error("x"), "name", {
          get: () => {
            throw new Error("no");
          },
        }),
    ],
    ["undefined", () => undefined],
    ["a symbol", () => Symbol("s")],
  ])("a step may throw %s", async (_title, make) => {
    const millrace = await connected();
    const odd = defineWorkflow({ type: "odd" }, (ctx) =>
      ctx.step(
        "s",
        () => {
          throw make();
        },
        { retry: { maxAttempts: 1 } },
      ),
    );
    await millrace.worker({ workflows: [odd] });
    const handle = await millrace.start(odd, null, { id: "odd" });
    await expect(soon(handle.result())).rejects.toMatchObject({ code: "workflow_failed" });
    const [failed] = (await millrace.log.load("odd")).flatMap((commit) => commit.events).slice(1);
    expect(failed).toMatchObject({
      type: "StepFailed",
      data: { error: { message: expect.any(String) as string } },
    });
  });

  test.each([Number.NaN, Number.POSITIVE_INFINITY, -5])(
    "a step that asks for a delay of %d ms gets a next attempt",
    async (afterMs) => {
      const millrace = await connected();
      const odd = defineWorkflow({ type: "odd" }, (ctx) =>
        ctx.step(
          "s",
          ({ attempt }) => {
            if (attempt === 1) throw new RetryAfterError("busy", afterMs);
            return attempt;
          },
          fast,
        ),
      );
      await millrace.worker({ workflows: [odd] });
      expect(await soon((await millrace.start(odd, null)).result())).toBe(2);
    },
  );

  test.each([Number.NaN, -1, Number.POSITIVE_INFINITY])(
    "a time limit of %d ms is a bug of the code: the run is stuck, not its worker",
    async (timeoutMs) => {
      const millrace = await connected();
      const odd = defineWorkflow({ type: "odd" }, (ctx) => ctx.step("s", () => 1, { timeoutMs }));
      await millrace.worker({ workflows: [odd] });
      await millrace.start(odd, null, { id: "odd" });
      await expect
        .poll(() => typesOf(millrace.log, "odd"))
        .toEqual(["WorkflowStarted", "WorkflowTurnFailed"]);
    },
  );

  test("progress that is not a number is left out", async () => {
    const millrace = await connected();
    const odd = defineWorkflow({ type: "odd" }, async (ctx) => {
      ctx.progress({ current: Number.NaN, total: Number.POSITIVE_INFINITY, message: "on" });
    });
    await millrace.worker({ workflows: [odd] });
    await (await millrace.start(odd, null, { id: "odd" })).result();
    const [progress] = (await millrace.log.load("odd")).flatMap((commit) => commit.events).slice(1);
    expect(progress).toEqual({ type: "ProgressReported", data: { message: "on" } });
  });

  test.each([
    ["a BigInt", { n: 1n }],
    [
      "a cycle",
      (() => {
        const cycle: { self?: unknown } = {};
        cycle.self = cycle;
        return cycle;
      })(),
    ],
    ["a function", () => 1],
    ["a symbol", Symbol("s")],
  ])("a start with %s as input is refused with invalid_input", async (_title, input) => {
    const millrace = await connected();
    const any = defineWorkflow({ type: "any" }, (_ctx, given) => Promise.resolve(given));
    await expect(millrace.start(any, input)).rejects.toMatchObject({ code: "invalid_input" });
    await expect(millrace.startByType("any", input, { allowUnregistered: true })).rejects.toMatchObject({
      code: "invalid_input",
    });
    await expect(millrace.drive("any", "x", { input })).rejects.toMatchObject({ code: "invalid_input" });
  });

  test("an input is checked as its run will see it: a Date is text, undefined is null", async () => {
    const millrace = await connected();
    const schema: StandardSchemaV1<unknown, Date | undefined> = {
      "~standard": {
        version: 1,
        vendor: "test",
        validate: (value) =>
          value === undefined || value instanceof Date ? { value } : { issues: [{ message: "not a date" }] },
      },
    };
    const dated = defineWorkflow({ type: "dated", input: schema }, (_ctx, input) =>
      Promise.resolve(typeof input),
    );
    await expect(millrace.start(dated, new Date(0))).rejects.toMatchObject({ code: "invalid_input" });
    await expect(millrace.start(dated, undefined)).rejects.toMatchObject({ code: "invalid_input" });
  });

  test.each([
    ["undefined", undefined, null],
    ["NaN", Number.NaN, null],
    ["a Date", new Date(0), "1970-01-01T00:00:00.000Z"],
    ["a Map", new Map([[1, 2]]), {}],
    [
      "an instance",
      new (class Point {
        readonly x = 1;
      })(),
      { x: 1 },
    ],
    ["a lone surrogate", "\ud800", "\ud800"],
  ])("an output that is %s is the same live and in a replay", async (_title, output, stored) => {
    const server = createMemoryServer();
    const first = await connected(createMemoryLog({ server }));
    const seen: unknown[] = [];
    const pass = gate();
    const make = (wait: () => Promise<unknown>) =>
      defineWorkflow({ type: "value" }, async (ctx) => {
        const value: unknown = await ctx.step("s", () => output);
        seen.push(value);
        await ctx.step("wait", async () => void (await wait()));
        return value;
      });
    const worker = await first.worker({ workflows: [make(never)] });
    const handle = await first.start(make(never), null, { id: "v" });
    await expect.poll(() => seen.length).toBe(1);
    await worker.drain({ deadlineMs: 0 });
    const second = await connected(createMemoryLog({ server }));
    await second.worker({ workflows: [make(() => pass.opened)] });
    pass.open();
    expect(await soon(handle.result())).toEqual(stored);
    expect(seen).toEqual([stored, stored]);
  });

  test.each([
    ["a BigInt", 1n],
    ["a function", () => 1],
  ])("an output that is %s fails its step at once, with a reason", async (_title, output) => {
    const millrace = await connected();
    const odd = defineWorkflow({ type: "odd" }, (ctx) => ctx.step("s", () => output as unknown));
    await millrace.worker({ workflows: [odd] });
    await expect((await millrace.start(odd, null)).result()).rejects.toThrow(/BigInt|function/);
  });

  test("outputs near the limit of a commit are recorded, each in a commit that fits", async () => {
    const millrace = await connected();
    const big = defineWorkflow({ type: "big" }, (ctx) => ctx.step("s", () => "é".repeat(499_000)));
    await millrace.worker({ workflows: [big] });
    expect(await (await millrace.start(big, null)).result()).toHaveLength(499_000);
  });
});

describe("races", () => {
  test("R4: a step that ends while a rebuilt run's turn is being stored is not run again", async () => {
    const server = createMemoryServer();
    const [second, held, stored] = [gate(), gate(), gate()];
    let runs = 0;
    let completions = 0;
    const log = withAppend(server, async (request, append) => {
      if (!request.events.some(({ type }) => type === "StepCompleted")) return append();
      completions++;
      if (completions === 1) throw new MillraceError("conflict", "simulated");
      if (completions === 2) {
        held.open();
        await stored.opened;
      }
      return append();
    });
    const millrace = await connected(log);
    const pair = defineWorkflow({ type: "pair" }, (ctx) =>
      Promise.all([
        ctx.step("a", () => 1),
        ctx.step("b", async () => {
          runs++;
          await second.opened;
          return 2;
        }),
      ]),
    );
    await millrace.worker({ workflows: [pair] });
    const handle = await millrace.start(pair, null);
    await held.opened;
    second.open();
    await new Promise((resolve) => setImmediate(resolve));
    stored.open();
    expect(await soon(handle.result())).toEqual([1, 2]);
    expect(runs).toBe(1);
  });

  test("a result asked for between the end of a run from outside and its worker's notice of it is given", async () => {
    const server = createMemoryServer();
    const [held, stored] = [gate(), gate()];
    const log = withAppend(server, async (request, append) => {
      if (request.events.some(({ type }) => type === "StepCompleted")) {
        held.open();
        await stored.opened;
      }
      return append();
    });
    const millrace = await connected(log);
    const other = await connected(createMemoryLog({ server }));
    const two = defineWorkflow({ type: "two" }, async (ctx) => {
      await ctx.step("a", () => 1);
      await ctx.step("b", never);
    });
    await millrace.worker({ workflows: [two] });
    const handle = await millrace.start(two, null, { id: "two" });
    await held.opened;
    await other.handle("two").terminate();
    await new Promise((resolve) => setImmediate(() => setImmediate(resolve)));
    const result = handle.result();
    await new Promise((resolve) => setImmediate(resolve));
    stored.open();
    await expect(soon(result)).rejects.toMatchObject({ code: "terminated" });
  });

  test("a signal that is aborted while the wait begins ends the wait", async () => {
    const millrace = await connected();
    const hanging = defineWorkflow({ type: "hanging" }, (ctx) => ctx.step("s", never));
    const handle = await millrace.start(hanging, null);
    const controller = new AbortController();
    const result = handle.result({ signal: controller.signal });
    controller.abort(new Error("enough"));
    await expect(soon(result)).rejects.toThrow("enough");
  });

  test("a wait that begins beside or behind close ends", async () => {
    const millrace = await connected();
    const hanging = defineWorkflow({ type: "hanging" }, (ctx) => ctx.step("s", never));
    const handle = await millrace.start(hanging, null);
    const beside = soon(handle.result());
    const closed = millrace.close();
    await expect(beside).rejects.toMatchObject({ code: "draining" });
    await closed;
    await millrace.close();
    await expect(soon(handle.result())).rejects.toMatchObject({ code: "draining" });
  });

  test("a log that was made anew under a worker ends the waits", async () => {
    const server = createMemoryServer();
    const millrace = await connected(createMemoryLog({ server }));
    const hanging = defineWorkflow({ type: "hanging" }, (ctx) => ctx.step("s", never));
    await millrace.worker({ workflows: [hanging] });
    const result = (await millrace.start(hanging, null)).result();
    await new Promise((resolve) => setImmediate(resolve));
    server.disconnect();
    server.recreate(millrace.log.namespace);
    server.reconnect();
    await expect(soon(result)).rejects.toMatchObject({ code: "log_recreated" });
  });

  test("W2: a run that the tail tells of during take-over is taken once", async () => {
    const server = createMemoryServer();
    const millrace = await connected(createMemoryLog({ server }));
    const one = defineWorkflow({ type: "one" }, (ctx) => ctx.step("s", never));
    await millrace.start(one, null, { id: "one" });
    const log = createMemoryLog({ server });
    const late = await connected({
      ...log,
      async follow(options) {
        await millrace.handle("one").cancel();
        const follower = await log.follow(options);
        await expect.poll(() => follower.position).toBeGreaterThanOrEqual(2);
        return follower;
      },
    });
    const worker = await late.worker({ workflows: [one] });
    await expect.poll(() => typesOf(log, "one")).toContain("WorkflowCancelled");
    await expect.poll(() => worker.stats().runs).toBe(0);
    expect((await typesOf(log, "one")).filter((type) => type === "WorkflowCancelled")).toHaveLength(1);
  });

  test("close during the start of a worker stops that worker", async () => {
    const server = createMemoryServer();
    const log = createMemoryLog({ server });
    const hold = gate();
    const millrace = await connected({
      ...log,
      async registerTypes(types) {
        await hold.opened;
        await log.registerTypes(types);
      },
    });
    const one = defineWorkflow({ type: "one" }, (ctx) => ctx.step("s", () => 1));
    const starting = millrace.worker({ workflows: [one] });
    const closed = millrace.close();
    hold.open();
    await expect(starting).rejects.toMatchObject({ code: "draining" });
    await closed;
    const other = await connected(createMemoryLog({ server }));
    await other.start(one, null, { id: "one" });
    await new Promise((resolve) => setImmediate(() => setImmediate(resolve)));
    expect(await typesOf(log, "one")).toEqual(["WorkflowStarted"]);
  });
});

describe("drain", () => {
  test.each([0, 50])("with a limit of %d ms it ends while the broker is away", async (deadlineMs) => {
    const server = createMemoryServer();
    const finish = gate();
    const millrace = await connected(createMemoryLog({ server }));
    const one = defineWorkflow({ type: "one" }, (ctx) => ctx.step("s", () => finish.opened));
    const worker = await millrace.worker({ workflows: [one] });
    const handle = await millrace.start(one, null, { id: "one" });
    await expect.poll(() => worker.stats().stepsRunning).toBe(1);
    const result = handle.result();
    result.catch(() => undefined);
    await new Promise((resolve) => setImmediate(resolve));
    server.disconnect();
    finish.open();
    await new Promise((resolve) => setImmediate(resolve));
    await soon(worker.drain({ deadlineMs }), 4_000);
    server.reconnect();
    // Who waits is still served, by a tail of the connection's own.
    const other = await connected(createMemoryLog({ server }));
    await other.worker({ workflows: [one] });
    expect(await soon(result, 3_000)).toBe(null);
  });

  test("without an end it waits for as long as the step takes", async () => {
    const millrace = await connected();
    const finish = gate();
    const one = defineWorkflow({ type: "one" }, (ctx) =>
      ctx.step("s", () => finish.opened.then(() => "done")),
    );
    const worker = await millrace.worker({ workflows: [one] });
    const handle = await millrace.start(one, null);
    await expect.poll(() => worker.stats().stepsRunning).toBe(1);
    setTimeout(finish.open, 20);
    await worker.drain({ deadlineMs: Number.POSITIVE_INFINITY });
    expect(await soon(handle.result())).toBe("done");
  });
});

describe("code that goes its own way", () => {
  test("a catch-all loop after a cancel fails the turn, it does not take the process", async () => {
    const millrace = await connected();
    const stubborn = defineWorkflow({ type: "stubborn" }, async (ctx) => {
      for (;;) {
        try {
          return await ctx.step("s", never);
        } catch {
          // Tries again, also after a cancel.
        }
      }
    });
    const worker = await millrace.worker({ workflows: [stubborn] });
    const handle = await millrace.start(stubborn, null, { id: "s" });
    await expect.poll(() => worker.stats().stepsRunning).toBe(1);
    await handle.cancel();
    await expect
      .poll(() => typesOf(millrace.log, "s"))
      .toEqual(["WorkflowStarted", "WorkflowCancelRequested", "WorkflowTurnFailed"]);
    await handle.terminate();
    await expect.poll(() => worker.stats().runs).toBe(0);
  });

  test("a branch that nobody awaits and that acts outside of a turn fails the turn, it does not end the process", async () => {
    const unhandled: unknown[] = [];
    const note = (error: unknown): void => void unhandled.push(error);
    process.on("unhandledRejection", note);
    process.on("uncaughtException", note);
    try {
      const millrace = await connected();
      const stray = defineWorkflow({ type: "stray" }, async (ctx) => {
        const branch = async (): Promise<void> => {
          await new Promise((resolve) => setImmediate(resolve));
          await ctx.step("late", () => 1);
        };
        // oxlint-disable-next-line no-floating-promises -- the mistake that this test is about
        branch();
        setImmediate(() => ctx.progress({ message: "late" }));
        await ctx.step("hang", never);
      });
      const worker = await millrace.worker({ workflows: [stray] });
      await millrace.start(stray, null, { id: "stray" });
      await expect.poll(() => typesOf(millrace.log, "stray")).toContain("WorkflowTurnFailed");
      await new Promise((resolve) => setImmediate(resolve));
      expect(unhandled).toEqual([]);
      await worker.drain({ deadlineMs: 0 });
    } finally {
      process.off("unhandledRejection", note);
      process.off("uncaughtException", note);
    }
  });

  test("what a step's function does after its run gave it up is nobody's error", async () => {
    const unhandled: unknown[] = [];
    const note = (error: unknown): void => void unhandled.push(error);
    process.on("unhandledRejection", note);
    try {
      const millrace = await connected();
      const late = gate();
      const lost = defineWorkflow({ type: "lost" }, (ctx) =>
        Promise.race([
          ctx.step("slow", async () => {
            await late.opened;
            throw new Error("too late");
          }),
          ctx.step("quick", () => 1),
        ]),
      );
      await millrace.worker({ workflows: [lost] });
      expect(await (await millrace.start(lost, null)).result()).toBe(1);
      late.open();
      await new Promise((resolve) => setImmediate(resolve));
      expect(unhandled).toEqual([]);
    } finally {
      process.off("unhandledRejection", note);
    }
  });
});

describe("workers side by side", () => {
  test("commits of a version that is hosted elsewhere cost no load, and a closed run is forgotten", async () => {
    const server = createMemoryServer();
    const warnings: string[] = [];
    let loads = 0;
    const log = createMemoryLog({ server });
    const newer = await connected({ ...log, load: (...args) => (loads++, log.load(...args)) }, warnings);
    const older = await connected(createMemoryLog({ server }));
    const make = (version: string) =>
      defineWorkflow({ type: "long", version }, async (ctx) => {
        for (let i = 0; i < 20; i++) await ctx.step("s", () => i);
      });
    const worker = await newer.worker({ workflows: [make("2")] });
    await older.worker({ workflows: [make("1")] });
    await (await older.start(make("1"), null)).result();
    await expect.poll(() => worker.stats()).toMatchObject({ runs: 0, unhosted: 0 });
    expect(loads).toBeLessThan(3);
    expect(warnings).toEqual([]);
    await older.start(make("3"), null, { id: "waits" });
    await expect
      .poll(() => warnings)
      .toEqual([expect.stringMatching(/waits: no worker hosts version 3 of long/)]);
  });

  test("a run that closes while it waits for a place is forgotten", async () => {
    const millrace = await connected();
    const hanging = defineWorkflow({ type: "hanging" }, (ctx) => ctx.step("s", never));
    const worker = await millrace.worker({ workflows: [hanging], runsMax: 1 });
    await millrace.start(hanging, null);
    const waits = await millrace.start(hanging, null);
    await expect.poll(() => worker.stats()).toMatchObject({ runs: 1, waiting: 1 });
    await waits.terminate();
    await expect.poll(() => worker.stats()).toMatchObject({ runs: 1, waiting: 0 });
    await worker.drain({ deadlineMs: 0 });
  });

  test("terminate reaches a run that never rests", async () => {
    const millrace = await connected();
    const busy = defineWorkflow({ type: "busy" }, async (ctx) => {
      for (let i = 0; i < 40_000; i++)
        await ctx.step("s", () => new Promise((resolve) => setImmediate(resolve)));
    });
    await millrace.worker({ workflows: [busy] });
    const handle = await millrace.start(busy, null, { id: "busy" });
    const result = handle.result();
    result.catch(() => undefined);
    await expect.poll(async () => (await millrace.log.last("busy"))?.sequence ?? 0).toBeGreaterThan(100);
    await handle.terminate({ reason: "enough" });
    await expect(soon(result)).rejects.toMatchObject({ code: "terminated" });
  });
});
