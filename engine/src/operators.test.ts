/** What operators do, over the memory log, with code that runs and with drivers. */
import { createMemoryLog, createMemoryServer, type AppendRequest, type EventLog } from "@millrace/event-log";
import { MillraceError, type RunState } from "@millrace/schemas";
import { afterEach, describe, expect, test, vi } from "vitest";
import { foldHistory } from "./commands.ts";
import { connect } from "./connect.ts";
import { forkRun, resetRun } from "./copy-history.ts";
import { defineWorkflow } from "./definition.ts";
import type { Millrace } from "./millrace.ts";
import type { WorkerOptions } from "./worker.ts";

/** With runs kept in memory, replayed after every commit, and dropped whenever idle. */
const modes: [string, Partial<WorkerOptions>][] = [
  ["kept in memory", {}],
  ["replayed after every commit", { replayAlways: true }],
  ["parked whenever idle", { runsMax: 0 }],
];

const open: Millrace[] = [];
afterEach(async () => {
  await Promise.all(open.splice(0).map((connection) => connection.close()));
});

async function connected(server = createMemoryServer()): Promise<Millrace> {
  const connection = await connect({ log: createMemoryLog({ server }) });
  open.push(connection);
  return connection;
}
const once = { retry: { maxAttempts: 1 } };
const typesOf = async (log: EventLog, id: string) =>
  (await log.load(id)).map(({ events }) => events.map(({ type }) => type).join(" "));
async function stateOf({ log }: { readonly log: EventLog }, id: string): Promise<RunState> {
  const state = foldHistory(await log.load(id));
  if (state === null) throw new Error(`no run ${id}`);
  return state;
}
const until = (check: () => Promise<unknown>) => vi.waitFor(check, { timeout: 5_000, interval: 5 });

/** Three steps; what they do can be changed between runs. Counts the calls. */
function shop(does: Partial<Record<"reserve" | "charge" | "ship", () => unknown>> = {}) {
  const calls: string[] = [];
  const step = (name: "reserve" | "charge" | "ship") => () => {
    calls.push(name);
    return does[name]?.() ?? name;
  };
  const order = defineWorkflow({ type: "order" }, async (ctx) => {
    await ctx.step("reserve", step("reserve"), once);
    await ctx.step("charge", step("charge"), once);
    const approval = await ctx.waitForSignal<string>("approve");
    const shipped = await ctx.step("ship", step("ship"), once);
    return { shipped, approval, random: ctx.random() };
  });
  return { order, calls, does };
}

