import type { EventLog } from "@millrace/event-log";
import { limits, scheduleType } from "@millrace/schemas";
import { afterEach, describe, expect, test } from "vitest";
import { defineWorkflow } from "../definition.ts";
import { aesGcmCodec } from "../payloads/aes-gcm-codec.ts";
import { heldWorkflow, scheduleWorld, type ScheduleWorld } from "./testing/schedule-world.ts";

const start = "2026-01-01T00:00:00Z";
let world: ScheduleWorld;
afterEach(() => world.close());

const quick = defineWorkflow({ type: "report" }, async () => null);
const minutely = { cron: "* * * * *", workflow: { type: "report" } };

describe("firing", () => {
  test("a month passes in a moment: every tick starts its run once, with the schedule's attributes", async () => {
    world = scheduleWorld(start);
    const millrace = await world.connect();
    await millrace.worker({ workflows: [quick] });
    await millrace.schedules.create("nightly", {
      cron: "30 2 * * *",
      timeZone: "Europe/Amsterdam",
      workflow: { type: quick, input: { kind: "daily" }, attributes: { team: "books" } },
    });
    await world.goTo("2026-02-01T00:00:00Z");
    expect(world.runs()).toHaveLength(31);
    expect(world.runs()[0]).toBe("nightly-20260101T013000Z");
    expect(world.events("nightly-20260131T013000Z")[0]).toMatchObject({
      type: "WorkflowStarted",
      data: {
        input: { kind: "daily" },
        attributes: { team: "books", schedule: "nightly", scheduledAt: "2026-01-31T01:30:00.000Z" },
      },
    });
    expect(await millrace.schedules.get("nightly")).toMatchObject({
      status: "active",
      nextTickAt: "2026-02-01T01:30:00.000Z",
      counts: { triggered: 31, skipped: 0, missed: 0 },
    });
  });

  test("a tick of the hour that is left out, and one that comes twice, each start one run", async () => {
    world = scheduleWorld("2026-03-28T12:00:00Z");
    const millrace = await world.connect();
    await millrace.worker({ workflows: [quick] });
    await millrace.schedules.create("n", {
      cron: "30 2 * * *",
      timeZone: "Europe/Amsterdam",
      workflow: { type: quick },
    });
    await world.goTo("2026-03-30T12:00:00Z");
    expect(world.runs()).toEqual(["n-20260329T013000Z", "n-20260330T003000Z"]);
    await millrace.schedules.pause("n");
    await world.goTo("2026-10-24T12:00:00Z");
    await millrace.schedules.resume("n");
    await world.goTo("2026-10-26T12:00:00Z");
    expect(world.runs().slice(2)).toEqual(["n-20261025T003000Z", "n-20261026T013000Z"]);
  });

  test("an interval counts from its start, and ends at its end", async () => {
    world = scheduleWorld(start);
    const millrace = await world.connect();
    await millrace.worker({ workflows: [quick] });
    await millrace.schedules.create("i", {
      everyMs: 90_500,
      startAt: "2026-01-01T00:10:00Z",
      endAt: "2026-01-01T00:14:00Z",
      workflow: { type: quick },
    });
    await world.goTo("2026-01-01T01:00:00Z");
    expect(world.runs()).toEqual(["i-20260101T001000Z", "i-20260101T001130500Z", "i-20260101T001301Z"]);
    expect((await millrace.schedules.get("i")).nextTickAt).toBeNull();
  });

  test("jitter makes each tick late by its own part, and the run keeps the tick's name", async () => {
    world = scheduleWorld(start);
    const millrace = await world.connect();
    await millrace.worker({ workflows: [quick] });
    await millrace.schedules.create("j", { ...minutely, jitterMs: 30_000 });
    const { nextTickAt, nextDueAt } = await millrace.schedules.get("j");
    const lateMs = Date.parse(nextDueAt ?? "") - Date.parse(nextTickAt ?? "");
    expect(lateMs).toBeGreaterThan(0);
    expect(lateMs).toBeLessThan(30_000);
    await world.goTo("2026-01-01T00:01:00Z");
    expect(world.runs()).toEqual([]);
    await world.goTo(nextDueAt ?? "");
    expect(world.runs()).toEqual(["j-20260101T000100Z"]);
  });

  test("a worker that does not host the type fires nothing; one that comes catches up within the window", async () => {
    world = scheduleWorld(start);
    const millrace = await world.connect();
    await millrace.worker({ workflows: [defineWorkflow({ type: "other" }, async () => null)] });
    await millrace.schedules.create(
      "m",
      { cron: "*/10 * * * *", overlap: "allow", catchUpWindowMs: 1_500_000, workflow: { type: "report" } },
      { allowUnregistered: true },
    );
    await world.goTo("2026-01-01T02:05:00Z");
    expect(world.runs()).toEqual([]);
    const second = await world.connect();
    await second.worker({ workflows: [quick] });
    await world.settle();
    expect(world.runs()).toEqual(["m-20260101T014000Z", "m-20260101T015000Z", "m-20260101T020000Z"]);
    expect(world.events("m")[1]).toMatchObject({
      data: {
        skipped: [
          {
            reason: "missed",
            from: Date.parse("2026-01-01T00:10:00Z"),
            to: Date.parse("2026-01-01T01:30:00Z"),
            count: 9,
          },
        ],
      },
    });
    expect((await millrace.schedules.get("m")).counts).toEqual({ triggered: 3, skipped: 0, missed: 9 });
  });

  test("two workers that both take themselves for the owner start each tick once", async () => {
    world = scheduleWorld(start);
    for (let n = 0; n < 2; n++) await (await world.connect()).worker({ workflows: [quick] });
    const millrace = await world.connect();
    await millrace.schedules.create("m", minutely);
    await world.goTo("2026-01-01T00:30:30Z");
    expect(world.runs()).toHaveLength(30);
    expect(new Set(world.runs()).size).toBe(30);
    expect(world.events("m").filter(({ type }) => type === "ScheduleTriggered")).toHaveLength(30);
  });

  test("an input that a new version does not take is recorded, and the next tick is tried", async () => {
    world = scheduleWorld(start);
    const millrace = await world.connect();
    const picky = defineWorkflow(
      {
        type: "report",
        input: {
          "~standard": {
            version: 1 as const,
            vendor: "test",
            validate: (value: unknown) => (value === 2 ? { value } : { issues: [{ message: "not 2" }] }),
          },
        },
      },
      async () => null,
    );
    await millrace.schedules.create(
      "p",
      { ...minutely, workflow: { type: "report", input: 1 } },
      { allowUnregistered: true },
    );
    await millrace.worker({ workflows: [picky] });
    await world.goTo("2026-01-01T00:01:30Z");
    const row = await millrace.schedules.get("p");
    expect(row.failure).toMatchObject({
      workflowId: "p-20260101T000100Z",
      message: expect.stringContaining("not 2") as string,
    });
    expect(row.openRuns).toEqual([]);
    await expect(millrace.schedules.update("p", minutely)).rejects.toMatchObject({ code: "invalid_input" });
    await millrace.schedules.update("p", { ...minutely, workflow: { type: "report", input: 2 } });
    await world.goTo("2026-01-01T00:02:30Z");
    expect(world.runs()).toEqual(["p-20260101T000200Z"]);
  });
});

