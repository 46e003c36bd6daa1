/**
 * The verification list of the design record that Millrace grew from, one test each, named after it: plain updates of
 * one workflow on `ws://…/api/workflows/{id}/updates`, and what the record asks of a client that reconnects.
 */
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { createClient } from "@millrace/client";
import { openEventLog, type EventLog, type StoredCommit } from "@millrace/event-log";
import { evolveCommit, initialRunState, toUpdate, type WorkflowUpdate } from "@millrace/schemas";
import { WebSocket } from "ws";
import { compareStreams, noFaults } from "./compare-streams.ts";
import { CuttingProxy } from "./cutting-proxy.ts";
import { eventually, within } from "./deadline.ts";
import { driveCase, type ExternalCase } from "./external-driver.ts";
import { HttpApi } from "./http-api.ts";
import { MillraceProcess } from "./millrace-process.ts";
import { eventLine, expectedEvents } from "./read-log.ts";
import { Signal } from "./signal.ts";
import { temporaryFolder, type TemporaryFolder } from "./temporary-folder.ts";
import { UpdatesClient } from "./updates-client.ts";

let folder: TemporaryFolder;
let server: MillraceProcess;
let log: EventLog;
let api: HttpApi;
let url: string;

beforeAll(async () => {
  folder = await temporaryFolder();
  server = await MillraceProcess.start([
    "dev",
    "--data",
    join(folder.path, "data"),
    "--port",
    "0",
    "--examples",
  ]);
  url = server.ready.url;
  api = new HttpApi(url);
  log = await openEventLog({ servers: server.ready.natsUrl, namespace: server.ready.namespace });
});

afterAll(async () => {
  await log?.close();
  await server?.stop();
  await folder?.remove();
});

function caseOf(id: string, names: readonly string[]): ExternalCase {
  const steps = names.map((step) => ({ step, output: { of: step }, failures: 0 }));
  return { id, type: "build", input: { id }, steps, output: { done: names.length } };
}

async function startCase({ id, type, input, steps }: ExternalCase): Promise<void> {
  await api.mustPost("/v1/workflows", {
    type,
    id,
    input,
    driver: "external",
    steps: steps.map(({ step }) => step),
  });
}

/** What the log says that a subscriber is to get: one update per commit. */
async function updatesOf(id: string): Promise<WorkflowUpdate[]> {
  const state = initialRunState(id, "");
  return (await log.load(id)).map((commit: StoredCommit) => toUpdate(evolveCommit(state, commit)));
}

async function openUpdateSockets(): Promise<number> {
  const text = await (await fetch(`${url}/metrics`)).text();
  return Number(/^millrace_connections\{[^}]*kind="updates"[^}]*\} (\d+)$/m.exec(text)?.[1]);
}

test("test_broadcast_basic", async () => {
  const one = caseOf("basic", ["fetch", "compile"]);
  await startCase(one);
  const client = await UpdatesClient.open(url, one.id);
  await client.until("the present update", ({ updates }) => updates.length === 1);
  await driveCase(api, one);
  await client.untilStatus("completed");

  expect(client.updates).toEqual(await updatesOf(one.id));
  expect(
    client.updates.map((each) => [each.status, each.current_step, each.total_steps, each.message]),
  ).toEqual([
    ["running", 0, 2, "Workflow started"],
    ["running", 1, 2, "Step fetch started"],
    ["running", 1, 2, "Step fetch completed"],
    ["running", 2, 2, "Step compile started"],
    ["running", 2, 2, "Step compile completed"],
    ["completed", 2, 2, "Workflow completed"],
  ]);
  const fields = ["workflow_id", "status", "current_step", "total_steps", "message", "timestamp", "sequence"];
  for (const frame of client.frames) {
    const parsed = JSON.parse(frame) as Record<string, unknown>;
    expect(Object.keys(parsed)).toEqual(fields);
    expect(parsed["workflow_id"]).toBe("basic");
    expect(parsed["timestamp"]).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
  }
  client.close();
});

test("test_broadcast_multiple_subscribers", async () => {
  const one = caseOf("many", ["a", "b", "c"]);
  await startCase(one);
  const clients = await Promise.all(Array.from({ length: 10 }, () => UpdatesClient.open(url, one.id)));
  await Promise.all(
    clients.map((client) => client.until("the present update", ({ updates }) => updates.length === 1)),
  );
  await driveCase(api, one);
  await Promise.all(clients.map((client) => client.untilStatus("completed")));
  const expected = await updatesOf(one.id);
  expect(expected).toHaveLength(8);
  for (const client of clients) expect(client.updates).toEqual(expected);
  for (const client of clients) client.close();
});

