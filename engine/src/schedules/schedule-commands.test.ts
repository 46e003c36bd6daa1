import { evolveSchedule, limits, type ScheduleState } from "@millrace/schemas";
import { afterEach, describe, expect, test } from "vitest";
import { defineWorkflow } from "../definition.ts";
import { loadSchedule } from "./load-schedule.ts";
import { heldWorkflow, scheduleWorld, type ScheduleWorld } from "./testing/schedule-world.ts";

const start = "2026-01-01T00:00:00Z";
let world: ScheduleWorld;
afterEach(() => world.close());

const quick = defineWorkflow({ type: "report" }, async () => null);
const hourly = { cron: "0 * * * *", workflow: { type: "report" } };
const unhosted = { allowUnregistered: true };

describe("schedules", () => {
  test("create, update, pause, resume and delete may be repeated: one event each", async () => {
    world = scheduleWorld(start);
    const { schedules } = await world.connect();
    const created = await schedules.create("s", hourly, unhosted);
    expect(created.created).toBe(true);
    expect(await schedules.create("s", hourly, unhosted)).toEqual({ ...created, created: false });
    for (let n = 0; n < 2; n++) await schedules.pause("s", { reason: "audit", by: "ada" });
    for (let n = 0; n < 2; n++) await schedules.resume("s", { by: "ada" });
    for (let n = 0; n < 2; n++) await schedules.update("s", { ...hourly, note: "hourly" }, unhosted);
    await schedules.delete("s", { reason: "over" });
    expect(world.events("s").map(({ type }) => type)).toEqual([
      "ScheduleCreated",
      "SchedulePaused",
      "ScheduleResumed",
      "ScheduleUpdated",
      "ScheduleDeleted",
    ]);
    await expect(schedules.delete("s")).rejects.toMatchObject({ code: "schedule_not_found" });
    await expect(schedules.get("s")).rejects.toThrow(/it was deleted/);
    expect((await schedules.create("s", hourly, unhosted)).created).toBe(true);
    expect((await schedules.get("s")).counts).toEqual({ triggered: 0, skipped: 0, missed: 0 });
  });

  test("list gives those that are not deleted, by id, page by page", async () => {
    world = scheduleWorld(start);
    const { schedules } = await world.connect();
    for (const id of ["c", "a", "d", "b"]) await schedules.create(id, hourly, unhosted);
    await schedules.delete("d");
    const first = await schedules.list({ limit: 2 });
    expect([first.items.map(({ id }) => id), first.next]).toEqual([["a", "b"], "b"]);
    const second = await schedules.list({ limit: 2, after: "b" });
    expect([second.items.map(({ id }) => id), second.next]).toEqual([["c"], null]);
  });

  test("two processes that change one schedule at once: both changes are in the log", async () => {
    world = scheduleWorld(start);
    const [one, two] = [await world.connect(), await world.connect()];
    await one.schedules.create("s", hourly, unhosted);
    await Promise.all([
      one.schedules.pause("s"),
      two.schedules.update("s", { ...hourly, note: "two" }, unhosted),
      one.schedules.trigger("s"),
    ]);
    expect(await two.schedules.get("s")).toMatchObject({
      status: "paused",
      note: "two",
      counts: { triggered: 1 },
    });
  });

  test("more schedules than the limit are refused, with the limit and the next step", async () => {
    world = scheduleWorld(start);
    const millrace = await world.connect((log) => ({
      ...log,
      async heads(onHead, options) {
        const head = { workflowId: "x", condition: "waiting" } as Parameters<typeof onHead>[0];
        for (let n = 0; n < limits.schedules; n++) onHead(head);
        return log.heads(() => undefined, options);
      },
    }));
    await expect(millrace.schedules.create("s", hourly, unhosted)).rejects.toMatchObject({
      code: "limit_exceeded",
      details: { limit: 10_000, actual: 10_000 },
    });
  });
});