describe("a sealed input", () => {
  const codec = (key: number) => aesGcmCodec({ keys: { a: Buffer.alloc(32, key) }, current: "a" });
  const seen: unknown[] = [];
  const reading = defineWorkflow({ type: "report" }, async (_ctx, input) => void seen.push(input));

  test("stands sealed in the log, and is opened for the runs, also after an update from elsewhere", async () => {
    world = scheduleWorld(start);
    const operator = await world.connect(undefined, { codec: codec(1) });
    const owner = await world.connect(undefined, { codec: codec(1) });
    await owner.worker({ workflows: [reading] });
    await operator.schedules.create("s", { ...minutely, workflow: { type: "report", input: "first" } });
    await world.goTo("2026-01-01T00:01:30Z");
    await operator.schedules.update("s", { ...minutely, workflow: { type: "report", input: "second" } });
    await world.goTo("2026-01-01T00:02:30Z");
    expect(seen).toEqual(["first", "second"]);
    const stored = JSON.stringify([...world.events("s"), ...world.runs().flatMap((id) => world.events(id))]);
    expect(stored).not.toMatch(/first|second/);
  });

  test("that a worker has no key for starts nothing, and the schedule says why", async () => {
    world = scheduleWorld(start);
    const operator = await world.connect(undefined, { codec: codec(1) });
    await operator.schedules.create(
      "s",
      { ...minutely, workflow: { type: "report", input: "x" } },
      { allowUnregistered: true },
    );
    await (await world.connect(undefined, { codec: codec(2) })).worker({ workflows: [reading] });
    await world.goTo("2026-01-01T00:01:30Z");
    expect(world.runs()).toEqual([]);
    expect((await operator.schedules.get("s")).failure).toMatchObject({ workflowId: "s-20260101T000100Z" });
  });
});

