/** What the guides say of the edges: what ends with what, and what is remembered how long. */
import { createMemoryLog } from "@millrace/event-log";
import { afterEach, expect, test } from "vitest";
import { connect } from "./connect.ts";
import { defineWorkflow } from "./definition.ts";
import type { CancelledError } from "./failures.ts";
import type { Millrace } from "./millrace.ts";

const open: Millrace[] = [];
afterEach(async () => {
  await Promise.all(open.splice(0).map((connection) => connection.close()));
});

async function connected(): Promise<Millrace> {
  const millrace = await connect({ log: createMemoryLog() });
  open.push(millrace);
  return millrace;
}

const codeOf = (error: unknown): string => (error as CancelledError).code;

async function typesOf(millrace: Millrace, id: string): Promise<string[]> {
  return (await millrace.log.load(id)).flatMap(({ events }) => events.map(({ type }) => type));
}

test("a signal's id is remembered within a run number: after continue-as-new it counts again", async () => {
  const millrace = await connected();
  const loop = defineWorkflow({ type: "loop" }, async (ctx, got: unknown[]) => {
    const next = [...got, await ctx.waitForSignal("n")];
    return next.length === 2 ? next : ctx.continueAsNew(next);
  });
  await millrace.worker({ workflows: [loop] });
  const handle = await millrace.start(loop, [], { id: "l" });
  await handle.signal("n", 1, { id: "same" });
  await expect.poll(() => typesOf(millrace, "l")).toContain("WorkflowContinuedAsNew");
  await handle.signal("n", 2, { id: "same" });
  expect(await handle.result()).toEqual([1, 2]);
});

test("a continued run that asks for the same child again finds it, and gets its output", async () => {
  const millrace = await connected();
  const child = defineWorkflow({ type: "child" }, (ctx, _input: null) => ctx.waitForSignal("go"));
  const parent = defineWorkflow({ type: "parent" }, async (ctx, round: number) => {
    const output = ctx.child(child, null, { id: "kid" });
    if (round === 2) return output;
    await ctx.sleep(1);
    return ctx.continueAsNew(2);
  });
  await millrace.worker({ workflows: [parent, child] });
  const handle = await millrace.start(parent, 1, { id: "p" });
  await expect.poll(() => typesOf(millrace, "p")).toContain("WorkflowContinuedAsNew");
  await millrace.handle("kid").signal("go", "found");
  expect(await handle.result()).toBe("found");
  expect((await typesOf(millrace, "kid")).filter((type) => type === "WorkflowStarted")).toHaveLength(1);
});

test("compensations run on cancel and failure, not on terminate and the run's time limit; children end by policy", async () => {
  const millrace = await connected();
  const undone: string[] = [];
  const child = defineWorkflow({ type: "child" }, (ctx, _input: null) => ctx.waitForSignal("never"));
  const parent = defineWorkflow({ type: "parent" }, async (ctx, fails: boolean) => {
    ctx.compensate("undo", () => void undone.push(ctx.workflowId));
    const waited = ctx.child(child, null, { id: `${ctx.workflowId}-kid` });
    if (fails) throw new Error("no");
    await waited;
  });
  await millrace.worker({ workflows: [parent, child] });
  const failed = await millrace.start(parent, true, { id: "failed" });
  const cancelled = await millrace.start(parent, false, { id: "cancelled" });
  const terminated = await millrace.start(parent, false, { id: "terminated" });
  const late = await millrace.start(parent, false, { id: "late", timeoutMs: 500 });
  for (const id of ["cancelled", "terminated", "late"])
    await expect.poll(() => typesOf(millrace, `${id}-kid`)).toContain("WaitStarted");
  await cancelled.cancel();
  await terminated.terminate();
  const handles = [failed, cancelled, terminated, late];
  expect(await Promise.all(handles.map((each) => each.result().catch(codeOf)))).toEqual([
    "workflow_failed",
    "cancelled",
    "terminated",
    "workflow_timed_out",
  ]);
  expect(undone.sort()).toEqual(["cancelled", "failed"]);
  for (const { id } of handles)
    await expect(millrace.handle(`${id}-kid`).result()).rejects.toMatchObject({ code: "cancelled" });
});

test("a wait that lost a plain Promise.race goes on and takes the next signal; one that lost ctx.race does not", async () => {
  const millrace = await connected();
  const workflow = defineWorkflow({ type: "w" }, async (ctx, plain: boolean) => {
    const contestants = [ctx.waitForSignal("a"), ctx.sleep(1)] as const;
    await (plain ? Promise.race(contestants) : ctx.race(contestants));
    return ctx.waitForSignal("a");
  });
  await millrace.worker({ workflows: [workflow] });
  for (const [plain, got] of [
    [true, "second"],
    [false, "first"],
  ] as const) {
    const handle = await millrace.start(workflow, plain, { id: `plain-${plain}` });
    await expect.poll(() => typesOf(millrace, handle.id)).toContain("TimerFired");
    await handle.signal("a", "first");
    // Refused when the run is over by then.
    await handle.signal("a", "second").catch(() => undefined);
    expect(await handle.result()).toBe(got);
  }
});

test("what only reads is synchronous: an async query, validation or condition is refused, and its rejection ends nothing", async () => {
  const millrace = await connected();
  const workflow = defineWorkflow({ type: "w" }, async (ctx, _input: null) => {
    const later = (): Promise<never> => Promise.reject(new Error("later"));
    ctx.onQuery("q", later);
    ctx.onUpdate("u", () => 1, { validate: later as unknown as () => void });
    await ctx.waitForSignal("go");
    await ctx.waitUntil(later as unknown as () => boolean);
  });
  await millrace.worker({ workflows: [workflow] });
  const handle = await millrace.start(workflow, null, { id: "w" });
  await expect(handle.query("q")).rejects.toMatchObject({ code: "query_failed" });
  await expect(handle.update("u")).rejects.toMatchObject({ code: "update_refused" });
  await handle.signal("go");
  await expect.poll(() => typesOf(millrace, "w")).toContain("WorkflowTurnFailed");
});