describe.each(modes)("%s", (_title, mode) => {
  describe("pause and resume", () => {
    test("a paused run begins nothing new, says who holds it, and goes on when it is resumed", async () => {
      const millrace = await connected();
      const { order, calls } = shop();
      await millrace.worker({ workflows: [order], ...mode });
      const handle = await millrace.start(order, null, { id: "o" });
      await until(async () => expect((await stateOf(millrace, "o")).status).toBe("waiting"));
      const { sequence } = await handle.pause({ reason: "audit", by: "ada" });
      expect((await handle.pause({ reason: "again" })).sequence).toBe(sequence);
      await handle.signal("approve", "yes");
      expect(await stateOf(millrace, "o")).toMatchObject({
        status: "paused",
        paused: { reason: "audit", by: "ada" },
      });
      expect(calls).toEqual(["reserve", "charge"]);
      await handle.resume({ by: "bob" });
      expect(await handle.result()).toMatchObject({ shipped: "ship", approval: "yes" });
      const types = await typesOf(millrace.log, "o");
      expect(types.filter((each) => /Paused|Resumed/.test(each))).toEqual([
        "WorkflowPaused",
        "WorkflowResumed",
      ]);
      await expect(handle.pause()).rejects.toMatchObject({ code: "workflow_closed" });
      await expect(millrace.handle("nobody").pause()).rejects.toMatchObject({ code: "workflow_not_found" });
    });

    test("a driver of a paused run is told to wait, may end what it has begun, and goes on after", async () => {
      const millrace = await connected();
      const run = await millrace.drive("permit", "case-1");
      const begun = await millrace.driver.begin("case-1", "check");
      if (begun.outcome !== "execute") throw new Error(begun.outcome);
      await millrace.handle("case-1").pause();
      expect(await millrace.driver.begin("case-1", "decide")).toMatchObject({ outcome: "wait" });
      await millrace.driver.completeStep("case-1", "check", begun.token, 1);
      await millrace.handle("case-1").resume();
      expect(await millrace.driver.begin("case-1", "decide")).toMatchObject({ outcome: "execute" });
      await run.complete();
      expect((await stateOf(millrace, "case-1")).status).toBe("completed");
    });
  });

  describe("retry, reset, fork", () => {
    test("retry goes on from the failed step: what was done before is not done again", async () => {
      const millrace = await connected();
      const { order, calls, does } = shop({
        charge: () => {
          throw new Error("card declined");
        },
      });
      await millrace.worker({ workflows: [order], ...mode });
      const handle = await millrace.start(order, null, { id: "o" });
      await expect(handle.result()).rejects.toMatchObject({ code: "workflow_failed" });
      delete does.charge;
      const retried = await handle.retry({ reason: "new card", by: "ada" });
      expect(retried).toMatchObject({ run: 2, step: "charge" });
      await handle.signal("approve", "yes");
      expect(await handle.result()).toMatchObject({ shipped: "ship", approval: "yes" });
      expect(calls).toEqual(["reserve", "charge", "charge", "ship"]);
      const [reset] = (await millrace.log.load("o")).flatMap(({ events }) =>
        events.filter(({ type }) => type === "WorkflowReset"),
      );
      expect(reset?.data).toEqual({ run: 2, kind: "retry", step: "charge", reason: "new card", by: "ada" });
      await expect(handle.retry()).rejects.toMatchObject({ code: "workflow_not_failed" });
    });

    test("reset takes a finished run back to before a step, with its signals and its random numbers", async () => {
      const millrace = await connected();
      const { order, calls } = shop();
      await millrace.worker({ workflows: [order], ...mode });
      const handle = await millrace.start(order, null, { id: "o" });
      await handle.signal("approve", "yes");
      const first = await handle.result();
      const again = await handle.reset({ step: "ship#1", reason: "lost in the mail" });
      expect(again).toMatchObject({ run: 2, step: "ship" });
      await until(async () => expect((await stateOf(millrace, "o")).status).toBe("completed"));
      expect(await millrace.handle("o").result()).toEqual(first);
      expect(calls).toEqual(["reserve", "charge", "ship", "ship"]);
      await handle.reset({ by: "ada" });
      await until(async () =>
        expect(await stateOf(millrace, "o")).toMatchObject({ status: "completed", run: 3 }),
      );
      expect(calls.slice(4)).toEqual(["reserve", "charge", "ship"]);
    });

    test("fork begins another run in the middle of one, and leaves that one as it is", async () => {
      const millrace = await connected();
      const { order, calls } = shop();
      await millrace.worker({ workflows: [order], ...mode });
      const handle = await millrace.start(order, null, { id: "o", attributes: { customer: 7 } });
      await until(async () => expect((await stateOf(millrace, "o")).status).toBe("waiting"));
      await handle.signal("approve", "yes");
      const first = await handle.result();
      const before = await typesOf(millrace.log, "o");
      const forked = await handle.fork({ step: "charge", id: "o-2", reason: "what if" });
      expect(forked).toMatchObject({ id: "o-2", created: true });
      expect(await handle.fork({ step: "charge", id: "o-2" })).toMatchObject({ id: "o-2", created: false });
      // A fork is another run: signals of the first are not its own.
      await millrace.handle("o-2").signal("approve", "no");
      expect(await millrace.handle("o-2").result()).toEqual({ ...first, approval: "no" });
      expect(calls).toEqual(["reserve", "charge", "ship", "charge", "ship"]);
      expect(await typesOf(millrace.log, "o")).toEqual(before);
      expect(await stateOf(millrace, "o-2")).toMatchObject({ attributes: { customer: 7 }, run: 1 });
      await expect(handle.fork({ step: "ship", id: "o-2" })).rejects.toMatchObject({
        code: "workflow_exists",
      });
      await expect(handle.fork({ step: "nothing" })).rejects.toMatchObject({ code: "step_not_begun" });
      expect((await handle.fork()).id).toMatch(/^[0-9A-Z]{26}$/);
    });

    test("a driven run is retried and reset; every connection's driver sees it, whatever it had remembered", async () => {
      const server = createMemoryServer();
      const [one, two] = [await connected(server), await connected(server)];
      await one.drive("permit", "case-1");
      const step = async (millrace: Millrace, name: string) => {
        const begun = await millrace.driver.begin("case-1", name);
        if (begun.outcome === "execute")
          await millrace.driver.completeStep("case-1", name, begun.token, name);
        return begun.outcome;
      };
      expect([await step(one, "check"), await step(one, "decide")]).toEqual(["execute", "execute"]);
      expect(await step(one, "decide")).toBe("completed");
      await two.handle("case-1").reset({ step: "decide" });
      expect(await step(one, "decide")).toBe("execute");
      expect(await step(one, "check")).toBe("completed");
      await one.driver.fail("case-1", { message: "no" });
      await two.handle("case-1").retry();
      expect(await step(one, "decide")).toBe("completed");
      await one.driver.complete("case-1", "granted");
      expect(await stateOf(one, "case-1")).toMatchObject({ status: "completed", run: 3, output: "granted" });
    });
  });

  describe("resets with tasks", () => {
    const payments = { queue: "payments", retry: { maxAttempts: 1 } };

    test("a task that is open in what is kept goes into its queue again, whoever had it before", async () => {
      const millrace = await connected();
      let calls = 0;
      const both = defineWorkflow({ type: "both" }, (ctx) =>
        Promise.all([
          ctx.task<string>("charge", { n: 1 }, payments),
          ctx.step("pack", () => "packed"),
          ctx.waitForSignal("go"),
        ]),
      );
      await millrace.worker({ workflows: [both], ...mode });
      const handle = await millrace.start(both, null, { id: "b" });
      await until(async () =>
        expect((await stateOf(millrace, "b")).steps.get("pack")?.status).toBe("completed"),
      );
      const helper = await millrace.worker({
        tasks: { charge: () => `charged ${++calls}` },
        queues: ["payments"],
      });
      await handle.signal("go", 1);
      expect(await handle.result()).toEqual(["charged 1", "packed", 1]);
      await handle.reset({ step: "pack" });
      await until(async () =>
        expect(await stateOf(millrace, "b")).toMatchObject({ status: "completed", run: 2 }),
      );
      expect(calls).toBe(2);
      const tokens = (await millrace.log.load("b")).flatMap(({ events }) =>
        events.flatMap((event) => (event.type === "StepScheduled" ? [event.data.token] : [])),
      );
      expect(tokens).toEqual([tokens[0], `${tokens[0]}-2`]);
      await helper.drain();
    });

    test("a failed task is retried: put into its queue anew, and done", async () => {
      const millrace = await connected();
      let fails = true;
      const pay = defineWorkflow({ type: "pay" }, async (ctx) => {
        await ctx.step("reserve", () => 1);
        return ctx.task<string>("charge", null, payments);
      });
      await millrace.worker({
        workflows: [pay],
        tasks: {
          charge: () => {
            if (fails) throw new Error("declined");
            return "charged";
          },
        },
        queues: ["payments"],
        ...mode,
      });
      const handle = await millrace.start(pay, null, { id: "p" });
      await expect(handle.result()).rejects.toThrow(/declined/);
      fails = false;
      expect(await handle.retry({ by: "ada" })).toMatchObject({ run: 2, step: "charge" });
      await until(async () => expect((await stateOf(millrace, "p")).output).toBe("charged"));
    });
  });

  describe("a run with a child", () => {
    test("is taken back to before a step behind the child: the child is not started again", async () => {
      const millrace = await connected();
      let shipped = 0;
      const ship = defineWorkflow({ type: "ship" }, (ctx) => ctx.step("ship", () => ++shipped));
      const parent = defineWorkflow({ type: "parent" }, async (ctx) => {
        const n = await ctx.child(ship, null, { id: "child-1" });
        return [n, await ctx.step("bill", () => "billed")];
      });
      await millrace.worker({ workflows: [parent, ship], ...mode });
      const handle = await millrace.start(parent, null, { id: "p" });
      expect(await handle.result()).toEqual([1, "billed"]);
      await handle.reset({ step: "bill" });
      await until(async () =>
        expect(await stateOf(millrace, "p")).toMatchObject({ status: "completed", run: 2 }),
      );
      // From the beginning it asks for the child again, and finds it done.
      await handle.reset();
      await until(async () =>
        expect(await stateOf(millrace, "p")).toMatchObject({ status: "completed", run: 3 }),
      );
      expect((await stateOf(millrace, "p")).output).toEqual([1, "billed"]);
      expect(shipped).toBe(1);
    });
  });

  describe("migrate", () => {
    const version = (name: string, last: string) =>
      defineWorkflow({ type: "order", version: name }, async (ctx) => {
        await ctx.step("reserve", () => "reserved");
        await ctx.waitForSignal("go");
        return ctx.step(last, () => name);
      });

    test("a run goes on with the code of another version", async () => {
      const millrace = await connected();
      await millrace.worker({ workflows: [version("1", "ship"), version("2", "send")], ...mode });
      const handle = await millrace.start(version("1", "ship"), null, { id: "o" });
      await until(async () => expect((await stateOf(millrace, "o")).status).toBe("waiting"));
      await handle.migrate("2", { reason: "faster", by: "ada" });
      await handle.migrate("2");
      await handle.signal("go");
      expect(await handle.result()).toBe("2");
      const types = (await typesOf(millrace.log, "o")).filter((each) => each.includes("Migrated"));
      expect(types).toEqual(["WorkflowMigrated"]);
    });

    test("to a version that nobody hosts it waits; a worker that comes with it takes it up", async () => {
      const server = createMemoryServer();
      const millrace = await connected(server);
      await millrace.worker({ workflows: [version("1", "ship")], ...mode, group: "old" });
      const handle = await millrace.start(version("1", "ship"), null, { id: "o" });
      await until(async () => expect((await stateOf(millrace, "o")).status).toBe("waiting"));
      await handle.migrate("2");
      await handle.signal("go");
      const other = await connected(server);
      await other.worker({ workflows: [version("1", "ship"), version("2", "send")], ...mode, group: "old" });
      expect(await handle.result()).toBe("2");
    });
  });

  describe("a copy that is broken off", () => {
    /** A run with `steps` steps that failed after them. */
    async function failedRun(steps: number) {
      const server = createMemoryServer();
      const millrace = await connected(server);
      let fails = true;
      const calls: number[] = [];
      const long = defineWorkflow({ type: "long" }, async (ctx) => {
        for (let n = 0; n < steps; n++) await ctx.step("work", () => calls.push(n), once);
        await ctx.step(
          "last",
          () => {
            if (fails) throw new Error("not yet");
            return "done";
          },
          once,
        );
        return ctx.waitForSignal("go");
      });
      await millrace.worker({ workflows: [long], ...mode });
      const handle = await millrace.start(long, null, { id: "r" });
      await expect(handle.result()).rejects.toThrow(/not yet/);
      fails = false;
      return { server, millrace, handle, calls, long };
    }

    /** Its n-th append from now on fails as when the process dies, before or after the commit is stored. */
    function dying(log: EventLog, n: number, stored: boolean): EventLog {
      let left = n;
      return new Proxy(log, {
        get(target, name) {
          const value: unknown = Reflect.get(target, name);
          if (name !== "append") return typeof value === "function" ? value.bind(target) : value;
          return async (request: AppendRequest) => {
            if (--left > 0) return target.append(request);
            if (stored) await target.append(request);
            throw new MillraceError("internal", "the process died");
          };
        },
      });
    }

    test.each([
      [1, true],
      [2, false],
      [2, true],
      [3, false],
    ])(
      "append %i, stored %s: nobody runs the half-copied run, and the same retry finishes it",
      async (n, stored) => {
        const { millrace, handle, calls, server } = await failedRun(10);
        const dead = dying(millrace.log, n, stored);
        await expect(resetRun(dead, "r", { kind: "retry" }, 4)).rejects.toThrow("the process died");
        expect((await stateOf(millrace, "r")).copying).toBe(true);
        // From outside it is told something meanwhile, and a second owner looks at it.
        await handle.signal("go", "on");
        const other = await connected(server);
        await expect(other.handle("r").migrate("9")).rejects.toMatchObject({ code: "conflict" });
        const { run } = await resetRun(millrace.log, "r", { kind: "retry" }, 4);
        expect(run).toBe(2);
        expect(await millrace.handle("r").result()).toBe("on");
        expect(calls).toHaveLength(10);
        expect((await stateOf(millrace, "r")).steps.size).toBe(11);
      },
    );

    test("another command replaces it, and a terminate ends it", async () => {
      const { millrace, handle, calls } = await failedRun(6);
      await expect(resetRun(dying(millrace.log, 2, true), "r", { kind: "retry" }, 4)).rejects.toThrow(
        "the process died",
      );
      const { run } = await handle.reset({ step: "work#6" });
      expect(run).toBe(3);
      await handle.signal("go", "on");
      await until(async () => expect((await stateOf(millrace, "r")).status).toBe("completed"));
      expect(calls).toEqual([0, 1, 2, 3, 4, 5, 5]);
      await expect(
        resetRun(dying(millrace.log, 1, true), "r", { kind: "reset", step: "last" }, 4),
      ).rejects.toThrow("the process died");
      await handle.terminate({ reason: "enough" });
      expect((await stateOf(millrace, "r")).status).toBe("terminated");
    });

    test("a fork that was broken off is finished by the same fork", async () => {
      const { millrace, calls } = await failedRun(10);
      const dead = dying(millrace.log, 2, true);
      await expect(forkRun(dead, "r", "f", { step: "last" }, 4)).rejects.toThrow("the process died");
      expect((await stateOf(millrace, "f")).copying).toBe(true);
      expect(await forkRun(millrace.log, "r", "f", { step: "last" }, 4)).toMatchObject({ created: false });
      await millrace.handle("f").signal("go", "on");
      expect(await millrace.handle("f").result()).toBe("on");
      expect(calls).toHaveLength(10);
    });

    test("signals that keep coming while it is copied do not stop it and are all kept", async () => {
      const { millrace, handle } = await failedRun(12);
      let sent = 0;
      let copying = false;
      const disturbed = new Proxy(millrace.log, {
        get(target, name) {
          const value: unknown = Reflect.get(target, name);
          if (name !== "append") return typeof value === "function" ? value.bind(target) : value;
          return async (request: AppendRequest) => {
            if (copying && sent < 5 && request.expected !== "any") await handle.signal("other", sent++);
            copying = true;
            return target.append(request);
          };
        },
      });
      await resetRun(disturbed, "r", { kind: "retry" }, 3);
      expect((await stateOf(millrace, "r")).open?.signals["other"]).toEqual({ received: 5, taken: 0 });
      await handle.signal("go", "on");
      expect(await millrace.handle("r").result()).toBe("on");
    });
  });
});