test("test_broadcast_filtering", async () => {
  const cases = ["first", "second", "third"].map((id) => caseOf(`filtering-${id}`, ["a", "b"]));
  const clients = await Promise.all(
    cases.map(async (each) => {
      await startCase(each);
      return await UpdatesClient.open(url, each.id);
    }),
  );
  // Interleaved: what is driven at once is what could be mixed up.
  await Promise.all(cases.map((each) => driveCase(api, each)));
  for (const [index, client] of clients.entries()) {
    const id = cases[index]?.id ?? "";
    await client.untilStatus("completed");
    expect(new Set(client.updates.map(({ workflow_id }) => workflow_id))).toEqual(new Set([id]));
    expect(client.updates).toEqual((await updatesOf(id)).slice(-client.updates.length));
    expect(client.updates.length).toBeGreaterThanOrEqual(5);
    client.close();
  }
});

test("test_websocket_full_lifecycle", async () => {
  const before = await openUpdateSockets();
  // Before there is a workflow of that id: the first update comes with its start.
  const client = await UpdatesClient.open(url, "lifecycle");
  expect(await openUpdateSockets()).toBe(before + 1);
  await api.mustPost("/v1/workflows", {
    type: "hello",
    id: "lifecycle",
    input: { name: "Ada", stepMs: 100 },
  });
  client.ping();
  await client.until("a pong", ({ pongs }) => pongs === 1);
  await client.untilStatus("completed");

  expect(client.updates).toEqual(await updatesOf("lifecycle"));
  expect(client.updates[0]).toMatchObject({ status: "running", total_steps: 3 });
  expect(client.updates.map(({ message }) => message)).toEqual(
    expect.arrayContaining(["Composing", "Delivering", "Workflow completed"]),
  );
  const steps = client.updates.map(({ current_step }) => current_step);
  expect(steps).toEqual(steps.toSorted((one, other) => one - other));
  expect(client.updates.at(-1)).toMatchObject({ current_step: 3, total_steps: 3 });

  client.close();
  await client.until("the close", ({ closed }) => closed !== null);
  expect(client.closed?.code).toBe(1005);
  await eventually(
    "the server has let go of the socket",
    10_000,
    async () => (await openUpdateSockets()) === before,
  );
});

test("test_websocket_disconnection_handling", async () => {
  const before = await openUpdateSockets();
  const one = caseOf("disconnects", ["a", "b", "c", "d"]);
  await startCase(one);
  const [stays, leaves] = await Promise.all([
    UpdatesClient.open(url, one.id),
    UpdatesClient.open(url, one.id),
  ]);
  await leaves.until("the present update", ({ updates }) => updates.length === 1);
  const half = { ...one, steps: one.steps.slice(0, 2) };
  for (const { step } of half.steps) {
    const path = `/v1/workflows/${one.id}/steps/${step}`;
    const { token } = await api.mustPost(`${path}/begin`, {});
    await api.mustPost(`${path}/complete`, { token, output: { of: step } });
  }
  await leaves.until("the updates of two steps", ({ updates }) => updates.length === 5);
  leaves.cut();
  await eventually("the server has noticed", 10_000, async () => (await openUpdateSockets()) === before + 1);

  await driveCase(api, one);
  await stays.untilStatus("completed");
  const expected = await updatesOf(one.id);
  expect(stays.updates).toEqual(expected);
  // It comes back with the last sequence that it saw, and has missed nothing.
  const back = await UpdatesClient.open(url, one.id, leaves.sequences.at(-1));
  await back.untilStatus("completed");
  expect([...leaves.updates, ...back.updates]).toEqual(expected);
  stays.close();
  back.close();
  await eventually("no socket is left", 10_000, async () => (await openUpdateSockets()) === before);
});

