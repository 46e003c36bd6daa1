import { createMemoryLog, createMemoryServer } from "@millrace/event-log";
import { isMillraceError } from "@millrace/schemas";
import { afterEach, describe, expect, test } from "vitest";
import { connect } from "./connect.ts";
import { defineWorkflow } from "./definition.ts";
import { CancelledError, NonRetryableError } from "./failures.ts";
import { silentLogger } from "./logger.ts";
import type { Millrace } from "./millrace.ts";

const open: Millrace[] = [];
afterEach(async () => {
  await Promise.all(open.splice(0).map((connection) => connection.close()));
});

async function connected(server = createMemoryServer()): Promise<Millrace> {
  const connection = await connect({ log: createMemoryLog({ server }) });
  open.push(connection);
  return connection;
}

const fast = { retry: { initialDelayMs: 1, maxDelayMs: 5 } };

describe("a run", () => {
  test("goes through its steps, one commit a turn, and gives its result", async () => {
    const millrace = await connected();
    const add = defineWorkflow({ type: "add", steps: ["a", "b", "c"] }, async (ctx, input: { n: number }) => {
      const a = await ctx.step("a", () => input.n + 1);
      const b = await ctx.step("b", () => a + 1);
      return ctx.step("c", () => b + 1);
    });
    await millrace.worker({ workflows: [add] });
    const handle = await millrace.start(add, { n: 1 }, { id: "add-1" });
    expect(await handle.result()).toBe(4);
    const history = await millrace.log.load("add-1");
    expect(history.map((commit) => commit.events.map((event) => event.type))).toEqual([
      ["WorkflowStarted"],
      ["StepCompleted"],
      ["StepCompleted"],
      ["StepCompleted", "WorkflowCompleted"],
    ]);
  });

  test("retries a step, tells each attempt, and records its outcome once", async () => {
    const millrace = await connected();
    const attempts: number[] = [];
    const flaky = defineWorkflow({ type: "flaky" }, (ctx) =>
      ctx.step(
        "try",
        (step) => {
          attempts.push(step.attempt);
          if (step.attempt < 3) throw new Error("not yet");
          return step.idempotencyKey;
        },
        fast,
      ),
    );
    await millrace.worker({ workflows: [flaky] });
    const handle = await millrace.start(flaky, null, { id: "f" });
    expect(await handle.result()).toBe("f/1/try#1");
    expect(attempts).toEqual([1, 2, 3]);
    const types = (await millrace.log.load("f")).flatMap((commit) =>
      commit.events.map((event) => event.type),
    );
    expect(types).toEqual([
      "WorkflowStarted",
      "StepRetryScheduled",
      "StepStarted",
      "StepRetryScheduled",
      "StepStarted",
      "StepCompleted",
      "WorkflowCompleted",
    ]);
  });

  test("fails with its step's error after the last attempt, and at once for NonRetryableError", async () => {
    const millrace = await connected();
    let calls = 0;
    const failing = defineWorkflow({ type: "failing" }, (ctx, input: { final: boolean }) =>
      ctx.step(
        "x",
        () => {
          calls++;
          throw input.final ? new NonRetryableError("never") : new Error("no");
        },
        fast,
      ),
    );
    await millrace.worker({ workflows: [failing] });
    const error = await (await millrace.start(failing, { final: false })).result().catch((e: unknown) => e);
    expect(error).toMatchObject({ code: "workflow_failed", details: { error: { code: "step_failed" } } });
    expect(calls).toBe(3);
    calls = 0;
    await expect((await millrace.start(failing, { final: true })).result()).rejects.toThrow(/never/);
    expect(calls).toBe(1);
  });

  test("ends an attempt at its time limit, aborts its signal, and goes on with the next", async () => {
    const millrace = await connected();
    const aborted: unknown[] = [];
    const slow = defineWorkflow({ type: "slow" }, (ctx) =>
      ctx.step(
        "s",
        (step) =>
          step.attempt === 2
            ? "second"
            : new Promise((_resolve, reject) => {
                step.signal.addEventListener("abort", () => {
                  aborted.push(step.signal.reason);
                  reject(step.signal.reason as Error);
                });
              }),
        { timeoutMs: 20, ...fast },
      ),
    );
    await millrace.worker({ workflows: [slow] });
    expect(await (await millrace.start(slow, null)).result()).toBe("second");
    expect(aborted).toHaveLength(1);
    expect(isMillraceError(aborted[0], "step_timeout")).toBe(true);
  });

  test("Promise.all and race over steps work; several completions share a commit", async () => {
    const millrace = await connected();
    const fan = defineWorkflow({ type: "fan" }, async (ctx) => {
      const all = await Promise.all([1, 2, 3, 4].map((n) => ctx.step("part", () => n * 10)));
      const first = await Promise.race([
        ctx.step("quick", () => "quick"),
        ctx.step(
          "never",
          (step) =>
            new Promise((_r, reject) => step.signal.addEventListener("abort", () => reject(new Error("x")))),
        ),
      ]);
      return { all, first };
    });
    await millrace.worker({ workflows: [fan] });
    const handle = await millrace.start(fan, null, { id: "fan" });
    expect(await handle.result()).toEqual({ all: [10, 20, 30, 40], first: "quick" });
    const steps = (await millrace.log.load("fan"))
      .flatMap((c) => c.events)
      .filter((e) => e.type === "StepCompleted");
    expect(steps.map((e) => e.data.occurrence)).toEqual([1, 2, 3, 4, 1]);
  });

  test("now, random and uuid are the same in every activation", async () => {
    const server = createMemoryServer();
    const seen: unknown[][] = [];
    const make = (gate: Promise<void>) =>
      defineWorkflow({ type: "det" }, async (ctx) => {
        const values = [ctx.now(), ctx.random(), ctx.uuid(), ctx.uuid()];
        seen.push(values);
        await ctx.step("one", () => 1);
        const later = ctx.now();
        await ctx.step("two", () => gate);
        return { values, later };
      });
    const first = await connected(server);
    const worker = await first.worker({ workflows: [make(new Promise(() => undefined))] });
    const handle = await first.start(make(Promise.resolve()), null, { id: "det" });
    await expect.poll(() => seen.length).toBe(1);
    await expect.poll(async () => (await first.log.load("det")).length).toBe(3);
    await worker.drain({ deadlineMs: 0 });
    const second = await connected(server);
    await second.worker({ workflows: [make(Promise.resolve())] });
    const result = await handle.result();
    expect(seen).toHaveLength(2);
    expect(seen[1]).toEqual(seen[0]);
    expect(result).toMatchObject({ values: seen[0] });
    expect(String(seen[0]?.[2])).toMatch(
      /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/,
    );
    expect(seen[0]?.[2]).not.toBe(seen[0]?.[3]);
  });

  test("cancel: pending steps reject, the run ends as cancelled, repeating it changes nothing", async () => {
    const millrace = await connected();
    let started = false;
    let aborted = false;
    let seen: unknown;
    const waiting = defineWorkflow({ type: "waiting" }, async (ctx) => {
      try {
        await ctx.step(
          "long",
          (step) =>
            new Promise((_resolve, reject) => {
              started = true;
              step.signal.addEventListener("abort", () => {
                aborted = true;
                reject(new Error("stopped"));
              });
            }),
        );
      } catch (error) {
        seen = error;
        throw error;
      }
    });
    await millrace.worker({ workflows: [waiting] });
    const handle = await millrace.start(waiting, null, { id: "c" });
    await expect.poll(() => started).toBe(true);
    await handle.cancel({ reason: "changed my mind", by: "ada" });
    await expect(handle.result()).rejects.toMatchObject({
      code: "cancelled",
      message: expect.stringContaining("changed my mind") as string,
    });
    expect(aborted).toBe(true);
    expect(seen).toBeInstanceOf(CancelledError);
    await handle.cancel({ reason: "again" });
    const types = (await millrace.log.load("c")).flatMap((commit) =>
      commit.events.map((event) => event.type),
    );
    expect(types).toEqual(["WorkflowStarted", "WorkflowCancelRequested", "WorkflowCancelled"]);
  });

  test("terminate ends a run at once", async () => {
    const millrace = await connected();
    const waiting = defineWorkflow({ type: "w" }, (ctx) =>
      ctx.step("long", () => new Promise(() => undefined)),
    );
    await millrace.worker({ workflows: [waiting] });
    const handle = await millrace.start(waiting, null, { id: "t" });
    const result = handle.result();
    await handle.terminate({ reason: "enough" });
    await expect(result).rejects.toMatchObject({ code: "terminated" });
    await expect(handle.cancel()).rejects.toMatchObject({ code: "workflow_closed" });
  });

  test("a bug or foreign await fails the turn, not the run: it is stuck, and mended code goes on", async () => {
    const server = createMemoryServer();
    const first = await connected(server);
    const broken = defineWorkflow({ type: "bug" }, async (ctx) => {
      await ctx.step("one", () => 1);
      return (undefined as unknown as { x: number }).x;
    });
    const foreign = defineWorkflow({ type: "foreign" }, async () => {
      await new Promise((resolve) => setImmediate(resolve));
      return 1;
    });
    const worker = await first.worker({ workflows: [broken, foreign] });
    const handle = await first.start(broken, null, { id: "bug" });
    await first.start(foreign, null, { id: "foreign" });
    const types = async (id: string) =>
      (await first.log.load(id)).flatMap((commit) => commit.events.map((event) => event.type));
    await expect.poll(() => types("bug")).toEqual(["WorkflowStarted", "StepCompleted", "WorkflowTurnFailed"]);
    await expect.poll(() => types("foreign")).toEqual(["WorkflowStarted", "WorkflowTurnFailed"]);
    await worker.drain();
    let calls = 0;
    const mended = defineWorkflow({ type: "bug" }, async (ctx) => {
      const one = await ctx.step("one", () => ++calls);
      return one + 1;
    });
    const second = await connected(server);
    await second.worker({ workflows: [mended] });
    expect(await handle.result()).toBe(2);
    expect(calls).toBe(0);
  });

  test("code that acts outside of a turn fails the turn; what was recorded before is not recorded again", async () => {
    const millrace = await connected();
    const stray = defineWorkflow({ type: "stray" }, async (ctx) => {
      const hanging = ctx.step("hanging", () => new Promise(() => undefined));
      await ctx.step("one", () => 1);
      setImmediate(() => {
        try {
          ctx.progress({ message: "too late" });
        } catch {
          // The turn has failed: that the caller is told too is of no use here.
        }
      });
      await hanging;
    });
    const worker = await millrace.worker({ workflows: [stray] });
    await millrace.start(stray, null, { id: "stray" });
    const events = async () => (await millrace.log.load("stray")).flatMap((commit) => commit.events);
    await expect.poll(async () => (await events()).at(-1)?.type).toBe("WorkflowTurnFailed");
    expect((await events()).map((event) => event.type)).toEqual([
      "WorkflowStarted",
      "StepCompleted",
      "WorkflowTurnFailed",
    ]);
    expect((await events()).at(-1)).toMatchObject({ data: { error: { code: "non_deterministic_call" } } });
    await worker.drain({ deadlineMs: 0 });
  });

  test("a commit that cannot be read stops the run and nothing is appended to it, also not again and again", async () => {
    const server = createMemoryServer();
    const millrace = await connected(server);
    const errors: string[] = [];
    const other = await connect({
      log: createMemoryLog({ server }),
      logger: { ...silentLogger, error: (_fields, message) => errors.push(message) },
    });
    open.push(other);
    let finish = (): void => undefined;
    const gate = new Promise<void>((resolve) => (finish = resolve));
    const reading = defineWorkflow({ type: "reading" }, async (ctx) => {
      await ctx.step("one", () => 1);
      await ctx.step("two", () => gate);
    });
    const worker = await other.worker({ workflows: [reading] });
    await millrace.start(reading, null, { id: "poisoned" });
    await expect.poll(async () => (await millrace.log.load("poisoned")).length).toBe(2);
    const head = { workflowId: "poisoned", type: "reading", commitId: "01J00000000000000000000000" };
    const body = new TextEncoder().encode('{"v":1,"events":[{"type":"FromTheFuture","data":{}}]}');
    const sequence = (await millrace.log.last("poisoned"))?.sequence ?? 0;
    await server.publish(
      millrace.log.namespace,
      { ...head, writer: null, condition: null, dueAt: null, parent: null, body },
      { sequence, anyType: false },
    );
    await expect.poll(() => errors.some((message) => message.includes("FromTheFuture"))).toBe(true);
    finish();
    await worker.drain();
    expect(await millrace.log.load("poisoned")).toHaveLength(3);
    expect(errors.length).toBeLessThan(5);
  });

  test("a recorded step that the code no longer asks for is non-determinism, told once", async () => {
    const server = createMemoryServer();
    const first = await connected(server);
    const original = defineWorkflow({ type: "nd" }, async (ctx) => {
      await ctx.step("old", () => 1);
      await ctx.step("hang", () => new Promise(() => undefined));
    });
    const worker = await first.worker({ workflows: [original] });
    await first.start(original, null, { id: "nd" });
    await expect.poll(async () => (await first.log.load("nd")).length).toBe(2);
    await worker.drain({ deadlineMs: 0 });
    const changed = defineWorkflow({ type: "nd" }, (ctx) =>
      ctx.step("new", () => new Promise(() => undefined)),
    );
    for (let restart = 0; restart < 2; restart++) {
      const again = await connected(server);
      const next = await again.worker({ workflows: [changed] });
      await expect.poll(async () => (await first.log.load("nd")).length).toBe(3);
      await next.drain({ deadlineMs: 0 });
    }
    const [failed] = (await first.log.load("nd")).at(-1)?.events ?? [];
    expect(failed).toMatchObject({
      type: "WorkflowTurnFailed",
      data: {
        error: {
          code: "non_determinism",
          message: expect.stringMatching(/StepCompleted of step old.*version 1/) as string,
        },
      },
    });
  });
});

