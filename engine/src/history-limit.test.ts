/** The limits of a history: told in time, and at the end of it visible and not lost. With a limit that a test can reach. */
import { createMemoryLog } from "@millrace/event-log";
import type * as Schemas from "@millrace/schemas";
import { afterEach, expect, test, vi } from "vitest";
import { connect } from "./connect.ts";
import { defineWorkflow } from "./definition.ts";
import type { Millrace } from "./millrace.ts";

const commits = 20;
vi.mock("@millrace/schemas", async (original) => {
  const schemas = await original<typeof Schemas>();
  return { ...schemas, limits: { ...schemas.limits, runCommits: 20, commitEvents: 50 } };
});

const open: Millrace[] = [];
afterEach(async () => {
  await Promise.all(open.splice(0).map((connection) => connection.close()));
});

async function connected(): Promise<Millrace> {
  const millrace = await connect({ log: createMemoryLog() });
  open.push(millrace);
  return millrace;
}

async function eventsOf(millrace: Millrace, id: string) {
  return (await millrace.log.load(id)).flatMap(({ events }) => events);
}

test("a run is warned once at 80 % of its commits, and is stuck at the limit, with its last outcome recorded", async () => {
  const millrace = await connected();
  const endless = defineWorkflow({ type: "endless" }, async (ctx, _input: null) => {
    for (;;) await ctx.step("s", () => 1);
  });
  await millrace.worker({ workflows: [endless] });
  await millrace.start(endless, null, { id: "e" });
  const last = async () => (await eventsOf(millrace, "e")).at(-1);
  await expect.poll(last).toMatchObject({
    type: "WorkflowTurnFailed",
    data: { error: { code: "limit_exceeded" } },
  });
  const events = await eventsOf(millrace, "e");
  expect(events.filter(({ type }) => type === "HistoryLimitApproached")).toEqual([
    { type: "HistoryLimitApproached", data: { commits: 0.8 * commits, limit: commits } },
  ]);
  expect(events.at(-2)?.type).toBe("StepCompleted");
  await millrace.handle("e").terminate();
  expect((await last())?.type).toBe("WorkflowTerminated");
});

test("a run whose history is full may still continue as new", async () => {
  const millrace = await connected();
  const saved = defineWorkflow({ type: "saved" }, async (ctx, round: number) => {
    if (round === 2) return "saved";
    // The start and these steps fill the history: the end of the last one has no room but with the end of the number.
    for (let n = 1; n <= commits; n++) await ctx.step("s", () => 1);
    return ctx.continueAsNew(2);
  });
  await millrace.worker({ workflows: [saved] });
  expect(await (await millrace.start(saved, 1, { id: "s" })).result()).toBe("saved");
});

test("what goes along to the next run number is one commit: too much of it leaves the run stuck, and loses nothing", async () => {
  const millrace = await connected();
  const loop = defineWorkflow({ type: "loop", version: "1" }, async (ctx, got: number) => {
    await ctx.waitForSignal("go");
    return ctx.continueAsNew(got);
  });
  const handle = await millrace.start(loop, 0, { id: "l", signal: { name: "go" } });
  await Promise.all(Array.from({ length: 60 }, (_, n) => handle.signal("n", n)));
  await millrace.worker({ workflows: [loop] });
  await expect
    .poll(async () => (await eventsOf(millrace, "l")).at(-1))
    .toMatchObject({ type: "WorkflowTurnFailed", data: { error: { code: "limit_exceeded" } } });
  const types = (await eventsOf(millrace, "l")).map(({ type }) => type);
  expect(types.filter((type) => type === "SignalReceived")).toHaveLength(61);
  expect(types).not.toContain("WorkflowContinuedAsNew");
});
