import { describe, expect, test } from "vitest";
import { Interceptors, type Interceptor, type StepCall } from "./interceptors.ts";

const call: StepCall = {
  ...{ workflowId: "a", type: "t", run: 1, step: "s", occurrence: 1, attempt: 1, kind: "step" },
  ...{ idempotencyKey: "a/1/s#1", signal: new AbortController().signal, traceparent: null },
};

describe("interceptors", () => {
  test("the first is the outermost, and what it returns is the outcome", async () => {
    const told: string[] = [];
    const named = (name: string): Interceptor => ({
      async step({ step }, next) {
        told.push(`${name} before ${step}`);
        const output = await next();
        told.push(`${name} after`);
        return `${name}(${String(output)})`;
      },
    });
    const all = new Interceptors([named("outer"), {}, named("inner")]);
    expect(await all.step(call, async () => (told.push("act"), "done"))).toBe("outer(inner(done))");
    expect(told).toEqual(["outer before s", "inner before s", "act", "inner after", "outer after"]);
  });

  test("an error passes through all of them, each may turn it into something else, thrown at once or later", async () => {
    const failing = async (): Promise<never> => {
      throw new Error("original");
    };
    const turning: Interceptor = {
      step: async (_call, next) =>
        next().catch((cause: unknown) => Promise.reject(new Error("turned", { cause }))),
    };
    await expect(new Interceptors([{}, turning]).step(call, failing)).rejects.toThrowError("turned");
    const saving: Interceptor = { step: async (_call, next) => next().catch(() => "saved") };
    expect(await new Interceptors([saving, turning]).step(call, failing)).toBe("saved");
    const throwing: Interceptor = {
      step() {
        throw new Error("at once");
      },
    };
    await expect(new Interceptors([throwing]).step(call, async () => 1)).rejects.toThrowError("at once");
  });

  test("a changed call reaches the inner ones, and methods keep their object", async () => {
    class Tracing implements Interceptor {
      readonly #traceparent = "00-trace";
      step(given: StepCall, next: (changed?: StepCall) => Promise<unknown>): Promise<unknown> {
        return next({ ...given, traceparent: this.#traceparent });
      }
    }
    expect(await new Interceptors([new Tracing()]).step(call, async ({ traceparent }) => traceparent)).toBe(
      "00-trace",
    );
  });

  test("knows whether there is anything around steps", () => {
    expect(new Interceptors([{ start: (_call, next) => next() }]).aroundSteps).toBe(false);
    expect(new Interceptors([{ step: (_call, next) => next() }]).aroundSteps).toBe(true);
  });
});
