/** Operators' commands over HTTP, with code that runs. */
import { defineWorkflow } from "@millrace/engine";
import type { BulkAnswer, BulkPreview, Page, Problem, WorkflowRow } from "@millrace/schemas";
import { afterEach, describe, expect, it, vi } from "vitest";
import { memoryWorld, type World } from "./testing/world.ts";

let world: World;
afterEach(() => world.close());

interface Answered<T> {
  readonly status: number;
  readonly json: T;
}

async function call<T = Record<string, unknown>>(
  method: "GET" | "POST",
  path: string,
  body?: unknown,
  headers: Record<string, string> = {},
): Promise<Answered<T>> {
  const response = await fetch(`${world.server.url}${path}`, {
    method,
    headers: { "Content-Type": "application/json", ...headers },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
  return { status: response.status, json: (await response.json()) as T };
}
const post = <T = { sequence: number }>(path: string, body: unknown = {}, headers = {}) =>
  call<T>("POST", path, body, headers);
async function refused(path: string, body: unknown = {}): Promise<[number, string]> {
  const { status, json } = await post<Problem>(path, body);
  return [status, json.code];
}
async function row(id: string, min: number): Promise<WorkflowRow> {
  const { json } = await call<WorkflowRow>("GET", `/v1/workflows/${id}?min=${min}`);
  return json;
}
const until = (check: () => Promise<unknown>) => vi.waitFor(check, { timeout: 5_000, interval: 10 });

let declined = true;
const order = defineWorkflow({ type: "order" }, async (ctx, input: { amount?: number } | null) => {
  let approved = "";
  ctx.onQuery("approved", () => approved);
  ctx.onUpdate("limit", (limit: number) => {
    if (limit < 0) throw new Error("below zero");
    return limit * 2;
  });
  if (input?.amount !== undefined) ctx.setAttributes({ amount: input.amount });
  await ctx.step(
    "charge",
    () => {
      if (declined && input?.amount === undefined) throw new Error("declined");
      return "charged";
    },
    { retry: { maxAttempts: 1 } },
  );
  approved = (await ctx.waitForSignal<string>("approve")) ?? "";
  return approved;
});

async function shop(): Promise<void> {
  declined = true;
  world = await memoryWorld();
  await world.millrace.worker({ workflows: [order] });
}

describe("one run", () => {
  it("signals, idempotent by key; queries; updates, idempotent by key; a start with a signal", async () => {
    await shop();
    await post("/v1/workflows", { type: "order", id: "o", input: { amount: 5 } });
    expect((await post("/v1/workflows/o/queries/approved")).json).toEqual({ value: "" });
    const key = { "Idempotency-Key": "once é" };
    const limits = [await post("/v1/workflows/o/updates/limit", { input: 4 }, key)];
    limits.push(await post("/v1/workflows/o/updates/limit", { input: 4 }, key));
    expect(limits.map(({ json }) => json)).toEqual([{ value: 8 }, { value: 8 }]);
    expect(await refused("/v1/workflows/o/updates/limit", { input: -1 })).toEqual([422, "update_failed"]);
    expect(await refused("/v1/workflows/o/queries/nothing")).toEqual([404, "query_unknown"]);
    const first = await post("/v1/workflows/o/signals/approve", { payload: "yes", by: "ada" }, key);
    const again = await post("/v1/workflows/o/signals/approve", { payload: "yes", by: "ada" }, key);
    expect([first.status, again.status]).toEqual([200, 200]);
    await until(async () => expect((await row("o", again.json.sequence)).status).toBe("completed"));
    const { json } = await call<Page<{ type: string }>>("GET", "/v1/workflows/o/events");
    expect(json.items.filter(({ type }) => type === "SignalReceived")).toHaveLength(1);
    expect((await post("/v1/workflows/o/queries/approved")).json).toEqual({ value: "yes" });
    const started = await post("/v1/workflows", {
      type: "order",
      id: "o2",
      input: { amount: 1 },
      signal: { name: "approve", payload: "at once" },
    });
    expect(started.status).toBe(201);
    await until(async () =>
      expect(await row("o2", started.json.sequence)).toMatchObject({ output: "at once" }),
    );
  });

  it("pauses, resumes, retries, resets, forks and migrates, each with who and why; the row says what it waits for", async () => {
    await shop();
    await post("/v1/workflows", { type: "order", id: "o", attributes: { customer: 7 } });
    await until(async () => expect((await row("o", 0)).status).toBe("failed"));
    declined = false;
    const retried = await post<{ sequence: number; run: number; step: string }>("/v1/workflows/o/retry", {
      reason: "bank is back",
      by: "ada",
    });
    expect(retried.json).toMatchObject({ run: 2, step: "charge" });
    await until(async () =>
      expect(await row("o", retried.json.sequence)).toMatchObject({
        status: "waiting",
        run: 2,
        waits: [{ kind: "signal", name: "approve" }],
      }),
    );
    const waiting = await call<Page<WorkflowRow>>(
      "GET",
      "/v1/workflows?waits=signal:approve&attr.customer=7",
    );
    expect(waiting.json.items.map(({ id }) => id)).toEqual(["o"]);
    const paused = await post("/v1/workflows/o/pause", { reason: "audit", by: "bob" });
    expect(await row("o", paused.json.sequence)).toMatchObject({
      status: "paused",
      paused: { reason: "audit", by: "bob" },
    });
    await post("/v1/workflows/o/resume");
    const forked = await post<{ id: string; created: boolean; sequence: number }>("/v1/workflows/o/fork", {
      step: "charge",
      id: "o-2",
    });
    expect([forked.status, forked.json]).toMatchObject([201, { id: "o-2", created: true }]);
    expect((await post("/v1/workflows/o/fork", { step: "charge", id: "o-2" })).status).toBe(200);
    expect(await row("o-2", forked.json.sequence)).toMatchObject({ attributes: { customer: 7 }, run: 1 });
    const migrated = await post("/v1/workflows/o-2/migrate", { toVersion: "9", by: "ada" });
    expect(await row("o-2", migrated.json.sequence)).toMatchObject({ version: "9" });
    const reset = await post<{ sequence: number; run: number }>("/v1/workflows/o/reset", { step: "charge" });
    expect(reset.json.run).toBe(3);
    await post("/v1/workflows/o/signals/approve", { payload: "yes" });
    await until(async () =>
      expect(await row("o", reset.json.sequence)).toMatchObject({ output: "yes", run: 3 }),
    );
    const { json } = await call<Page<{ type: string; data: { reason?: string; by?: string } }>>(
      "GET",
      "/v1/workflows/o/events",
    );
    expect(json.items.find(({ type }) => type === "WorkflowReset")?.data).toMatchObject({
      reason: "bank is back",
      by: "ada",
    });
  });

  it("says what is wrong", async () => {
    await shop();
    await post("/v1/workflows", { type: "order", id: "o", input: { amount: 1 } });
    expect(await refused("/v1/workflows/none/pause")).toEqual([404, "workflow_not_found"]);
    expect(await refused("/v1/workflows/o/retry")).toEqual([409, "workflow_not_failed"]);
    expect(await refused("/v1/workflows/o/reset", { step: "nope" })).toEqual([409, "step_not_begun"]);
    expect(await refused("/v1/workflows/o/reset", { step: "a#0" })).toEqual([400, "invalid_id"]);
    expect(await refused("/v1/workflows/o/fork", { id: "no spaces" })).toEqual([400, "invalid_id"]);
    expect(await refused("/v1/workflows/o/migrate", {})).toEqual([400, "invalid_request"]);
    expect(await refused("/v1/workflows/o/pause", { because: "x" })).toEqual([400, "invalid_request"]);
    const { status } = await call("GET", "/v1/workflows?waits=nonsense");
    expect(status).toBe(400);
  });
});

describe("many runs", () => {
  const external = { type: "permit", driver: "external" };
  async function permits(count: number): Promise<void> {
    world = await memoryWorld();
    let last = 0;
    for (let n = 0; n < count; n++) {
      const attributes = { n, side: n % 2 === 0 ? "even" : "odd" };
      ({ sequence: last } = (await post("/v1/workflows", { ...external, id: `p${n}`, attributes })).json);
    }
    await world.projection.waitFor(last, 2_000);
  }
  const bulk = <T = BulkAnswer>(body: object, headers = {}) => post<T>("/v1/workflows/bulk", body, headers);

  it("a dry run counts and shows the first ones, and does nothing", async () => {
    await permits(25);
    const before = await world.log.info();
    const { json } = await bulk<BulkPreview>({
      filter: { type: "permit", attr: { side: "odd" } },
      command: { kind: "terminate" },
      dryRun: true,
    });
    expect(json).toMatchObject({ count: 12, exact: true });
    expect(json.ids.slice(0, 3)).toEqual(["p23", "p21", "p19"]);
    expect((await world.log.info()).lastSequence).toBe(before.lastSequence);
  });

  it("goes page by page, each run once, tells each failure, and goes on", async () => {
    await permits(10);
    const closed = await post("/v1/workflows/p4/complete", { output: 1 });
    await world.projection.waitFor(closed.json.sequence, 2_000);
    const command = { kind: "pause", reason: "audit", by: "ada" };
    const filter = { attr: { side: "even" } };
    const pages: BulkAnswer[] = [];
    for (let after: string | null | undefined; after !== null;) {
      const { json } = await bulk({ filter, command, limit: 2, ...(after === undefined ? {} : { after }) });
      pages.push(json);
      after = json.next;
    }
    expect(pages.map(({ done }) => done)).toEqual([2, 1, 1]);
    expect(pages.flatMap(({ failed }) => failed)).toMatchObject([{ id: "p4", code: "workflow_closed" }]);
    await world.projection.waitFor(Math.max(...pages.map(({ sequence }) => sequence)), 2_000);
    const paused = await call<Page<WorkflowRow>>("GET", "/v1/workflows?status=paused");
    expect(paused.json.items.map(({ id, paused: by }) => [id, by?.by])).toEqual(
      ["p8", "p6", "p2", "p0"].map((id) => [id, "ada"]),
    );
    // Again: it is so already.
    expect((await bulk({ filter, command })).json).toMatchObject({ done: 4, next: null });
    const resumed = await bulk({
      filter: { status: "paused", attrMin: { n: 5 } },
      command: { kind: "resume" },
    });
    expect(resumed.json.done).toBe(2);
  });

  it("signals many once, by key; resets and retries", async () => {
    await permits(3);
    const body = {
      filter: { workflow: ["p0", "p2"] },
      command: { kind: "signal", name: "go", payload: 1, by: "ada" },
    };
    const key = { "Idempotency-Key": "k" };
    expect((await bulk(body, key)).json.done).toBe(2);
    const { json } = await bulk(body, key);
    await world.projection.waitFor(json.sequence, 2_000);
    const { json: history } = await call<Page<{ type: string }>>("GET", "/v1/workflows/p0/events");
    expect(history.items.map(({ type }) => type)).toEqual(["WorkflowStarted", "SignalReceived"]);
    await post("/v1/workflows/p1/fail", { error: { message: "no" } });
    const retried = await bulk({ filter: { type: "permit" }, command: { kind: "retry" } });
    expect(retried.json.done).toBe(1);
    expect(retried.json.failed.map(({ code }) => code)).toEqual([
      "workflow_not_failed",
      "workflow_not_failed",
    ]);
    expect((await bulk({ filter: { type: "permit" }, command: { kind: "reset" } })).json.done).toBe(3);
  });

  it("refuses an empty filter, a command that is none, and a page too large", async () => {
    await permits(1);
    const command = { kind: "terminate" };
    expect(await refused("/v1/workflows/bulk", { filter: {}, command })).toEqual([400, "invalid_request"]);
    expect(await refused("/v1/workflows/bulk", { filter: { type: "x" }, command: { kind: "fork" } })).toEqual(
      [400, "invalid_request"],
    );
    expect(await refused("/v1/workflows/bulk", { filter: { type: "x" }, command, limit: 501 })).toEqual([
      400,
      "invalid_request",
    ]);
    expect(await refused("/v1/workflows/bulk", { filter: { nope: 1 }, command })).toEqual([
      400,
      "invalid_request",
    ]);
  });
});