describe("start", () => {
  const echo = defineWorkflow({ type: "echo" }, (ctx, input: { x: number }) => ctx.step("e", () => input));

  test("is idempotent by id; another start under the id is workflow_exists", async () => {
    const millrace = await connected();
    await millrace.worker({ workflows: [echo] });
    const a = await millrace.startByType("echo", { x: 1 }, { id: "e" });
    const b = await millrace.startByType("echo", { x: 1 }, { id: "e" });
    expect([a.created, b.created]).toEqual([true, false]);
    expect(b.sequence).toBe(a.sequence);
    await expect(millrace.startByType("echo", { x: 2 }, { id: "e" })).rejects.toMatchObject({
      code: "workflow_exists",
    });
    await expect(
      millrace.startByType("other", { x: 1 }, { id: "e", driver: "external" }),
    ).rejects.toMatchObject({
      code: "workflow_exists",
      details: { difference: "type" },
    });
  });

  test("refuses unknown types, bad ids, bad input, each by code", async () => {
    const millrace = await connected();
    await expect(millrace.startByType("nobody", 1)).rejects.toMatchObject({ code: "workflow_type_unknown" });
    await expect(millrace.startByType("nobody", 1, { id: "a.b", driver: "external" })).rejects.toMatchObject({
      code: "invalid_id",
    });
    const strict = defineWorkflow(
      {
        type: "strict",
        input: {
          "~standard": {
            version: 1,
            vendor: "test",
            validate: (value) =>
              typeof value === "object" && value !== null && "n" in value && typeof value.n === "number"
                ? { value: { n: value.n } }
                : { issues: [{ message: "Expected a number", path: ["n"] }] },
          },
        },
      },
      (ctx, input: { n: number }) => ctx.step("s", () => input.n),
    );
    await millrace.worker({ workflows: [strict] });
    await expect(millrace.startByType("strict", { n: "1" })).rejects.toMatchObject({
      code: "invalid_input",
      message: expect.stringContaining("n: Expected a number") as string,
    });
    // Started where the schema is not known: the worker refuses it, as data in the log.
    await millrace.log.append({
      commitId: "01J00000000000000000000000",
      workflowId: "raw",
      type: "strict",
      expected: "new",
      events: [{ type: "WorkflowStarted", data: { version: "1", input: {}, driver: "code" } }],
      condition: "running",
    });
    await expect(millrace.handle("raw").result()).rejects.toMatchObject({
      details: { error: { code: "invalid_input" } },
    });
  });
});

