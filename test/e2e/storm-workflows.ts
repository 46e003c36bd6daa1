/** What the engines of the storm run: everything that a run can wait for, with an output that follows from the input. */
import { appendFileSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import { defineWorkflow, type StepContext, type TaskContext } from "@millrace/engine";

export interface StormInput {
  readonly n: number;
  readonly sleepMs: number;
  readonly stepMs: number;
}

export interface StormOutput {
  readonly steps: number;
  readonly counted: number;
  readonly child: number;
  readonly raced: string;
  readonly task: number;
}

export const stormQueue = "storm";
/** A task whose worker died is given to another one this long after its last heartbeat. */
const heartbeatMs = 3_000;

/** Signals named `count` that each run takes. */
export const signalsEach = 3;

/** Every call of a step function leaves a line here, so that what ran twice can be counted. */
const journalFile = process.env["MILLRACE_TEST_JOURNAL"];

/** What the workers of the queue do. */
export const stormTasks = {
  cube: async ({ input, idempotencyKey, signal }: TaskContext): Promise<number> => {
    const { n, stepMs } = input as StormInput;
    return await work(stepMs, n * n * n)({ idempotencyKey, signal });
  },
};

function work<T>(
  stepMs: number,
  value: T,
): (step: Pick<StepContext, "idempotencyKey" | "signal">) => Promise<T> {
  return async ({ idempotencyKey, signal }) => {
    if (journalFile !== undefined) appendFileSync(journalFile, `${idempotencyKey}\n`);
    await delay(stepMs, undefined, { signal });
    return value;
  };
}

export const stormChild = defineWorkflow({ type: "storm-child" }, async (ctx, input: StormInput) => {
  await ctx.sleep(input.sleepMs);
  return await ctx.step("square", work(input.stepMs, input.n * input.n));
});

export const storm = defineWorkflow(
  { type: "storm" },
  async (ctx, input: StormInput): Promise<StormOutput> => {
    const first = await ctx.step("first", work(input.stepMs, input.n));
    const [child, task, counted, second] = await Promise.all([
      ctx.child(stormChild, input, { id: `${ctx.workflowId}-child` }),
      ctx.task<number>("cube", input, { queue: stormQueue, heartbeatMs, retry: { maxAttempts: 20 } }),
      (async () => {
        let sum = 0;
        for (let taken = 0; taken < signalsEach; taken++)
          sum += (await ctx.waitForSignal<number>("count")) ?? 0;
        return sum;
      })(),
      (async () => {
        await ctx.sleep(input.sleepMs);
        return await ctx.step("second", work(input.stepMs, input.n + 1));
      })(),
    ]);
    const raced = await ctx.race([
      ctx.step("fast", work(0, "step")),
      ctx.sleep(3_600_000).then(() => "timer"),
      ctx.waitForSignal("never").then(() => "signal"),
    ]);
    return { steps: first + second, counted, child, raced, task };
  },
);
