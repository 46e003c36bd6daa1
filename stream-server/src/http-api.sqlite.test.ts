import { connect as connectSocket } from "node:net";
import { afterEach, describe, expect, it, vi } from "vitest";
import { WebSocket } from "ws";
import { defineWorkflow } from "@millrace/engine";
import type { BeginOutcome, EventRow, Fleet, Page, Problem, WorkflowRow } from "@millrace/schemas";
import { memoryWorld, type World } from "./testing/world.ts";

let world: World;
afterEach(() => world.close());

interface Reply<T> {
  readonly status: number;
  readonly headers: Headers;
  readonly json: T;
  readonly text: string;
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
    ...(body === undefined ? {} : { body: typeof body === "string" ? body : JSON.stringify(body) }),
  });
  const text = await response.text();
  const isJson = (response.headers.get("content-type") ?? "").includes("json");
  return {
    status: response.status,
    headers: response.headers,
    json: (isJson ? JSON.parse(text) : null) as T,
    text,
  };
}
type Begun = Extract<BeginOutcome, { outcome: "execute" }>;
type Started = { readonly id: string; readonly sequence: number };

async function refused(method: string, path: string, body?: unknown): Promise<[number, string]> {
  const { status, headers, json: problem } = await call<Problem>(method, path, body);
  expect(headers.get("content-type")).toBe("application/problem+json");
  expect(problem).toMatchObject({ status, type: `urn:millrace:error:${problem.code}` });
  expect(problem.detail.length).toBeGreaterThan(20);
  return [status, problem.code];
}
const external = { type: "permit", driver: "external", steps: ["check", "decide"] };