test("a history that is full pauses its schedule, which says so and can still be deleted", async () => {
  world = scheduleWorld(start);
  const millrace = await world.connect();
  await millrace.schedules.create("s", minutely, { allowUnregistered: true });
  const [created] = await millrace.log.load("s");
  const event = created?.events[0];
  if (event?.type !== "ScheduleCreated") throw new Error("no schedule");
  // As after so many ticks.
  const memo = { ...event.data.memo, specSequence: created?.sequence ?? 0, commits: limits.scheduleCommits };
  await millrace.log.append({
    commitId: "01ARZ3NDEKTSV4RRFFQ69G5FAV",
    workflowId: "s",
    type: scheduleType,
    expected: created?.sequence ?? 0,
    events: [{ type: "ScheduleTriggered", data: { runs: [], skipped: [], memo } }],
    condition: "waiting",
  });
  await millrace.worker({ workflows: [quick] });
  await world.goTo("2026-01-01T00:05:00Z");
  expect(world.runs()).toEqual([]);
  expect((await millrace.schedules.get("s")).paused).toMatchObject({
    by: "millrace",
    reason: expect.stringContaining("anew under another id") as string,
  });
  await millrace.schedules.delete("s");
});

describe("overlap", () => {
  async function held(overlap: "skip" | "buffer-one" | "allow" | "cancel-previous") {
    world = scheduleWorld(start);
    const millrace = await world.connect();
    const report = heldWorkflow();
    await millrace.worker({ workflows: [report.definition] });
    await millrace.schedules.create("s", { ...minutely, overlap });
    await world.goTo("2026-01-01T00:03:30Z");
    return { millrace, report };
  }

  test("skip: a tick that meets an open run starts nothing, and is counted", async () => {
    const { millrace, report } = await held("skip");
    expect(world.runs()).toEqual(["s-20260101T000100Z"]);
    report.release("s-20260101T000100Z");
    await world.goTo("2026-01-01T00:04:30Z");
    expect(world.runs()).toEqual(["s-20260101T000100Z", "s-20260101T000400Z"]);
    expect((await millrace.schedules.get("s")).counts).toEqual({ triggered: 2, skipped: 2, missed: 0 });
  });

  test("buffer-one: one tick waits and starts at the end of the run, not at the next tick", async () => {
    const { millrace, report } = await held("buffer-one");
    expect(world.runs()).toEqual(["s-20260101T000100Z"]);
    expect((await millrace.schedules.get("s")).waitingRuns).toMatchObject([
      { workflowId: "s-20260101T000200Z" },
    ]);
    report.release("s-20260101T000100Z");
    await world.settle();
    expect(world.runs()).toEqual(["s-20260101T000100Z", "s-20260101T000200Z"]);
    const row = await millrace.schedules.get("s");
    expect([row.waitingRuns, row.counts.skipped]).toEqual([[], 1]);
  });

  test("allow: each tick starts", async () => {
    await held("allow");
    expect(world.runs()).toHaveLength(3);
  });

  test("cancel-previous: the open run is asked to cancel, the newest tick starts when it has closed", async () => {
    await held("cancel-previous");
    expect(world.runs()).toEqual(["s-20260101T000100Z", "s-20260101T000200Z", "s-20260101T000300Z"]);
    for (const id of ["s-20260101T000100Z", "s-20260101T000200Z"])
      expect(world.events(id).map(({ type }) => type)).toEqual(
        expect.arrayContaining(["WorkflowCancelRequested", "WorkflowCancelled"]),
      );
    expect(world.events("s-20260101T000300Z").map(({ type }) => type)).toEqual(["WorkflowStarted"]);
  });

  test("an end that no tail told of is found at take-over", async () => {
    const { report } = await held("buffer-one");
    await world.close();
    const operator = await world.connect();
    await operator.handle("s-20260101T000100Z").terminate();
    await (await world.connect()).worker({ workflows: [report.definition] });
    await world.settle();
    expect(world.runs()).toEqual(["s-20260101T000100Z", "s-20260101T000200Z"]);
  });
});