describe("take-over", () => {
  test("open runs go on where they were; finished steps do not run again", async () => {
    const server = createMemoryServer();
    const calls: string[] = [];
    const make = (gate: Promise<unknown>) =>
      defineWorkflow({ type: "long" }, async (ctx, input: { id: string }) => {
        await ctx.step("one", () => void calls.push(`${input.id}/one`));
        await ctx.step("two", async () => {
          await gate;
          calls.push(`${input.id}/two`);
        });
        return input.id;
      });
    const first = await connected(server);
    const worker = await first.worker({ workflows: [make(new Promise(() => undefined))] });
    const handles = await Promise.all(
      ["a", "b", "c"].map((id) => first.start(make(Promise.resolve()), { id }, { id })),
    );
    await expect
      .poll(async () =>
        (await Promise.all(["a", "b", "c"].map((id) => first.log.load(id)))).every((h) => h.length === 2),
      )
      .toBe(true);
    await worker.drain({ deadlineMs: 0 });
    const second = await connected(server);
    await second.worker({ workflows: [make(Promise.resolve())], runsMax: 1 });
    expect(await Promise.all(handles.map((handle) => handle.result()))).toEqual(["a", "b", "c"]);
    expect(calls.toSorted()).toEqual(["a/one", "a/two", "b/one", "b/two", "c/one", "c/two"]);
  });

  test("a log that was made anew stops the worker, which says so", async () => {
    const server = createMemoryServer();
    const millrace = await connected(server);
    const failures: Error[] = [];
    const idle = defineWorkflow({ type: "idle" }, (ctx) => ctx.step("s", () => 1));
    await millrace.worker({ workflows: [idle], onFailed: (error) => failures.push(error) });
    await (await millrace.start(idle, null)).result();
    server.recreate(millrace.log.namespace);
    await expect.poll(() => failures.map((error) => isMillraceError(error, "log_recreated"))).toEqual([true]);
  });

  test("drain lets a running step end and records it", async () => {
    const millrace = await connected();
    let release = (): void => undefined;
    const gate = new Promise<void>((resolve) => (release = resolve));
    let started = false;
    const one = defineWorkflow({ type: "one" }, (ctx) =>
      ctx.step("s", async () => {
        started = true;
        await gate;
        return 7;
      }),
    );
    const worker = await millrace.worker({ workflows: [one] });
    const handle = await millrace.start(one, null);
    await expect.poll(() => started).toBe(true);
    const drained = worker.drain();
    release();
    await drained;
    expect(await handle.result()).toBe(7);
  });
});