test("test_websocket_concurrent_connections", async () => {
  const before = await openUpdateSockets();
  const cases = Array.from({ length: 10 }, (_, number) => caseOf(`concurrent-${number}`, ["a", "b", "c"]));
  await Promise.all(cases.map((each) => startCase(each)));
  const clients = await Promise.all(
    cases.flatMap(({ id }) => Array.from({ length: 20 }, () => UpdatesClient.open(url, id))),
  );
  expect(await openUpdateSockets()).toBe(before + 200);
  await Promise.all(
    clients.map((client) => client.until("the present update", ({ updates }) => updates.length === 1)),
  );
  await Promise.all(cases.map((each) => driveCase(api, each)));
  await Promise.all(clients.map((client) => client.untilStatus("completed")));
  for (const [index, { id }] of cases.entries()) {
    const expected = await updatesOf(id);
    expect(expected).toHaveLength(8);
    for (const client of clients.slice(index * 20, (index + 1) * 20))
      expect(client.updates).toEqual(expected);
  }
  for (const client of clients) client.close();
  await eventually("no socket is left", 20_000, async () => (await openUpdateSockets()) === before);
});

test("test_reconnect_with_backoff", async () => {
  const proxy = await CuttingProxy.start(url);
  const one = caseOf("reconnects", ["a", "b", "c", "d", "e"]);
  await startCase(one);
  const received: string[] = [];
  const changed = new Signal();
  const client = createClient({
    url: `ws://127.0.0.1:${proxy.port}`,
    WebSocket,
    backoff: { minMs: 100, maxMs: 1_000 },
    // The longest wait that jitter allows, so that it can be measured.
    random: () => 1 - Number.EPSILON,
  });
  let failure: unknown = null;
  const subscribed = client.subscribe(
    { workflow: [one.id] },
    {
      from: "start",
      onEvent: ({ sequence, workflowId, type, data }) => {
        received.push(eventLine(sequence, workflowId, type, data));
        changed.fire();
      },
      onError: (error) => {
        failure = error;
        changed.fire();
      },
    },
  );
  try {
    await within(
      "the first event",
      20_000,
      changed.until(() => received.length === 1),
    );
    proxy.down = true;
    const cutAt = performance.now();
    proxy.cutAll();
    const driving = driveCase(api, one);
    await eventually(
      "six attempts in vain",
      30_000,
      () => proxy.attempts.filter((at) => at > cutAt).length >= 6,
    );
    await driving;
    proxy.down = false;
    const expected = expectedEvents(await log.load(one.id), {});
    await within(
      "the rest",
      20_000,
      changed.until(() => received.length >= expected.length || failure !== null),
    );

    expect(failure).toBeNull();
    expect(compareStreams(expected, received)).toEqual(noFaults);
    expect(client.stats).toMatchObject({ gaps: 0, duplicates: 0, reconnects: 1 });
    const times = [cutAt, ...proxy.attempts.filter((at) => at > cutAt)];
    const waits = times.slice(1).map((at, index) => at - (times[index] ?? 0));
    // Doubled each time up to the longest; a timer may be late, never early (but for its rounding).
    for (const [index, least] of [100, 200, 400, 800, 1_000, 1_000].entries()) {
      expect(waits[index], `wait ${index + 1} of ${waits.map(Math.round).join()}`).toBeGreaterThan(least - 5);
    }
  } finally {
    subscribed.close();
    client.close();
    await proxy.close();
  }
});

test("test_latency_under_100_ms", async () => {
  const one = caseOf(
    "latency",
    Array.from({ length: 100 }, (_, number) => `step ${number}`),
  );
  await startCase(one);
  const clients = await Promise.all(Array.from({ length: 5 }, () => UpdatesClient.open(url, one.id)));
  await Promise.all(
    clients.map((client) => client.until("the present update", ({ updates }) => updates.length === 1)),
  );
  await driveCase(api, one);
  await Promise.all(clients.map((client) => client.untilStatus("completed")));

  // From stored (the broker's time) to received; the first update tells of the past.
  const latenciesMs = clients
    .flatMap(({ updates, receivedAt }) =>
      updates.map(({ timestamp }, index) => (receivedAt[index] ?? Infinity) - Date.parse(timestamp)).slice(1),
    )
    .toSorted((less, more) => less - more);
  const at = (share: number) => latenciesMs[Math.floor((latenciesMs.length - 1) * share)] ?? Number.NaN;
  const figures = `p50 ${at(0.5)} ms, p95 ${at(0.95)} ms, p99 ${at(0.99)} ms, max ${at(1)} ms`;
  process.stdout.write(`latency of ${latenciesMs.length} updates: ${figures}\n`);
  expect(latenciesMs).toHaveLength(clients.length * 201);
  expect(at(0.95), figures).toBeLessThan(100);
  for (const client of clients) client.close();
});
