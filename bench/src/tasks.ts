/**
 * Tasks through one worker: the owner of the runs, the task worker and the client in this process, the broker beside it.
 * Each task is put into its queue, taken, begun, completed and awaited by its run. Counts what was completed.
 */
import { connect, defineWorkflow, type Millrace } from "@millrace/engine";
import { elapsedMs, percentile, round } from "./figures.ts";

const tasksPerRun = 10;
const queue = "bench";

const oneTask = defineWorkflow({ type: "one-task" }, (ctx, input: { n: number }) =>
  ctx.task("add", input.n, { queue }),
);
const tenTasks = defineWorkflow({ type: "ten-tasks" }, async (ctx, input: { n: number }) => {
  const all = Array.from({ length: tasksPerRun }, () => ctx.task<number>("add", input.n, { queue }));
  return (await Promise.all(all))[0];
});

export interface TaskFigures {
  /** Tasks of runs with ten at once, and of runs with one. */
  readonly tenPerS: number;
  readonly onePerS: number;
  /** From the start of a run with one task to its result, one at a time. */
  readonly p50Ms: number;
  readonly p99Ms: number;
}

export async function benchTasks(natsUrl: string, namespace: string): Promise<TaskFigures> {
  const millrace = await connect({ servers: natsUrl, namespace });
  try {
    await millrace.worker({
      workflows: [oneTask, tenTasks],
      tasks: { add: ({ input }) => (input as number) + 1 },
      queues: [queue],
      taskConcurrency: 200,
    });
    await measure(millrace, oneTask, "warm", 2_000, 200);
    const one = await measure(millrace, oneTask, "one", 10_000, 400);
    const ten = await measure(millrace, tenTasks, "ten", 1_500, 60);
    const single = await measure(millrace, oneTask, "single", 500, 1);
    return {
      onePerS: round(one.runsPerS),
      tenPerS: round(ten.runsPerS * tasksPerRun),
      p50Ms: round(percentile(single.latenciesMs, 0.5), 2),
      p99Ms: round(percentile(single.latenciesMs, 0.99), 2),
    };
  } finally {
    await millrace.close();
  }
}

async function measure(
  millrace: Millrace,
  workflow: typeof oneTask | typeof tenTasks,
  label: string,
  count: number,
  concurrency: number,
): Promise<{ readonly runsPerS: number; readonly latenciesMs: readonly number[] }> {
  const latenciesMs: number[] = [];
  let next = 0;
  const begun = process.hrtime.bigint();
  await Promise.all(
    Array.from({ length: concurrency }, async () => {
      while (next < count) {
        const n = next++;
        const started = process.hrtime.bigint();
        const result = await (await millrace.start(workflow, { n }, { id: `${label}-${n}` })).result();
        if (result !== n + 1) throw new Error(`${label}-${n} gave ${String(result)}, not ${n + 1}.`);
        latenciesMs.push(elapsedMs(started));
      }
    }),
  );
  return { runsPerS: count / (elapsedMs(begun) / 1_000), latenciesMs };
}
