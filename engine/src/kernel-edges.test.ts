/** What the simulation and a close look found at the edges of the kernel, each as the smallest case that shows it. */
import { createMemoryLog, type EventLog } from "@millrace/event-log";
import { isClosingEvent, type RunCondition, type WorkflowEvent } from "@millrace/schemas";
import { afterEach, expect, test } from "vitest";
import { connect } from "./connect.ts";
import { defineWorkflow } from "./definition.ts";
import type { Millrace } from "./millrace.ts";
import { newUlid } from "./new-ulid.ts";

const open: Millrace[] = [];
afterEach(async () => {
  await Promise.all(open.splice(0).map((connection) => connection.close()));
});

async function connected(log: EventLog = createMemoryLog()): Promise<Millrace> {
  const millrace = await connect({ log });
  open.push(millrace);
  return millrace;
}

test("a start that is repeated is the same one, also when the run has continued as new since", async () => {
  const millrace = await connected();
  const loop = defineWorkflow({ type: "loop" }, async (ctx, round: number) => {
    await ctx.step("work", () => round);
    return round < 3 ? ctx.continueAsNew(round + 1) : round;
  });
  await millrace.worker({ workflows: [loop] });
  expect(await (await millrace.start(loop, 1, { id: "l" })).result()).toBe(3);
  expect(await (await millrace.start(loop, 1, { id: "l" })).result()).toBe(3);
  await expect(millrace.start(loop, 3, { id: "l" })).rejects.toMatchObject({ code: "workflow_exists" });
});

/** What another engine process, which believes that the run is its own, records. */
async function recordElsewhere(log: EventLog, id: string, events: readonly WorkflowEvent[]): Promise<void> {
  const last = await log.last(id);
  if (last === null) throw new Error(`There is no run ${id}.`);
  const { type, sequence } = last;
  const condition: RunCondition = events.some(isClosingEvent) ? "closed" : "running";
  const commit = { commitId: newUlid(), workflowId: id, type, events, condition };
  await log.append({ ...commit, expected: sequence, writer: "another" });
}

const typesOf = async (log: EventLog, id: string): Promise<string[]> =>
  (await log.load(id)).flatMap(({ events }) => events.map(({ type }) => type));

test("a task that is done after the code has turned away from it, and before the log has that, is no divergence", async () => {
  const millrace = await connected();
  const workflow = defineWorkflow({ type: "w" }, async (ctx, _input: null) => {
    const winner = await ctx.race([ctx.task("slow", null, { queue: "q" }), ctx.waitForSignal("go")]);
    await ctx.step("after", () => 1);
    return winner;
  });
  const worker = await millrace.worker({ workflows: [workflow] });
  const handle = await millrace.start(workflow, null, { id: "w" });
  await expect.poll(() => typesOf(millrace.log, "w")).toContain("StepScheduled");
  await worker.drain();
  await handle.signal("go", "signalled");
  const step = { name: "slow", occurrence: 1, attempt: 1 };
  await recordElsewhere(millrace.log, "w", [{ type: "StepStarted", data: { ...step, token: "t" } }]);
  await recordElsewhere(millrace.log, "w", [{ type: "StepCompleted", data: { ...step, output: "done" } }]);
  await millrace.worker({ workflows: [workflow] });
  expect(await handle.result()).toBe("signalled");
  expect(await typesOf(millrace.log, "w")).not.toContain("WorkflowTurnFailed");
});

test("R3: a run that another process continues as new goes on here with its new number, and with none of its old outcomes", async () => {
  const millrace = await connected();
  let release = (_value: string): void => undefined;
  const held = new Promise<string>((resolve) => (release = resolve));
  const workflow = defineWorkflow({ type: "w" }, async (ctx, round: number) => {
    if (round === 1) {
      const lost = ctx.step("same", () => held);
      lost.catch(() => undefined);
      await ctx.waitForSignal("next");
      return ctx.continueAsNew(2);
    }
    await ctx.waitForSignal("end");
    return ctx.step("same", () => "of round 2");
  });
  await millrace.worker({ workflows: [workflow] });
  const handle = await millrace.start(workflow, 1, { id: "w" });
  await expect.poll(() => typesOf(millrace.log, "w")).toContain("WaitStarted");
  // All of it is there before the worker's tail tells of the first.
  await handle.signal("next");
  await recordElsewhere(millrace.log, "w", [
    { type: "WaitSatisfied", data: { wait: "next" } },
    { type: "WorkflowContinuedAsNew", data: { run: 2 } },
    { type: "WorkflowStarted", data: { version: "1", input: 2, driver: "code" } },
  ]);
  await recordElsewhere(millrace.log, "w", [{ type: "WaitStarted", data: { wait: "end", signal: "end" } }]);
  release("of round 1");
  await handle.signal("end");
  expect(await handle.result()).toBe("of round 2");
  expect(await typesOf(millrace.log, "w")).not.toContain("WorkflowTurnFailed");
});

