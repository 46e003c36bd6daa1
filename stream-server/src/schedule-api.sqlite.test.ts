import { defineWorkflow } from "@millrace/engine";
import type { EventRow, Page, Problem, ScheduleRow, WorkflowRow } from "@millrace/schemas";
import { afterEach, describe, expect, it } from "vitest";
import { memoryWorld, type World } from "./testing/world.ts";

let world: World;
afterEach(() => world.close());

interface Reply<T> {
  readonly status: number;
  readonly headers: Headers;
  readonly json: T;
}
interface Sequenced {
  readonly sequence: number;
}

async function call<T = Record<string, unknown>>(
  method: string,
  path: string,
  body?: unknown,
  headers: Record<string, string> = {},
): Promise<Reply<T>> {
  const response = await fetch(world.server.url + path, {
    method,
    headers,
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
  return { status: response.status, headers: response.headers, json: (await response.json()) as T };
}

async function refused(method: string, path: string, body?: unknown): Promise<[number, string, string]> {
  const { status, headers, json } = await call<Problem>(method, path, body);
  expect(headers.get("content-type")).toBe("application/problem+json");
  return [status, json.code, json.detail];
}

const report = defineWorkflow({ type: "report" }, async (_ctx, input) => input);
const nightly = {
  cron: "0 3 * * *",
  timeZone: "Europe/Amsterdam",
  workflow: { type: "report", input: { kind: "daily" } },
};

async function withWorker(): Promise<void> {
  world = await memoryWorld();
  await world.millrace.worker({ workflows: [report] });
}

describe("schedules over HTTP", () => {
  it("creates, shows, lists, updates, pauses, resumes and deletes; each again is harmless", async () => {
    await withWorker();
    const create = await call<Sequenced>("POST", "/v1/schedules", { id: "nightly", ...nightly });
    expect(create).toMatchObject({ status: 201, json: { id: "nightly", created: true } });
    expect(create.headers.get("location")).toBe("/v1/schedules/nightly");
    expect(await call("POST", "/v1/schedules", { id: "nightly", ...nightly })).toMatchObject({
      status: 200,
      json: { created: false, sequence: create.json.sequence },
    });

    const row = await call<ScheduleRow>("GET", `/v1/schedules/nightly?min=${create.json.sequence}`);
    expect(row.json).toMatchObject({
      id: "nightly",
      status: "active",
      cron: "0 3 * * *",
      timeZone: "Europe/Amsterdam",
      overlap: "skip",
      catchUpWindowMs: 3_600_000,
      workflow: { type: "report", input: { kind: "daily" } },
      sequence: create.json.sequence,
    });
    expect(Date.parse(row.json.nextTickAt ?? "")).toBeGreaterThan(Date.now());
    expect(Number(row.headers.get("millrace-sequence"))).toBeGreaterThanOrEqual(create.json.sequence);

    const pause = await call<Sequenced>("POST", "/v1/schedules/nightly/pause", {
      reason: "audit",
      by: "ada",
    });
    expect((await call<Sequenced>("POST", "/v1/schedules/nightly/pause", {})).json).toEqual(pause.json);
    const paused = await call<Page<ScheduleRow>>(
      "GET",
      `/v1/schedules?status=paused&min=${pause.json.sequence}`,
    );
    expect(paused.json.items).toMatchObject([
      { id: "nightly", nextTickAt: null, paused: { reason: "audit", by: "ada" } },
    ]);
    expect((await call<Page<ScheduleRow>>("GET", "/v1/schedules?status=active")).json.items).toEqual([]);
    await call("POST", "/v1/schedules/nightly/resume", {});

    const update = await call<Sequenced>("PUT", "/v1/schedules/nightly", {
      ...nightly,
      everyMs: 60_000,
      cron: undefined,
      timeZone: undefined,
      overlap: "allow",
    });
    expect(
      (await call<ScheduleRow>("GET", `/v1/schedules/nightly?min=${update.json.sequence}`)).json,
    ).toMatchObject({
      cron: null,
      everyMs: 60_000,
      overlap: "allow",
    });

    const remove = await call<Sequenced>("DELETE", "/v1/schedules/nightly", { by: "ada" });
    expect(await refused("GET", `/v1/schedules/nightly?min=${remove.json.sequence}`)).toEqual([
      404,
      "schedule_not_found",
      expect.any(String),
    ]);
    expect((await call<Page<ScheduleRow>>("GET", "/v1/schedules")).json.items).toEqual([]);
    const events = await call<Page<EventRow>>("GET", "/v1/schedules/nightly/events");
    expect(events.json.items.map(({ type }) => type)).toEqual([
      "ScheduleCreated",
      "SchedulePaused",
      "ScheduleResumed",
      "ScheduleUpdated",
      "ScheduleDeleted",
    ]);
    expect(await call("POST", "/v1/schedules", { id: "nightly", ...nightly })).toMatchObject({ status: 201 });
  });

  it("triggers a run now, once per Idempotency-Key", async () => {
    await withWorker();
    await call("POST", "/v1/schedules", { id: "n", ...nightly });
    const key = { "idempotency-key": "k-1" };
    const first = await call<Sequenced & { workflowId: string }>("POST", "/v1/schedules/n/trigger", {}, key);
    expect(first).toMatchObject({ status: 200, json: { started: true } });
    const again = await call<{ workflowId: string }>("POST", "/v1/schedules/n/trigger", {}, key);
    expect(again.json.workflowId).toBe(first.json.workflowId);
    expect(await world.millrace.handle(first.json.workflowId).result()).toEqual({ kind: "daily" });
    const other = await call<{ workflowId: string }>("POST", "/v1/schedules/n/trigger", {});
    expect(other.json.workflowId).not.toBe(first.json.workflowId);
    const row = await call<ScheduleRow>("GET", `/v1/schedules/n?min=${first.json.sequence}`);
    expect(row.json.recentRuns.at(-1)).toMatchObject({ workflowId: first.json.workflowId, kind: "manual" });
  });

  it("backfills a span of the past; the same again starts nothing", async () => {
    await withWorker();
    await call("POST", "/v1/schedules", { id: "n", ...nightly, overlap: "allow" });
    const span = { from: "2026-03-28T00:00:00Z", to: "2026-03-30T12:00:00Z" };
    for (let n = 0; n < 2; n++) {
      expect((await call("POST", "/v1/schedules/n/backfill", span)).json).toMatchObject({ ticks: 3 });
      for (const id of ["n-20260328T020000Z", "n-20260329T010000Z", "n-20260330T010000Z"])
        await expect
          .poll(() =>
            world.millrace
              .handle(id)
              .result()
              .catch(() => null),
          )
          .toEqual({ kind: "daily" });
    }
    const { lastSequence } = await world.log.info();
    await world.projection.waitFor(lastSequence, 2_000);
    const runs = await call<Page<WorkflowRow>>("GET", "/v1/workflows?attr.schedule=n");
    expect(runs.json.items).toHaveLength(3);
  });

  it("refuses what is wrong and names it", async () => {
    await withWorker();
    const wrong = async (body: object) => refused("POST", "/v1/schedules", { id: "x", ...nightly, ...body });
    expect(await wrong({ cron: "0 25 * * *" })).toMatchObject([
      400,
      "invalid_request",
      expect.stringContaining("hour"),
    ]);
    expect(await wrong({ timeZone: "Mars/X" })).toMatchObject([
      400,
      "invalid_request",
      expect.stringContaining("Mars/X"),
    ]);
    expect(await wrong({ everyMs: 5_000 })).toMatchObject([
      400,
      "invalid_request",
      expect.stringContaining("either cron or everyMs"),
    ]);
    expect(await wrong({ cron: undefined, timeZone: undefined, everyMs: 10 })).toMatchObject([
      400,
      "invalid_request",
      expect.stringContaining("everyMs"),
    ]);
    expect(await wrong({ startAt: "tomorrow" })).toMatchObject([
      400,
      "invalid_request",
      expect.stringContaining("startAt"),
    ]);
    expect(await wrong({ overlap: "never" })).toMatchObject([
      400,
      "invalid_request",
      expect.stringContaining("overlap"),
    ]);
    expect(await wrong({ id: "a.b" })).toEqual([400, "invalid_id", expect.any(String)]);
    expect(await wrong({ id: "x".repeat(81) })).toMatchObject([
      400,
      "invalid_id",
      expect.stringContaining("80"),
    ]);
    expect(await wrong({ workflow: { type: "_schedule" } })).toMatchObject([
      400,
      "invalid_id",
      expect.stringContaining("reserved"),
    ]);
    expect(await wrong({ workflow: { type: "unheard-of" } })).toEqual([
      404,
      "workflow_type_unknown",
      expect.any(String),
    ]);
    expect(await wrong({ workflow: { type: "report", attributes: { schedule: "mine" } } })).toMatchObject([
      400,
      "invalid_request",
      expect.stringContaining("set by the schedule"),
    ]);
    expect(await refused("POST", "/v1/schedules/x/pause", {})).toEqual([
      404,
      "schedule_not_found",
      expect.any(String),
    ]);
    expect(await refused("PATCH", "/v1/schedules/x", {})).toEqual([
      405,
      "method_not_allowed",
      expect.any(String),
    ]);
    await call("POST", "/v1/schedules", { id: "x", ...nightly });
    expect(await wrong({ overlap: "allow" })).toEqual([409, "schedule_exists", expect.any(String)]);
    expect(
      await refused("POST", "/v1/schedules/x/backfill", {
        from: "2026-01-01T00:00:00Z",
        to: "2999-01-01T00:00:00Z",
      }),
    ).toMatchObject([400, "invalid_request", expect.stringContaining("future")]);
    expect(
      await refused("POST", "/v1/schedules/x/backfill", {
        from: "2000-01-01T00:00:00Z",
        to: "2026-01-01T00:00:00Z",
      }),
    ).toMatchObject([422, "limit_exceeded", expect.stringContaining("1000")]);
  });

  it("schedules and runs share one space of ids, and neither is taken for the other", async () => {
    await withWorker();
    const { json } = await call<Sequenced>("POST", "/v1/schedules", { id: "taken", ...nightly });
    expect(await refused("POST", "/v1/workflows", { type: "report", id: "taken" })).toEqual([
      409,
      "workflow_exists",
      expect.any(String),
    ]);
    expect(await refused("GET", `/v1/workflows/taken?min=${json.sequence}`)).toEqual([
      404,
      "workflow_not_found",
      expect.any(String),
    ]);
    expect(await refused("POST", "/v1/workflows/taken/cancel", {})).toEqual([
      404,
      "workflow_not_found",
      expect.any(String),
    ]);
    await expect(world.millrace.handle("taken").result()).rejects.toMatchObject({
      code: "workflow_not_found",
    });
    await call("POST", "/v1/workflows", { type: "report", id: "run" });
    expect(await refused("POST", "/v1/schedules", { id: "run", ...nightly })).toEqual([
      409,
      "schedule_exists",
      expect.any(String),
    ]);
    expect(await refused("GET", "/v1/schedules/run")).toEqual([
      404,
      "schedule_not_found",
      expect.any(String),
    ]);
    expect((await call<Page<WorkflowRow>>("GET", "/v1/workflows")).json.items.map(({ id }) => id)).toEqual([
      "run",
    ]);
  });
});

describe("schedules in the live stream", () => {
  it("are events under the type _schedule, and no rows", async () => {
    await withWorker();
    const client = await world.client();
    client.subscribe({ i: 1, from: "start" });
    client.subscribe({ i: 2, from: "start", filter: { type: ["_schedule"] } });
    client.subscribe({ i: 3, from: "start", shape: "state" });
    client.subscribe({ i: 4, from: "start", filter: { workflow: ["n"] }, shape: "state" });
    await call("POST", "/v1/schedules", { id: "n", ...nightly });
    const { json } = await call<{ workflowId: string }>("POST", "/v1/schedules/n/trigger", {});
    await world.millrace.handle(json.workflowId).result();
    const late = await world.client();
    late.subscribe({ i: 3, from: "start", shape: "state" });
    late.subscribe({ i: 5, from: "start" });
    const names = (each: typeof client, i: number) =>
      (each.entries.get(i) ?? []).map(([, name, id]) => `${id === "n" ? "n" : "run"} ${name}`);
    const all = ["n ScheduleCreated", "n ScheduleTriggered", "run WorkflowStarted", "run WorkflowCompleted"];
    await client.until(() => names(client, 1).length >= 4 && names(client, 3).length >= 2, "all events");
    await late.until(() => names(late, 5).length >= 4 && names(late, 3).length >= 2, "all events, late");
    expect(names(client, 1)).toEqual(all);
    expect(names(late, 5)).toEqual(all);
    expect(names(client, 2)).toEqual(all.slice(0, 2));
    expect(names(client, 3)).toEqual(["run state", "run state"]);
    expect(names(late, 3)).toEqual(["run state", "run state"]);
    expect(names(client, 4)).toEqual([]);
    expect([client.alarms, late.alarms]).toEqual([0, 0]);
  });
});