test("O1 a schedule that is deleted in the moment of its tick: what was decided is started", async () => {
  world = scheduleWorld(start);
  let open = (): void => undefined;
  const gate = new Promise<void>((resolve) => (open = resolve));
  const owner = await world.connect((log) => ({
    ...log,
    async append(request) {
      const result = await log.append(request);
      // Stored, and told only when the deletion is in the log too.
      if (request.events[0]?.type === "ScheduleTriggered") await gate;
      return result;
    },
  }));
  await owner.worker({ workflows: [quick] });
  const operator = await world.connect();
  await operator.schedules.create("s", minutely);
  await world.goTo("2026-01-01T00:01:00Z");
  await operator.schedules.delete("s");
  await world.settle();
  expect(world.runs()).toEqual([]);
  open();
  await world.goTo("2026-01-01T00:03:30Z");
  expect(world.runs()).toEqual(["s-20260101T000100Z"]);
});

describe("clock jumps", () => {
  test("forwards: what lies within the window is caught up when the timer fires, the rest is missed", async () => {
    world = scheduleWorld(start);
    const millrace = await world.connect();
    await millrace.worker({ workflows: [quick] });
    await millrace.schedules.create("m", { ...minutely, overlap: "allow", catchUpWindowMs: 300_000 });
    await world.goTo("2026-01-01T00:01:30Z");
    world.clock.jump(3_600_000);
    // The clock is looked at every ten seconds.
    await world.goTo("2026-01-01T01:01:41Z");
    expect(world.runs().slice(0, 3)).toEqual([
      "m-20260101T000100Z",
      "m-20260101T005700Z",
      "m-20260101T005800Z",
    ]);
    expect((await millrace.schedules.get("m")).counts).toEqual({ triggered: 6, skipped: 0, missed: 55 });
  });

  test("backwards: no tick starts again, and the next one comes at its time", async () => {
    world = scheduleWorld(start);
    const millrace = await world.connect();
    await millrace.worker({ workflows: [quick] });
    await millrace.schedules.create("m", minutely);
    await world.goTo("2026-01-01T00:05:30Z");
    expect(world.runs()).toHaveLength(5);
    world.clock.jump(-180_000);
    await world.goTo("2026-01-01T00:05:59Z");
    expect(world.runs()).toHaveLength(5);
    await world.goTo("2026-01-01T00:06:00Z");
    expect(world.runs().at(-1)).toBe("m-20260101T000600Z");
    expect(new Set(world.runs()).size).toBe(6);
  });
});

describe("O1 O2 crash points", () => {
  /** A connection whose appends stop at the n-th: it is not sent, or sent and never answered. */
  function crashingAt(n: number, when: "before" | "after"): (log: EventLog) => EventLog {
    let appends = 0;
    let dead = false;
    const never = (): Promise<never> => new Promise(() => undefined);
    return (log) => ({
      ...log,
      async append(request) {
        if (dead) return never();
        if (++appends !== n) return log.append(request);
        dead = true;
        if (when === "after") await log.append(request);
        return never();
      },
    });
  }

  const points = [1, 2, 3, 4, 5, 6].flatMap((n) =>
    (["before", "after"] as const).map((when) => [n, when] as const),
  );
  test.each(points)("append %i, %s it is stored: no tick is lost, none starts twice", async (n, when) => {
    world = scheduleWorld(start);
    const operator = await world.connect();
    await operator.schedules.create("c", { ...minutely, overlap: "buffer-one" }, { allowUnregistered: true });
    // Trigger, start and end of each run are appends of the dying owner, in this order.
    const dying = await world.connect(crashingAt(n, when));
    await dying.worker({ workflows: [quick] });
    await world.goTo("2026-01-01T00:03:30Z");
    await world.stop(dying);
    await (await world.connect()).worker({ workflows: [quick] });
    await world.goTo("2026-01-01T00:04:30Z");
    const ticks = [1, 2, 3, 4].map((minute) => `c-20260101T000${minute}00Z`);
    const row = await operator.schedules.get("c");
    const started = world.runs();
    expect(new Set(started).size).toBe(started.length);
    expect(started).toContain(ticks[0]);
    expect(row.counts.triggered + row.counts.skipped).toBe(4);
    expect(started).toHaveLength(row.counts.triggered);
    expect(started.every((id) => ticks.includes(id))).toBe(true);
    for (const id of started) expect(world.events(id).at(-1)?.type).toBe("WorkflowCompleted");
  });
});
