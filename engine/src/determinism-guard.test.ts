import { randomUUID } from "node:crypto";
import * as nodeCrypto from "node:crypto";
import { createMemoryLog } from "@millrace/event-log";
import { isMillraceError } from "@millrace/schemas";
import { describe, expect, test } from "vitest";
import { connect } from "./connect.ts";
import type { WorkflowContext } from "./context.ts";
import { defineWorkflow } from "./definition.ts";
import { guarded, holdGuard, unguarded } from "./determinism-guard.ts";
import { NonDeterministicCallError } from "./failures.ts";
import { silentLogger } from "./logger.ts";

const calls: [call: string, instead: string, make: () => unknown][] = [
  ["Date.now()", "ctx.now()", () => Date.now()],
  ["new Date()", "new Date(ctx.now())", () => new Date()],
  ["Date()", "new Date(ctx.now())", () => Date()],
  ["Math.random()", "ctx.random()", () => Math.random()],
  ["crypto.randomUUID()", "ctx.uuid()", () => crypto.randomUUID()],
  ["crypto.randomUUID()", "ctx.uuid()", () => nodeCrypto.randomUUID()],
  ["crypto.randomUUID()", "ctx.uuid()", () => randomUUID()],
  ["setTimeout()", "ctx.sleep(ms)", () => clearTimeout(setTimeout(() => undefined, 1))],
  ["setInterval()", "a loop with ctx.sleep(ms)", () => clearInterval(setInterval(() => undefined, 1))],
  ["setImmediate()", "ctx.sleep(0)", () => clearImmediate(setImmediate(() => undefined))],
  ["fetch()", "ctx.step(name, () => fetch(…))", () => fetch("data:,x")],
];

describe("G1: what a replay cannot give again", () => {
  test.each(calls)("%s is refused and names %s; outside it works", async (call, instead, make) => {
    const release = holdGuard();
    try {
      const told: Error[] = [];
      expect(() => guarded("w", (error) => void told.push(error), make)).toThrow(NonDeterministicCallError);
      expect(told).toEqual([expect.objectContaining({ details: { workflowId: "w", call, instead } })]);
      await make();
      await guarded("w", fail, () => unguarded(make));
    } finally {
      release();
    }
  });

  test("what needs no clock is left alone, and dates stay dates", () => {
    const release = holdGuard();
    try {
      const date = guarded("w", fail, () => new Date(0));
      expect(date).toBeInstanceOf(Date);
      expect(date.toISOString()).toBe("1970-01-01T00:00:00.000Z");
      expect(guarded("w", fail, () => Date.parse("1970-01-01T00:00:01Z") + Date.UTC(1970, 0, 1))).toBe(1_000);
      class Later extends Date {}
      expect(new Later(5)).toBeInstanceOf(Later);
    } finally {
      release();
    }
  });

  test("G3: with the last hold released, the globals are those of before", () => {
    const globals = (): unknown[] => [
      Date,
      Date.now,
      Math.random,
      setTimeout,
      fetch,
      Reflect.get(crypto, "randomUUID"),
    ];
    const before = globals();
    const first = holdGuard();
    const second = holdGuard();
    expect(Date).not.toBe(before[0]);
    first();
    first();
    expect(Date.now).not.toBe(before[1]);
    second();
    expect(globals()).toEqual(before);
    expect(Object.hasOwn(crypto, "randomUUID")).toBe(false);
  });
});

describe("in a worker", () => {
  async function resultOf(
    code: (ctx: WorkflowContext) => Promise<unknown>,
    guard: boolean,
  ): Promise<unknown> {
    let onError = (): void => undefined;
    const stuck = new Promise<string>((resolve) => (onError = () => resolve("stuck")));
    const millrace = await connect({
      log: createMemoryLog(),
      logger: { ...silentLogger, error: () => onError() },
    });
    const workflow = defineWorkflow({ type: "w" }, (ctx, _input: null) => code(ctx));
    await millrace.worker({ workflows: [workflow], guard, replayAlways: true });
    const closed = (await millrace.start(workflow, null, { id: "w" })).result();
    closed.catch(() => undefined);
    try {
      return await Promise.race([closed, stuck]);
    } finally {
      await millrace.close();
    }
  }

  test("G2: all of ctx works under the guard, and so do steps", async () => {
    const all = async (ctx: WorkflowContext): Promise<unknown> => {
      ctx.onUpdate("u", () => ctx.now());
      const times = [ctx.now(), ctx.random(), ctx.uuid().length];
      await ctx.sleep(1);
      await ctx.waitForSignal("never", { timeoutMs: 1 });
      await ctx.scope((scope) => scope.sleep(5_000), { timeoutMs: 1 }).catch(() => undefined);
      const step = await ctx.step(
        "step",
        async ({ attempt }) => {
          const from = Date.now() + Math.random();
          await new Promise((resolve) => setTimeout(resolve, 1));
          if (attempt === 1) throw new Error(`again, ${randomUUID()}`);
          return typeof new Date() === "object" && from > 0;
        },
        { retry: { initialDelayMs: 1 } },
      );
      return [times.map((each) => typeof each), step];
    };
    expect(await resultOf(all, true)).toEqual([["number", "number", "number"], true]);
  });

  test("G1: also after an await, in what the code calls, in conditions, and when the code catches it", async () => {
    const later = async (ctx: WorkflowContext): Promise<unknown> => {
      await ctx.step("s", () => 1);
      return Date.now();
    };
    const swallowed = async (ctx: WorkflowContext): Promise<unknown> => {
      try {
        Math.random();
      } catch (error) {
        if (!isMillraceError(error, "non_deterministic_call")) throw error;
      }
      return ctx.step("s", () => 1);
    };
    const condition = (ctx: WorkflowContext): Promise<unknown> => ctx.waitUntil(() => Date.now() > 0);
    for (const code of [later, swallowed, condition]) expect(await resultOf(code, true)).toBe("stuck");
    expect(await resultOf(later, false)).toBeTypeOf("number");
  });
});

function fail(error: Error): void {
  throw error;
}
