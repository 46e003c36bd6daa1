import type { EventLog } from "@millrace/event-log";
import type { WorkflowEvent } from "@millrace/schemas";
import { ulid } from "ulid";

/** Appends `runs` three-step runs as the engine writes them: 4 commits, 5 events each. Gives the number of events. */
export async function fillWithRuns(log: EventLog, runs: number, concurrency = 200): Promise<number> {
  let next = 0;
  await Promise.all(
    Array.from({ length: concurrency }, async () => {
      while (next < runs) await appendRun(log, `fill-${next++}`);
    }),
  );
  return runs * 5;
}

async function appendRun(log: EventLog, workflowId: string): Promise<void> {
  const append = (
    expected: number | "new",
    events: readonly WorkflowEvent[],
    condition: "running" | "closed",
  ) => log.append({ commitId: ulid(), workflowId, type: "fill", expected, events, condition });
  const step = (name: string): WorkflowEvent => ({
    type: "StepCompleted",
    data: { name, occurrence: 1, attempt: 1, output: { ok: true, text: "y".repeat(80) } },
  });
  const input = { customer: "4711", amount: 12.5, note: "x".repeat(80) };
  let { sequence } = await append(
    "new",
    [{ type: "WorkflowStarted", data: { version: "1", input, driver: "code" } }],
    "running",
  );
  ({ sequence } = await append(sequence, [step("reserve")], "running"));
  ({ sequence } = await append(sequence, [step("charge")], "running"));
  await append(
    sequence,
    [step("ship"), { type: "WorkflowCompleted", data: { output: { done: true } } }],
    "closed",
  );
}

/** Appends `count` one-event commits to one run, one after the other or so many at a time over several runs. */
export async function fillWithProgress(
  log: EventLog,
  prefix: string,
  runs: number,
  count: number,
): Promise<void> {
  await Promise.all(
    Array.from({ length: runs }, async (_, run) => {
      const workflowId = `${prefix}-${run}`;
      const started: WorkflowEvent = {
        type: "WorkflowStarted",
        data: { version: "1", input: null, driver: "external" },
      };
      let { sequence } = await log.append({
        commitId: ulid(),
        workflowId,
        type: "fill",
        expected: "new",
        events: [started],
        condition: "waiting",
      });
      for (let n = 1; n < count / runs; n++) {
        const progress: WorkflowEvent = {
          type: "ProgressReported",
          data: { current: n, total: count / runs, message: `part ${n}` },
        };
        ({ sequence } = await log.append({
          commitId: ulid(),
          workflowId,
          type: "fill",
          expected: sequence,
          events: [progress],
          condition: "waiting",
        }));
      }
    }),
  );
}
