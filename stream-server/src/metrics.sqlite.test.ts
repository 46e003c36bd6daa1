import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { createMemoryLog, createMemoryServer, type EventLog } from "@millrace/event-log";
import { WebSocket } from "ws";
import { afterEach, describe, expect, it } from "vitest";
import { TailLag } from "./operator-gauges.ts";
import { memoryWorld, progress, started, startWorld, type World } from "./testing/world.ts";

let world: World;
afterEach(async () => {
  await world.close();
});

/** Values by series, as `name{labels}`. */
async function scrape(url = world.server.url): Promise<Map<string, number>> {
  const values = new Map<string, number>();
  for (const line of (await (await fetch(`${url}/metrics`)).text()).split("\n")) {
    if (line === "" || line.startsWith("#")) continue;
    const at = line.lastIndexOf(" ");
    values.set(line.slice(0, at), Number(line.slice(at + 1)));
  }
  return values;
}
const deadline = { timeout: 10_000 };
const valueOf = async (series: string) => (await scrape()).get(series);

describe("metrics", () => {
  it("count a resume, what it was sent, from which source, and why a subscription went live", async () => {
    world = await memoryWorld({ server: { settings: { commitsMax: 3 } } });
    for (let n = 0; n < 6; n++) await world.append(`r${n}`, "order", [started(), progress("begun")]);
    await world.projection.waitFor(6, 2_000);
    const first = await scrape();
    expect(first.get('millrace_resumes_total{result="ok"}')).toBe(0);
    expect(first.get('millrace_catchup_reads_total{source="projection"}')).toBe(0);
    const client = await world.client();
    const welcome = client.frames[0];
    client.subscribe({ i: 1, from: `${welcome?.t === "welcome" ? welcome.e : ""}.0` });
    await client.next("live");
    const values = await scrape();
    expect(values.get('millrace_resumes_total{result="ok"}')).toBe(1);
    expect(values.get('millrace_promotions_total{reason="start"}')).toBe(1);
    expect(values.get('millrace_resumed_events_sum{reason="start"}')).toBe(12);
    expect(values.get('millrace_resumed_events_count{reason="start"}')).toBe(1);
    expect(values.get('millrace_catchup_reads_total{source="projection"}')).toBeGreaterThan(0);
    expect(values.get('millrace_events_total{type="WorkflowStarted"}')).toBe(6);
    expect(values.get('millrace_connections{kind="millrace.v1",transport="websocket"}')).toBe(1);
    expect(values.get("millrace_catchup_lag")).toBe(0);
    expect(values.get("millrace_tail_up")).toBe(1);
  });

  it("say how far the projector is behind, in commits and seconds", async () => {
    world = await memoryWorld();
    await world.projector.stop();
    await world.append("a", "order", [started()]);
    await expect.poll(() => valueOf("millrace_projector_lag"), deadline).toBe(1);
    await expect.poll(() => valueOf("millrace_projector_lag_seconds"), deadline).toBeGreaterThan(0.01);
    await world.projector.start();
    await expect.poll(() => valueOf("millrace_projector_lag_seconds"), deadline).toBe(0);
  });

  it("say for how long the tail has not delivered what the broker has", async () => {
    world = await startWorld({ log: withStalledTail(createMemoryLog({ server: createMemoryServer() })) });
    await world.append("a", "order", [started()]);
    expect((await scrape()).get("millrace_tail_lag_seconds")).toBe(0);
    // The broker is asked every 5 s at most: this is the age of what was found then.
    await expect.poll(() => valueOf("millrace_tail_lag_seconds"), deadline).toBeGreaterThan(0.02);
    const lag = new TailLag();
    lag.note(10, 7, 1_000);
    lag.note(20, 9, 4_000);
    expect(lag.seconds(9, 5_000)).toBe(4);
    expect(lag.seconds(10, 5_000)).toBe(0);
    lag.note(20, 10, 6_000);
    expect(lag.seconds(19, 7_000)).toBe(1);
  });

  it("show nothing of the broker, and that it is away, when it does not answer", async () => {
    const log = createMemoryLog();
    let away = false;
    const info = log.info.bind(log);
    world = await startWorld({
      log: Object.assign(Object.create(log) as EventLog, {
        info: () => (away ? new Promise<never>(() => undefined) : info()),
      }),
    });
    away = true;
    const values = await scrape();
    expect(values.get("millrace_broker_up")).toBe(0);
    expect(values.has("millrace_log_last_sequence")).toBe(false);
    expect(values.has('millrace_connections{kind="updates",transport="websocket"}')).toBe(true);
  });

  it("measure pings of a connection that has been there for a heartbeat", async () => {
    world = await memoryWorld({ server: { settings: { heartbeatMs: 40 } } });
    const socket = new WebSocket(`${world.server.url.replace("http", "ws")}/v1/stream`, "millrace.v1");
    await new Promise((resolve) => socket.once("open", resolve));
    await expect.poll(() => valueOf("millrace_ping_round_trip_seconds_count"), deadline).toBeGreaterThan(1);
    socket.terminate();
  });

  it("give the process's own, once, however many servers run in it", async () => {
    world = await memoryWorld();
    const other = await world.startServer();
    for (const values of [await scrape(), await scrape(other.url)]) {
      expect(values.get("process_cpu_seconds_total")).toBeGreaterThan(0);
      expect(values.get("nodejs_heap_size_used_bytes")).toBeGreaterThan(1_000_000);
      expect([...values.keys()].filter((name) => name === "process_resident_memory_bytes")).toHaveLength(1);
    }
  });

  it("are those of the guide's table: name, kind, labels", async () => {
    world = await memoryWorld();
    const client = await world.client();
    client.subscribe({ i: 1 });
    await client.next("live");
    const text = await (await fetch(`${world.server.url}/metrics`)).text();
    const guide = await readFile(
      fileURLToPath(new URL("../../docs/guides/monitoring.md", import.meta.url)),
      "utf8",
    );
    const told = new Map<string, { readonly kind: string; readonly labels: string }>();
    for (const [, name = "", kind = "", labels = ""] of guide.matchAll(
      /^\| `(millrace_\w+)`\s*\| (counter|gauge|histogram)\s*\|([^|]*)\|/gm,
    )) {
      told.set(name, { kind, labels: [...labels.matchAll(/\w+/g)].map(String).sort().join() });
    }
    const kinds = new Map(
      [...text.matchAll(/^# TYPE (millrace_\S+) (\w+)$/gm)].map(([, name = "", kind = ""]) => [name, kind]),
    );
    expect([...told].map(([name, { kind }]) => `${name} ${kind}`).sort()).toEqual(
      [...kinds].map(([name, kind]) => `${name} ${kind}`).sort(),
    );
    for (const [, series = "", labels = ""] of text.matchAll(/^(millrace_\w+)(?:\{(.*)\})? /gm)) {
      const name = kinds.has(series) ? series : series.replace(/_(bucket|sum|count)$/, "");
      const shown = [...labels.matchAll(/(\w+)="/g)].map(([, label = ""]) => label);
      expect(
        `${name} ${shown
          .filter((label) => label !== "le")
          .sort()
          .join()}`,
      ).toBe(`${name} ${told.get(name)?.labels}`);
    }
  });
});

/** A log whose followers get nothing. */
function withStalledTail(log: EventLog): EventLog {
  return Object.assign(Object.create(log) as EventLog, {
    follow: (options: Parameters<EventLog["follow"]>[0]) =>
      log.follow({ ...options, onCommit: () => undefined }),
  });
}
