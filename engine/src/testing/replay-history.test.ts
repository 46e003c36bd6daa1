/**
 * Histories that were recorded once are replayed for ever. They are never written again: `RECORD_GOLDEN=1` records those
 * of workflows that have none.
 */
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createMemoryLog } from "@millrace/event-log";
import { beforeAll, describe, expect, test } from "vitest";
import { connect } from "../connect.ts";
import type { WorkflowContext } from "../context.ts";
import { defineWorkflow, type WorkflowDefinition } from "../definition.ts";
import { planMigration } from "../plan-migration.ts";
import { parseHistory, type RecordedHistory } from "../recorded-history.ts";
import { goldenWorkflows, runGoldenWorkflows } from "./golden-workflows.ts";
import { replayHistories, replayHistory } from "./replay-history.ts";
import { createTestEnvironment } from "./test-environment.ts";

const folder = join(import.meta.dirname, "golden");

function golden(): RecordedHistory[] {
  return readdirSync(folder).map((file) => {
    const [workflowId = ""] = file.split(".");
    return parseHistory(readFileSync(join(folder, file), "utf8"), { workflowId, type: "" });
  });
}

describe("golden histories", () => {
  beforeAll(async () => {
    if (process.env["RECORD_GOLDEN"] !== "1") return;
    const env = await createTestEnvironment({ workflows: goldenWorkflows });
    for (const id of await runGoldenWorkflows(env)) {
      const path = join(folder, `${id}.json`);
      if (!existsSync(path))
        writeFileSync(path, `${JSON.stringify(await env.history(id), withoutStacks, 2)}\n`);
    }
    await env.close();
  });

  test("every one of them is followed by the engine of today", async () => {
    const reports = await replayHistories(goldenWorkflows, golden());
    expect(reports.map(({ workflowId }) => workflowId).toSorted()).toEqual([
      "children",
      "children-golden-child-1",
      "continued",
      "named",
      "patched",
      "saga",
      "signals",
      "steps",
      "time",
      "updates",
    ]);
  });

  test("the engine of today records the same decisions in the same order", async () => {
    const env = await createTestEnvironment({ workflows: goldenWorkflows });
    await runGoldenWorkflows(env);
    for (const { workflowId, events } of golden()) {
      const now = await env.history(workflowId);
      expect(now.events.map(({ type }) => type)).toEqual(events.map(({ type }) => type));
    }
    await env.close();
  });
});

/** Stacks name folders of the machine that recorded them, and no replay looks at them. */
function withoutStacks(key: string, value: unknown): unknown {
  return key === "stack" ? undefined : value;
}

type Code = (ctx: WorkflowContext) => Promise<unknown>;
const define = (code: Code, version = "2"): WorkflowDefinition<null> =>
  defineWorkflow({ type: "w", version }, (ctx, _input: null) => code(ctx));

/** What was recorded: a, an hour, b, a signal, the end. */
const recordedCode: Code = async (ctx) => {
  await ctx.step("a", () => 1);
  await ctx.sleep(3_600_000);
  await ctx.step("b", () => 2);
  await ctx.waitForSignal("go");
  return "end";
};

async function recorded(code: Code, end: boolean): Promise<RecordedHistory> {
  const env = await createTestEnvironment({ workflows: [define(code, "1")] });
  const run = await env.start(define(code, "1"), null, { id: "w" });
  await env.advance(3_600_000);
  if (end) {
    await run.signal("go");
    await run.result();
  }
  const history = await env.history("w");
  await env.close();
  return history;
}

const changes: [what: string, code: Code, divergence: object][] = [
  [
    "a step removed",
    async (ctx) => {
      await ctx.sleep(3_600_000);
    },
    { recorded: "StepCompleted", subject: "a", decided: null },
  ],
  [
    "a step renamed",
    async (ctx) => {
      await ctx.step("a", () => 1);
      await ctx.sleep(3_600_000);
      await ctx.step("c", () => 2);
    },
    { recorded: "StepCompleted", subject: "b", decided: null },
  ],
  [
    "a timer instead of another",
    async (ctx) => {
      await ctx.step("a", () => 1);
      await ctx.sleep(3_600_000, { name: "nap" });
    },
    { recorded: "TimerStarted", subject: "sleep", decided: "TimerStarted nap" },
  ],
  [
    "an earlier end",
    async (ctx) => {
      await ctx.step("a", () => 1);
      await ctx.sleep(3_600_000);
      return "end";
    },
    { recorded: "StepCompleted", subject: "b" },
  ],
  [
    "a wait that the end does not have",
    async (ctx) => {
      await recordedCode(ctx);
      await ctx.waitForSignal("more");
    },
    { recorded: "WorkflowCompleted", decided: "WaitStarted more" },
  ],
  [
    "a decision more in the middle",
    async (ctx) => {
      ctx.progress({ message: "new" });
      await recordedCode(ctx);
    },
    { recorded: "TimerStarted", decided: "ProgressReported" },
  ],
  [
    "the clock of the machine",
    async (ctx) => {
      await ctx.step("a", () => Date.now());
      await ctx.sleep(Date.now());
    },
    { code: "non_deterministic_call" },
  ],
];