describe("an update", () => {
  test("of the timing begins now; of anything else it keeps what is due", async () => {
    world = scheduleWorld(start);
    const millrace = await world.connect();
    await millrace.schedules.create("s", { ...hourly, overlap: "allow" }, unhosted);
    await world.goTo("2026-01-01T01:30:00Z");
    // Nobody hosts the type: the tick of 01:00 is due.
    await millrace.schedules.update("s", { ...hourly, overlap: "allow", note: "x" }, unhosted);
    expect((await millrace.schedules.get("s")).nextTickAt).toBe("2026-01-01T01:00:00.000Z");
    await millrace.schedules.update("s", { ...hourly, overlap: "allow", cron: "*/20 * * * *" }, unhosted);
    expect((await millrace.schedules.get("s")).nextTickAt).toBe("2026-01-01T01:40:00.000Z");
    await millrace.worker({ workflows: [quick] });
    await world.goTo("2026-01-01T02:00:30Z");
    expect(world.runs()).toEqual(["s-20260101T014000Z", "s-20260101T020000Z"]);
  });

  test("of the workflow's type is followed by whoever hosts that one", async () => {
    world = scheduleWorld(start);
    const other = defineWorkflow({ type: "other" }, async () => null);
    const millrace = await world.connect();
    await millrace.worker({ workflows: [quick] });
    await (await world.connect()).worker({ workflows: [other] });
    await millrace.schedules.create("s", hourly);
    await world.goTo("2026-01-01T01:00:30Z");
    await millrace.schedules.update("s", { ...hourly, workflow: { type: "other" } });
    await world.goTo("2026-01-01T02:00:30Z");
    expect(world.events("s-20260101T020000Z")).toHaveLength(2);
    expect(world.runs()).toEqual(["s-20260101T010000Z", "s-20260101T020000Z"]);
  });
});

describe("a pause", () => {
  test("holds ticks back and does not catch up, also over a restart", async () => {
    world = scheduleWorld(start);
    const first = await world.connect();
    await first.worker({ workflows: [quick] });
    await first.schedules.create("s", hourly);
    await world.goTo("2026-01-01T01:30:00Z");
    await first.schedules.pause("s");
    await world.stop(first);
    const second = await world.connect();
    await second.worker({ workflows: [quick] });
    await world.goTo("2026-01-01T04:30:00Z");
    expect(world.runs()).toEqual(["s-20260101T010000Z"]);
    await second.schedules.resume("s");
    await world.goTo("2026-01-01T05:00:30Z");
    expect(world.runs()).toEqual(["s-20260101T010000Z", "s-20260101T050000Z"]);
  });
});

describe("a trigger", () => {
  test("starts a run at once, paused or not, once per key; its handle is good at once", async () => {
    world = scheduleWorld(start);
    const millrace = await world.connect();
    await millrace.worker({ workflows: [defineWorkflow({ type: "report" }, async (_ctx, input) => input)] });
    await millrace.schedules.create("s", { ...hourly, workflow: { type: "report", input: 7 } });
    await millrace.schedules.pause("s");
    const { workflowId, started } = await millrace.schedules.trigger("s", { key: "k", by: "ada" });
    expect(started).toBe(true);
    expect(await millrace.handle(workflowId).result()).toBe(7);
    await world.settle();
    expect(await millrace.schedules.trigger("s", { key: "k" })).toMatchObject({ workflowId, started: true });
    expect(world.runs()).toEqual([workflowId]);
  });

  test("while a run is open waits for its end; nothing that was asked for is dropped", async () => {
    world = scheduleWorld(start);
    const millrace = await world.connect();
    const report = heldWorkflow();
    await millrace.worker({ workflows: [report.definition] });
    await millrace.schedules.create("s", hourly);
    const first = await millrace.schedules.trigger("s");
    const second = await millrace.schedules.trigger("s");
    const third = await millrace.schedules.trigger("s", { key: "k" });
    expect(await millrace.schedules.trigger("s", { key: "k" })).toMatchObject(third);
    expect([first.started, second.started, third.started]).toEqual([true, false, false]);
    await world.settle();
    expect(world.runs()).toEqual([first.workflowId]);
    report.release(first.workflowId);
    await world.settle();
    expect(world.runs()).toEqual([first.workflowId, second.workflowId]);
    report.release();
    await world.settle();
    expect(world.runs()).toEqual([first.workflowId, second.workflowId, third.workflowId]);
  });

  test("by a process that dies between its decision and the start is started by the owner", async () => {
    world = scheduleWorld(start);
    const owner = await world.connect();
    await owner.worker({ workflows: [quick] });
    await owner.schedules.create("s", hourly);
    const dying = await world.connect((log) => ({
      ...log,
      append: (request) => (request.type === "report" ? new Promise(() => undefined) : log.append(request)),
    }));
    // Never answers: its start does not reach the log.
    dying.schedules.trigger("s", { key: "k" }).catch(() => undefined);
    await world.settle();
    expect(world.runs()).toHaveLength(1);
  });

  test("that finds too many waiting is refused", async () => {
    world = scheduleWorld(start);
    const millrace = await world.connect();
    const report = heldWorkflow();
    await millrace.worker({ workflows: [report.definition] });
    await millrace.schedules.create("s", hourly);
    for (let n = 0; n <= limits.scheduleWaitingRuns; n++) await millrace.schedules.trigger("s");
    await expect(millrace.schedules.trigger("s")).rejects.toMatchObject({ code: "limit_exceeded" });
  });
});

