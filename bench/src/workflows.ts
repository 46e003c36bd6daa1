/**
 * Three-step workflows: engine and client in this process, the broker beside it. Every step is recorded, every
 * result awaited. Counts what was completed, never what was started.
 */
import { connect, defineWorkflow, type Millrace } from "@millrace/engine";
import { elapsedMs, percentile, round } from "./figures.ts";

const threeSteps = defineWorkflow({ type: "three-steps" }, async (ctx, input: { n: number }) => {
  const a = await ctx.step("a", () => input.n + 1);
  const b = await ctx.step("b", () => a + 1);
  return ctx.step("c", () => b + 1);
});

export interface WorkflowFigures {
  readonly perS: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
}

export async function benchWorkflows(
  natsUrl: string,
  namespace: string,
): Promise<{ c1: WorkflowFigures; c100: WorkflowFigures; throughput: WorkflowFigures }> {
  const millrace = await connect({ servers: natsUrl, namespace });
  try {
    await millrace.worker({ workflows: [threeSteps] });
    await measure(millrace, "warm", 2_000, 100);
    const c1 = await measure(millrace, "c1", 1_000, 1);
    const c100 = await measure(millrace, "c100", 10_000, 100);
    const throughput = await measure(millrace, "max", 20_000, 400);
    return { c1, c100, throughput };
  } finally {
    await millrace.close();
  }
}

async function measure(
  millrace: Millrace,
  label: string,
  count: number,
  concurrency: number,
): Promise<WorkflowFigures> {
  const latenciesMs: number[] = [];
  let next = 0;
  const begun = process.hrtime.bigint();
  await Promise.all(
    Array.from({ length: concurrency }, async () => {
      while (next < count) {
        const n = next++;
        const started = process.hrtime.bigint();
        const handle = await millrace.start(threeSteps, { n }, { id: `${label}-${n}` });
        const result = await handle.result();
        if (result !== n + 3) throw new Error(`${label}-${n} gave ${String(result)}, not ${n + 3}.`);
        latenciesMs.push(elapsedMs(started));
      }
    }),
  );
  const perS = count / (elapsedMs(begun) / 1_000);
  return {
    perS: round(perS),
    p50Ms: round(percentile(latenciesMs, 0.5), 2),
    p99Ms: round(percentile(latenciesMs, 0.99), 2),
  };
}