describe("replayHistory", () => {
  test("code that does the same follows, whatever its steps do; nothing of it runs", async () => {
    const history = await recorded(recordedCode, true);
    const same = define(async (ctx) => {
      await ctx.step("a", () => Promise.reject(new Error("is not run")));
      await ctx.sleep(7);
      const [b] = await Promise.all([ctx.step("b", () => 2), Promise.resolve()]);
      await ctx.waitForSignal("go");
      return b;
    });
    expect(await replayHistory(same, history)).toEqual({
      workflowId: "w",
      type: "w",
      version: "2",
      ok: true,
      divergence: null,
    });
  });

  test.each(changes)("%s: the exact place is told", async (_what, code, divergence) => {
    const history = await recorded(recordedCode, true);
    const report = await replayHistory(define(code), history);
    expect(report).toMatchObject({ ok: false, divergence: { run: 1, ...divergence } });
    await expect(replayHistories([define(code)], [history])).rejects.toMatchObject({
      code: "non_determinism",
      message: expect.stringContaining(report.divergence?.message ?? "?") as string,
    });
  });

  test("a history as the command line and the HTTP API give it", async () => {
    const history = await recorded(recordedCode, true);
    const lines = history.events.map((event) => JSON.stringify(event)).join("\n");
    const page = JSON.stringify({ items: history.events, next: null });
    for (const text of [lines, page, JSON.stringify(history)]) {
      const parsed = parseHistory(text, { workflowId: "w", type: "w" });
      expect(parsed).toEqual(history);
      expect(await replayHistory(define(recordedCode), parsed)).toMatchObject({ ok: true });
    }
    for (const text of ["", "{}", "[]", "{]", '{"items":[]}'])
      expect(() => parseHistory(text, { workflowId: "w", type: "w" })).toThrow(/Record it again/);
    const other = defineWorkflow({ type: "other" }, (ctx, _input: null) => ctx.sleep(1));
    await expect(replayHistory(other, history)).rejects.toMatchObject({ code: "invalid_request" });
    await expect(replayHistories([other], [history])).rejects.toMatchObject({
      code: "workflow_type_unknown",
    });
  });
});

describe("planMigration", () => {
  test("says for each run whether it fits, and where it does not; writes nothing", async () => {
    const log = createMemoryLog();
    const millrace = await connect({ log });
    const code = define(recordedCode, "1");
    const short = define(async (ctx) => {
      await ctx.step("a", () => 1);
      await ctx.waitForSignal("go");
    }, "1");
    const worker = await millrace.worker({
      workflows: [
        define(async (ctx) => {
          if (ctx.workflowId === "early") await recordedCode(ctx);
          else await short.run(ctx, null);
        }, "1"),
      ],
    });
    for (const id of ["early", "late", "closed"]) await millrace.start(code, null, { id });
    await millrace.startByType("w", null, { id: "driven", driver: "external" });
    await millrace.startByType("other", null, { id: "other", driver: "external" });
    await millrace.handle("closed").signal("go");
    await millrace.handle("closed").result();
    for (const [id, type] of [
      ["early", "TimerStarted"],
      ["late", "WaitStarted"],
    ] as const)
      await expect
        .poll(async () => (await log.load(id)).flatMap(({ events }) => events.map((each) => each.type)))
        .toContain(type);
    await worker.drain();
    const before = (await log.info()).lastSequence;
    const ids = ["early", "late", "closed", "driven", "other", "absent"];
    const plans = await planMigration(log, define(recordedCode), ids);
    expect(plans.map(({ outcome }) => outcome)).toEqual([
      "fits",
      "diverges",
      "closed",
      "external",
      "other_type",
      "not_found",
    ]);
    expect(plans[1]).toMatchObject({
      workflowId: "late",
      from: "1",
      to: "2",
      divergence: { recorded: "WaitStarted", subject: "go", decided: "TimerStarted sleep" },
    });
    expect((await planMigration(log, code, ["early"]))[0]?.outcome).toBe("same");
    expect((await log.info()).lastSequence).toBe(before);
    await millrace.close();
  });
});