describe("a backfill", () => {
  test("runs the ticks of the span one after the other, each once, while new ticks go on", async () => {
    world = scheduleWorld("2026-01-02T00:10:00Z");
    const millrace = await world.connect();
    const report = heldWorkflow();
    await millrace.worker({ workflows: [report.definition] });
    await millrace.schedules.create("s", hourly);
    const span = { from: "2026-01-01T01:00:00Z", to: "2026-01-01T03:59:00Z" };
    expect((await millrace.schedules.backfill("s", span)).ticks).toBe(3);
    await millrace.schedules.backfill("s", span);
    await world.settle();
    expect(world.runs()).toEqual(["s-20260101T010000Z"]);
    report.release();
    await world.settle();
    expect(world.runs()).toEqual(["s-20260101T010000Z", "s-20260101T020000Z", "s-20260101T030000Z"]);
    await millrace.schedules.backfill("s", span);
    await world.settle();
    expect(world.runs()).toHaveLength(3);
    expect((await millrace.schedules.get("s")).backfills).toEqual([]);
    await world.goTo("2026-01-02T01:00:30Z");
    expect(world.runs().at(-1)).toBe("s-20260102T010000Z");
  });

  test("under allow starts all, a commit for each hundred", async () => {
    world = scheduleWorld("2026-02-01T00:10:00Z");
    const millrace = await world.connect();
    await millrace.worker({ workflows: [quick] });
    await millrace.schedules.create("s", { ...hourly, overlap: "allow" });
    await millrace.schedules.backfill("s", { from: "2026-01-01T00:00:00Z", to: "2026-01-11T00:00:00Z" });
    await world.settle();
    expect(new Set(world.runs()).size).toBe(241);
    expect(world.runs()).toHaveLength(241);
    expect(world.events("s").filter(({ type }) => type === "ScheduleTriggered")).toHaveLength(4);
  });

  test("of more ticks than the limit, or of the future, is refused", async () => {
    world = scheduleWorld(start);
    const { schedules } = await world.connect();
    await schedules.create("s", hourly, unhosted);
    await expect(
      schedules.backfill("s", { from: "2025-01-01T00:00:00Z", to: "2025-12-01T00:00:00Z" }),
    ).rejects.toMatchObject({ code: "limit_exceeded" });
    await expect(
      schedules.backfill("s", { from: "2025-12-31T00:00:00Z", to: "2026-01-01T00:00:01Z" }),
    ).rejects.toThrow(/in the future/);
    expect(
      await schedules.backfill("s", { from: "2025-12-31T00:10:00Z", to: "2025-12-31T00:20:00Z" }),
    ).toMatchObject({
      ticks: 0,
    });
  });
});

test("I1 two reads give what folding all commits gives, after every commit", async () => {
  world = scheduleWorld(start);
  const millrace = await world.connect();
  const report = heldWorkflow();
  await millrace.worker({ workflows: [report.definition] });
  const { schedules } = millrace;
  await schedules.create("s", { ...hourly, overlap: "buffer-one", jitterMs: 60_000 });
  await world.goTo("2026-01-01T03:30:00Z");
  await schedules.update("s", { ...hourly, overlap: "cancel-previous" });
  await world.goTo("2026-01-01T05:30:00Z");
  await schedules.pause("s", { by: "ada" });
  await schedules.trigger("s");
  await schedules.resume("s");
  await world.goTo("2026-01-01T06:30:00Z");
  await schedules.delete("s");
  const commits = await millrace.log.load("s");
  expect(commits.length).toBeGreaterThan(10);
  let folded: ScheduleState | null = null;
  for (const [n, commit] of commits.entries()) {
    folded = evolveSchedule(folded, commit);
    const asOf = {
      ...millrace.log,
      last: async () => commits[n] ?? null,
      read: (sequence: number) => millrace.log.read(sequence),
    };
    expect(await loadSchedule(asOf, "s")).toEqual({ kind: "schedule", state: folded });
  }
});