test("R6: decisions that a pause holds back are matched when another process has recorded them", async () => {
  const held: (() => void)[] = [];
  let holds = false;
  const log = createMemoryLog();
  const follow: EventLog["follow"] = (options) =>
    log.follow({
      ...options,
      onCommit: (commit, pending) => {
        const deliver = (): void => options.onCommit(commit, pending);
        if (holds) held.push(deliver);
        else deliver();
      },
    });
  const millrace = await connected(Object.assign(Object.create(log) as EventLog, { follow }));
  const workflow = defineWorkflow({ type: "w" }, async (ctx, _input: null) => {
    await ctx.waitForSignal("go");
    ctx.progress({ message: "on" });
    return ctx.waitForSignal("end");
  });
  await millrace.worker({ workflows: [workflow] });
  const handle = await millrace.start(workflow, null, { id: "w" });
  await expect.poll(() => typesOf(millrace.log, "w")).toContain("WaitStarted");
  await handle.pause();
  await handle.signal("go");
  // The code here has gone on, and nothing of it is in the log.
  await turns(20);
  // While the first is brought to the code, the next two come in: together.
  holds = true;
  await handle.signal("other");
  await handle.resume();
  await recordElsewhere(millrace.log, "w", [
    { type: "WaitSatisfied", data: { wait: "go" } },
    { type: "ProgressReported", data: { message: "on" } },
    { type: "WaitStarted", data: { wait: "end", signal: "end" } },
  ]);
  holds = false;
  for (const deliver of held) deliver();
  await turns(20);
  await handle.signal("end", "ended");
  expect(await handle.result()).toBe("ended");
  expect(await typesOf(millrace.log, "w")).not.toContain("WorkflowTurnFailed");
});

test("R6: an attempt that fails while the run is paused is followed by the next one when it is resumed", async () => {
  const millrace = await connected();
  let fail = (): void => undefined;
  const failed = new Promise<void>((_resolve, reject) => (fail = () => reject(new Error("not yet"))));
  const workflow = defineWorkflow({ type: "w" }, (ctx, _input: null) =>
    ctx.step<unknown>("s", ({ attempt }) => (attempt === 1 ? failed : attempt), {
      retry: { initialDelayMs: 1 },
    }),
  );
  await millrace.worker({ workflows: [workflow] });
  const handle = await millrace.start(workflow, null, { id: "w" });
  await turns(20);
  await handle.pause();
  await turns(20);
  fail();
  await expect.poll(() => typesOf(millrace.log, "w")).toContain("StepRetryScheduled");
  await handle.resume();
  expect(await handle.result()).toBe(2);
});

test("R5: what another process has closed stays closed, also when the code here would have gone another way", async () => {
  const millrace = await connected();
  const workflow = defineWorkflow({ type: "w" }, (ctx, _input: null) => ctx.waitForSignal("go"));
  await millrace.worker({ workflows: [workflow] });
  const handle = await millrace.start(workflow, null, { id: "w" });
  await expect.poll(() => typesOf(millrace.log, "w")).toContain("WaitStarted");
  await recordElsewhere(millrace.log, "w", [{ type: "WorkflowCompleted", data: { output: "elsewhere" } }]);
  expect(await handle.result()).toBe("elsewhere");
  await turns(20);
  expect(await typesOf(millrace.log, "w")).toEqual(["WorkflowStarted", "WaitStarted", "WorkflowCompleted"]);
});

async function turns(count: number): Promise<void> {
  for (let left = count; left > 0; left--) await new Promise((resolve) => setImmediate(resolve));
}