describe("HTTP API", () => {
  it("drives a run from start to end, readable by its own sequences", async () => {
    world = await memoryWorld();
    const start = await call("POST", "/v1/workflows", {
      ...external,
      id: "case-1",
      input: { n: 1 },
      attributes: { town: "Delft" },
    });
    expect(start).toMatchObject({
      status: 201,
      json: { id: "case-1", type: "permit", created: true, sequence: 1 },
    });
    expect(start.headers.get("location")).toBe("/v1/workflows/case-1");

    const begun = await call<Begun>("POST", "/v1/workflows/case-1/steps/check/begin", {});
    expect(begun.json).toMatchObject({ outcome: "execute", attempt: 1, sequence: 2 });
    const done = await call("POST", "/v1/workflows/case-1/steps/check/complete", {
      token: begun.json.token,
      output: { ok: true },
    });
    expect(done).toMatchObject({ status: 200, json: { sequence: 3 } });
    expect((await call("POST", "/v1/workflows/case-1/steps/check/begin", {})).json).toMatchObject({
      outcome: "completed",
      output: { ok: true },
    });
    expect(
      await refused("POST", "/v1/workflows/case-1/steps/check%232/complete", { token: "stale" }),
    ).toEqual([409, "step_not_begun"]);
    const second = await call<Begun>("POST", "/v1/workflows/case-1/steps/check%232/begin", {
      maxAttempts: 1,
    });
    expect(
      await refused("POST", "/v1/workflows/case-1/steps/check%232/complete", { token: "stale" }),
    ).toEqual([409, "attempt_superseded"]);
    const failed = await call("POST", "/v1/workflows/case-1/steps/check%232/fail", {
      token: second.json.token,
      error: { message: "no" },
    });
    expect(failed.json).toMatchObject({ final: true });
    const end = await call<Started>("POST", "/v1/workflows/case-1/complete", { output: 42 });

    const row = await call<WorkflowRow>("GET", `/v1/workflows/case-1?min=${end.json.sequence}`);
    expect(row.json).toMatchObject({
      id: "case-1",
      status: "completed",
      output: 42,
      attributes: { town: "Delft" },
      sequence: end.json.sequence,
    });
    expect(row.json.steps.map((step) => [step.name, step.occurrence, step.status])).toEqual([
      ["check", 1, "completed"],
      ["check", 2, "failed"],
    ]);
    expect(row.headers.get("millrace-sequence")).toBe(String(end.json.sequence));
    const past = await call("GET", "/v1/workflows/case-1?at=2");
    expect(past.json).toMatchObject({
      status: "running",
      sequence: 2,
      steps: [{ name: "check", status: "started" }],
    });
    expect(past.headers.get("millrace-sequence")).toBe("2");

    const history = await call<Page<EventRow>>("GET", "/v1/workflows/case-1/events?limit=2");
    expect(history.json.items.map((event) => [event.sequence, event.type])).toEqual([
      [1, "WorkflowStarted"],
      [2, "StepStarted"],
    ]);
    const rest = await call<Page<EventRow>>("GET", `/v1/workflows/case-1/events?after=${history.json.next}`);
    expect(rest.json.items.at(-1)).toMatchObject({ type: "WorkflowCompleted", sequence: end.json.sequence });
    expect(rest.json.next).toBeNull();
  });

  it("starts idempotently: by id, by Idempotency-Key, and refuses another start under the same", async () => {
    world = await memoryWorld();
    const body = { ...external, id: "x", input: 1 };
    expect((await call("POST", "/v1/workflows", body)).status).toBe(201);
    expect(await call("POST", "/v1/workflows", body)).toMatchObject({
      status: 200,
      json: { id: "x", created: false, sequence: 1 },
    });
    expect(await refused("POST", "/v1/workflows", { ...body, input: 2 })).toEqual([409, "workflow_exists"]);
    const key = { "Idempotency-Key": "order 7/é" };
    const first = await call<Started>("POST", "/v1/workflows", external, key);
    const again = await call("POST", "/v1/workflows", external, key);
    expect([first.status, again.status]).toEqual([201, 200]);
    expect(again.json).toMatchObject({ id: first.json.id, sequence: first.json.sequence });
    expect((await call("POST", "/v1/workflows", { ...external, type: "other" }, key)).status).toBe(409);
    expect((await call<Started>("POST", "/v1/workflows", external)).json.id).not.toBe(first.json.id);
  });

  it("lists with filters and pages", async () => {
    world = await memoryWorld();
    for (let n = 0; n < 5; n++) {
      await call("POST", "/v1/workflows", {
        ...external,
        id: `p${n}`,
        attributes: { side: n % 2 === 0 ? "even" : "odd" },
      });
    }
    const cancelled = await call<Started>("POST", "/v1/workflows/p0/terminate", { reason: "test", by: "me" });
    await world.projection.waitFor(cancelled.json.sequence, 2_000);
    const ids = async (query: string) => {
      const { json } = await call<Page<WorkflowRow>>("GET", `/v1/workflows?${query}`);
      return [json.items.map((row) => row.id), json.next !== null];
    };
    expect(await ids("limit=2")).toEqual([["p4", "p3"], true]);
    const { json } = await call<Page<WorkflowRow>>("GET", "/v1/workflows?limit=2");
    expect(await ids(`limit=5&after=${json.next}`)).toEqual([["p2", "p1", "p0"], false]);
    expect(await ids("attr.side=odd&type=permit")).toEqual([["p3", "p1"], false]);
    expect(await ids("status=terminated")).toEqual([["p0"], false]);
    expect(await refused("GET", "/v1/workflows?status=sleepy")).toEqual([400, "invalid_request"]);
    expect(await refused("GET", "/v1/workflows?limit=0")).toEqual([400, "invalid_request"]);
  });

  it("lists by typed attributes: any of several values, ranges of numbers and of dates", async () => {
    world = await memoryWorld();
    let last = 0;
    for (let n = 0; n < 5; n++) {
      const attributes = {
        n,
        vip: n > 2,
        due: `2026-0${n + 1}-01T00:00:00.000Z`,
        customer: n % 2 === 0 ? 7 : "8",
      };
      const { json } = await call<Started>("POST", "/v1/workflows", { ...external, id: `p${n}`, attributes });
      last = json.sequence;
    }
    await world.projection.waitFor(last, 2_000);
    const ids = async (query: string) => {
      const { json } = await call<Page<WorkflowRow>>("GET", `/v1/workflows?${query}`);
      return json.items.map((row) => row.id).join(" ");
    };
    expect(await ids("attr.customer=7")).toBe("p4 p2 p0");
    expect(await ids("attr.n=1&attr.n=3")).toBe("p3 p1");
    expect(await ids("attr.customer=7&attr.vip=true")).toBe("p4");
    expect(await ids("attr.__proto__=7")).toBe("");
    expect(await ids("attr-min.__proto__=7")).toBe("");
    expect(await ids("attr-min.n=1&attr-max.n=2")).toBe("p2 p1");
    expect(await ids("attr-min.due=2026-04&attr.vip=true")).toBe("p4 p3");
    expect((await call<WorkflowRow>("GET", "/v1/workflows/p3")).json.attributes).toEqual({
      n: 3,
      vip: true,
      due: "2026-04-01T00:00:00.000Z",
      customer: "8",
    });
    const bad = { ...external, attributes: { x: { y: 1 } } };
    expect(await refused("POST", "/v1/workflows", bad)).toEqual([400, "invalid_request"]);
    expect(await refused("GET", "/v1/workflows?attr-min.n=1&attr-min.n=2")).toEqual([400, "invalid_request"]);
    const many = Array.from({ length: 33 }, (_, n) => `attr.k${n}=1`).join("&");
    expect(await refused("GET", `/v1/workflows?${many}`)).toEqual([422, "limit_exceeded"]);
  });

  it("cancels and terminates", async () => {
    world = await memoryWorld();
    await call("POST", "/v1/workflows", { ...external, id: "a" });
    await call("POST", "/v1/workflows", { ...external, id: "b" });
    const { json, status } = await call<Started>("POST", "/v1/workflows/a/cancel", {
      reason: "changed my mind",
    });
    expect(status).toBe(200);
    const row = await call<WorkflowRow>("GET", `/v1/workflows/a?min=${json.sequence}`);
    expect(row.json.message).toContain("changed my mind");
    const end = await call<Started>("POST", "/v1/workflows/b/terminate");
    expect((await call("GET", `/v1/workflows/b?min=${end.json.sequence}`)).json["status"]).toBe("terminated");
    expect(await refused("POST", "/v1/workflows/none/cancel")).toEqual([404, "workflow_not_found"]);
  });

  it("says what is wrong with a request", async () => {
    world = await memoryWorld({ server: { settings: { projectorWaitMs: 50 } } });
    expect(await refused("POST", "/v1/workflows", "{")).toEqual([400, "invalid_json"]);
    expect(await refused("POST", "/v1/workflows", { id: "a" })).toEqual([400, "invalid_request"]);
    expect(await refused("POST", "/v1/workflows", { ...external, colour: "red" })).toEqual([
      400,
      "invalid_request",
    ]);
    expect(await refused("POST", "/v1/workflows", { ...external, id: "no spaces" })).toEqual([
      400,
      "invalid_id",
    ]);
    expect(await refused("POST", "/v1/workflows", { type: "nobody-knows" })).toEqual([
      404,
      "workflow_type_unknown",
    ]);
    expect(await refused("GET", "/v1/workflows/none")).toEqual([404, "workflow_not_found"]);
    expect(await refused("GET", "/v1/workflows/none/events")).toEqual([404, "workflow_not_found"]);
    expect(await refused("GET", "/v1/workflows/no%20spaces")).toEqual([400, "invalid_id"]);
    expect(await refused("GET", "/v1/workflows/%E0%A4%A")).toEqual([400, "invalid_request"]);
    expect(await refused("GET", "/v1/workflows/a?min=x")).toEqual([400, "invalid_request"]);
    expect(await refused("GET", "/nowhere")).toEqual([404, "route_unknown"]);
    expect(await refused("GET", "/v1/stream")).toEqual([400, "invalid_request"]);
    expect((await call<Problem>("GET", "/v1/stream")).json.detail).toContain('subprotocol "millrace.v1"');
    expect((await call<Problem>("GET", "/api/workflows/a/updates")).json.detail).toContain("is a WebSocket");
    expect(await refused("DELETE", "/v1/workflows/a")).toEqual([405, "method_not_allowed"]);
    expect((await call("DELETE", "/v1/workflows/a")).headers.get("allow")).toBe("GET");
    expect(await refused("GET", "/v1/workflows/a?min=9")).toEqual([503, "projector_behind"]);
    expect((await call("GET", "/v1/workflows/a?min=9")).headers.get("retry-after")).toBe("1");
  });

  it("takes no array for an object, and no query that says two things", async () => {
    world = await memoryWorld();
    await call("POST", "/v1/workflows", { ...external, id: "a" });
    const wrong: readonly (readonly [string, string, unknown])[] = [
      ["POST", "/v1/workflows/a/cancel", []],
      ["POST", "/v1/workflows/a/steps/check/begin", []],
      ["POST", "/v1/workflows", { ...external, attributes: ["x"] }],
      ["GET", "/v1/workflows?type=permit&type=order", undefined],
      ["GET", "/v1/workflows?attr-min.k=1&attr-min.k=2", undefined],
      ["GET", "/v1/workflows?limit=1&limit=2", undefined],
      ["GET", "/v1/workflows/a?at=1&at=2", undefined],
      ["GET", "/v1/workflows/a/events?after=1&after=2", undefined],
    ];
    for (const [method, path, body] of wrong)
      expect([path, ...(await refused(method, path, body))]).toEqual([path, 400, "invalid_request"]);
    expect(await refused("GET", "/v1/workflows?type=no%20spaces")).toEqual([400, "invalid_id"]);
    expect((await call<WorkflowRow>("GET", "/v1/workflows/a?min=1")).json).toMatchObject({
      status: "running",
      steps: [],
    });
  });

  it("a body too deep to be written again: 422 with limit and actual depth", async () => {
    world = await memoryWorld();
    const deep = (levels: number) =>
      `{"type":"permit","driver":"external","input":${"[".repeat(levels)}${"]".repeat(levels)}}`;
    expect((await call("POST", "/v1/workflows", deep(255))).status).toBe(201);
    for (const levels of [256, 400_000]) {
      const { status, json } = await call<Problem>("POST", "/v1/workflows", deep(levels));
      expect([status, json.code, json["limit"], json["actual"]]).toEqual([
        422,
        "limit_exceeded",
        256,
        levels + 1,
      ]);
    }
  });

  it("a history of a run that there is not is 404, also behind a cursor; its end is an empty page", async () => {
    world = await memoryWorld();
    await call("POST", "/v1/workflows", { ...external, id: "a" });
    await world.projection.waitFor(1, 2_000);
    expect(await refused("GET", "/v1/workflows/none/events?after=0")).toEqual([404, "workflow_not_found"]);
    expect((await call("GET", "/v1/workflows/a/events?after=1")).json).toEqual({ items: [], next: null });
    const { status, json } = await call<Problem>("GET", "/v1/workflows/a?at=0");
    expect([status, json.detail]).toEqual([404, expect.stringContaining("at sequence 0: it starts later")]);
  });

  it("cuts the message of a step's or a run's error, and takes the same failure again", async () => {
    world = await memoryWorld();
    await call("POST", "/v1/workflows", { ...external, id: "a" });
    const begun = await call<Begun>("POST", "/v1/workflows/a/steps/check/begin", {});
    const error = { message: "m".repeat(50_000) };
    await call("POST", "/v1/workflows/a/steps/check/fail", { token: begun.json.token, error });
    const failed = await call<Started>("POST", "/v1/workflows/a/fail", { error });
    const again = await call<Started>("POST", "/v1/workflows/a/fail", { error });
    expect([again.status, again.json.sequence]).toEqual([200, failed.json.sequence]);
    const { json } = await call<WorkflowRow>("GET", `/v1/workflows/a?min=${failed.json.sequence}`);
    expect(json.error?.message).toBe("m".repeat(2_000));
    const history = await call<Page<EventRow>>("GET", "/v1/workflows/a/events");
    expect(JSON.stringify(history.json).length).toBeLessThan(6_000);
  });

  it("says when the next attempt is in ISO 8601, as everywhere", async () => {
    world = await memoryWorld();
    await call("POST", "/v1/workflows", { ...external, id: "a" });
    const begun = await call<Begun>("POST", "/v1/workflows/a/steps/check/begin", {});
    const failed = await call<{ nextAttemptAt: string }>("POST", "/v1/workflows/a/steps/check/fail", {
      token: begun.json.token,
      error: { message: "no" },
    });
    const waiting = await call("POST", "/v1/workflows/a/steps/check/begin", {});
    expect(failed.json.nextAttemptAt).toMatch(/^\d{4}-.*Z$/);
    expect(waiting.json).toMatchObject({ outcome: "wait", until: failed.json.nextAttemptAt });
  });

  it("a body over the limit: 413 with limit and actual size", async () => {
    world = await memoryWorld();
    const { status, json } = await call<{ actual: number }>("POST", "/v1/workflows", {
      ...external,
      input: "x".repeat(1_100_000),
    });
    expect(status).toBe(413);
    expect(json).toMatchObject({ code: "body_too_large", limit: 1_048_576 });
    expect(json.actual).toBeGreaterThan(1_100_000);
  });

  it("the broker away in the middle of a request: 503 with Retry-After, then it works again", async () => {
    const starting = memoryWorld();
    world = await starting;
    await call("POST", "/v1/workflows", { ...external, id: "a" });
    starting.broker.disconnect();
    const { status, headers, json } = await call<Problem>("POST", "/v1/workflows", { ...external, id: "b" });
    expect(status).toBe(503);
    expect(headers.get("retry-after")).toBe("1");
    expect(json["retryable"]).toBe(true);
    expect((await call("GET", "/v1/workflows/a")).status).toBe(200);
    starting.broker.reconnect();
    expect((await call("POST", "/v1/workflows", { ...external, id: "b" })).status).toBe(201);
  });

  it("a client that goes away in the middle of its body hurts nobody", async () => {
    world = await memoryWorld();
    const socket = connectSocket(world.server.port, "127.0.0.1");
    await new Promise<void>((resolve) => socket.once("connect", resolve));
    socket.write('POST /v1/workflows HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{"type"');
    socket.destroy();
    expect((await call("GET", "/healthz")).json).toEqual({ alive: true });
    const gone = /status="499"\} 1/;
    await vi.waitFor(async () => expect((await call("GET", "/metrics")).text).toMatch(gone), 2_000);
  });

  it("keeps the connection after HEAD", async () => {
    world = await memoryWorld();
    const socket = connectSocket(world.server.port, "127.0.0.1");
    let text = "";
    socket.on("data", (chunk: Buffer) => (text += chunk.toString()));
    const closed = new Promise<void>((resolve) => socket.once("close", () => resolve()));
    socket.write("HEAD /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
    await vi.waitFor(() => expect(text).toMatch(/Content-Length: 14\r\n[^]*\r\n\r\n$/), 2_000);
    socket.write("GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    await vi.waitFor(() => expect(text).toMatch(/\r\n\r\n\{"alive":true\}$/), 2_000);
    expect(text.match(/200 OK/g)).toHaveLength(2);
    socket.destroy();
    await closed;
  });

  it("answers health, readiness, metrics, HEAD, and what is here", async () => {
    world = await memoryWorld();
    await call("POST", "/v1/workflows", { ...external, id: "a" });
    expect((await call("GET", "/readyz")).json).toMatchObject({ ready: true });
    const metrics = await call("GET", "/metrics");
    expect(metrics.headers.get("content-type")).toContain("text/plain");
    expect(metrics.text).toMatch(
      /millrace_http_requests_total\{method="POST",route="\/v1\/workflows",status="201"\} 1/,
    );
    for (const name of [
      "connections",
      "subscriptions",
      "buffered_bytes",
      "ring_span_seconds",
      "tail_lag",
      "projector_lag",
    ]) {
      expect(metrics.text).toContain(`# TYPE millrace_${name} gauge`);
    }
    expect((await call("GET", "/")).json["paths"]).toContain("POST /v1/workflows/{id}/steps/{step}/begin");
    const head = await fetch(`${world.server.url}/healthz`, { method: "HEAD" });
    expect([head.status, head.headers.get("content-length"), await head.text()]).toEqual([200, "14", ""]);
  });

  it("tells of the fleet: live workers, their shards, and what is hosted", async () => {
    world = await memoryWorld();
    expect((await call<Fleet>("GET", "/v1/fleet")).json).toEqual({ sessions: [], groups: [], hosted: [] });
    const greet = defineWorkflow({ type: "greet", version: "2" }, (ctx) => ctx.step("s", () => 1));
    const worker = await world.millrace.worker({ workflows: [greet], group: "greeters" });
    const { status, json: fleet } = await call<Fleet>("GET", "/v1/fleet");
    expect(status).toBe(200);
    const workflows = [{ type: "greet", version: "2" }];
    expect(fleet.groups).toEqual([
      { group: "greeters", sessions: 1, shardsHeld: 64, shardsTotal: 64, workflows },
    ]);
    expect(fleet.sessions).toMatchObject([
      { session: worker.session, group: "greeters", pid: process.pid, draining: false, workflows },
    ]);
    expect(fleet.sessions[0]?.shards).toHaveLength(64);
    expect(fleet.hosted).toEqual([{ type: "greet", version: "2", group: "greeters", sessions: 1 }]);
    await worker.drain();
    expect((await call<Fleet>("GET", "/v1/fleet")).json.hosted).toEqual([]);
  });

  it("is not ready when the projector is too far behind", async () => {
    world = await memoryWorld({ project: false, server: { settings: { readyLagMax: 1 } } });
    await call("POST", "/v1/workflows", { ...external, id: "a" });
    expect((await call("GET", "/readyz")).status).toBe(200);
    await call("POST", "/v1/workflows", { ...external, id: "b" });
    const { status, json } = await call<Problem>("GET", "/readyz");
    expect(status).toBe(503);
    expect(json.detail).toContain("2 commits behind, the limit is 1");
  });

  it("refuses a stream without the subprotocol with 400", async () => {
    world = await memoryWorld();
    const socket = new WebSocket(`${world.server.url.replace("http", "ws")}/v1/stream`, "other.v9");
    socket.on("error", () => undefined);
    const [status, body] = await new Promise<[number, string]>((resolve) => {
      socket.on("unexpected-response", (_request, response) => {
        let text = "";
        response.on("data", (chunk: Buffer) => (text += chunk.toString()));
        response.on("end", () => resolve([response.statusCode ?? 0, text]));
      });
    });
    expect(status).toBe(400);
    expect(JSON.parse(body)).toMatchObject({
      code: "subprotocol_missing",
      detail: expect.stringContaining("millrace.v1"),
    });
  });

  it("a port in use: says which, and what to do", async () => {
    world = await memoryWorld();
    const { port } = world.server;
    await expect(world.startServer({ port })).rejects.toMatchObject({
      code: "port_in_use",
      message: expect.stringContaining(`127.0.0.1:${port}`),
      details: { host: "127.0.0.1", port },
    });
  });
});