describe("driver", () => {
  test("begin, complete, fail; a driver that crashed learns what is done; a stale token is refused", async () => {
    const { driver, startByType, ...rest } = await connected().then((m) => ({
      driver: m.driver,
      startByType: m.startByType.bind(m),
      log: m.log,
      handle: m.handle.bind(m),
    }));
    await startByType("permit", { n: 1 }, { id: "case-1", driver: "external", steps: ["check", "decide"] });
    const first = await driver.begin("case-1", "check");
    expect(first).toMatchObject({ outcome: "execute", attempt: 1, idempotencyKey: "case-1/1/check#1" });
    const second = await driver.begin("case-1", "check");
    expect(second).toMatchObject({ outcome: "execute", attempt: 2 });
    if (first.outcome !== "execute" || second.outcome !== "execute") throw new Error("unreachable");
    await expect(driver.completeStep("case-1", "check", first.token, 1)).rejects.toMatchObject({
      code: "attempt_superseded",
    });
    await driver.completeStep("case-1", "check", second.token, { ok: true });
    await driver.completeStep("case-1", "check", second.token, { ok: true });
    expect(await driver.begin("case-1", "check")).toMatchObject({
      outcome: "completed",
      output: { ok: true },
    });
    await expect(driver.completeStep("case-1", "decide", "x", 1)).rejects.toMatchObject({
      code: "step_not_begun",
    });
    const decide = await driver.begin("case-1", "decide", { maxAttempts: 2 });
    if (decide.outcome !== "execute") throw new Error("unreachable");
    const failed = await driver.failStep("case-1", "decide", decide.token, {
      message: "later",
      retryable: true,
    });
    expect(failed.final).toBe(false);
    expect(failed.nextAttemptAt).toBeGreaterThan(0);
    await expect.poll(async () => (await driver.begin("case-1", "decide")).outcome).toBe("execute");
    const again = await driver.begin("case-1", "decide");
    if (again.outcome !== "execute") throw new Error("unreachable");
    const final = await driver.failStep("case-1", "decide", again.token, { message: "never" });
    expect(final.final).toBe(true);
    expect(await driver.begin("case-1", "decide")).toMatchObject({
      outcome: "failed",
      error: { message: "never" },
    });
    await driver.complete("case-1", { granted: true });
    expect(await rest.handle("case-1").result()).toEqual({ granted: true });
    await expect(driver.begin("case-1", "more")).rejects.toMatchObject({ code: "workflow_closed" });
    await expect(driver.begin("nobody", "x")).rejects.toMatchObject({ code: "workflow_not_found" });
  });

  test("drive: a step is one call, retries included; driving again after a crash runs nothing twice", async () => {
    const server = createMemoryServer();
    const calls: string[] = [];
    const drive = async (connection: Millrace) => {
      const run = await connection.drive("permit", "case-7", { input: { n: 1 }, steps: ["check", "pay"] });
      const note = (name: string) => () => {
        calls.push(name);
        return name.length;
      };
      const a = await run.step("check", note("check"));
      const b = await run.step("check", note("check#2"));
      const c = await run.step("pay", ({ attempt, idempotencyKey }) => {
        calls.push(`pay ${attempt} ${idempotencyKey}`);
        if (attempt === 1) throw new Error("busy");
        return { paid: true };
      });
      await run.complete({ a, b, c });
    };
    const first = await connected(server);
    const interrupted = first.drive("permit", "case-7", { input: { n: 1 }, steps: ["check", "pay"] });
    await (
      await interrupted
    ).step("check", () => {
      calls.push("check");
      return 5;
    });
    await drive(await connected(server));
    expect(calls).toEqual(["check", "check#2", "pay 1 case-7/1/pay#1", "pay 2 case-7/1/pay#1"]);
    expect(await first.handle("case-7").result()).toEqual({ a: 5, b: 7, c: { paid: true } });
    const failing = await first.drive("permit", "case-8");
    const doomed = failing.step("x", () => Promise.reject(new NonRetryableError("never")));
    await expect(doomed).rejects.toMatchObject({ code: "step_failed" });
    await failing.fail(new Error("gave up"));
    await expect(first.handle("case-8").result()).rejects.toThrow(/gave up/);
  });

  test("two drivers in two processes: exactly one token is current", async () => {
    const server = createMemoryServer();
    const [a, b] = [await connected(server), await connected(server)];
    await a.startByType("p", null, { id: "x", driver: "external" });
    const outcomes = await Promise.all([a.driver.begin("x", "s"), b.driver.begin("x", "s")]);
    const tokens = outcomes.flatMap((outcome) => (outcome.outcome === "execute" ? [outcome.token] : []));
    expect(tokens).toHaveLength(2);
    const ends = await Promise.allSettled([
      a.driver.completeStep("x", "s", tokens[0] ?? "", "a"),
      b.driver.completeStep("x", "s", tokens[1] ?? "", "b"),
    ]);
    expect(ends.filter((end) => end.status === "fulfilled")).toHaveLength(1);
  });

  test("cancel of a driven run is carried out at once", async () => {
    const millrace = await connected();
    const { handle } = await millrace.startByType("p", null, { id: "x", driver: "external" });
    await handle.cancel({ reason: "r" });
    await expect(handle.result()).rejects.toMatchObject({ code: "cancelled" });
  });
});
