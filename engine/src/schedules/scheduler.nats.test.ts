/** Schedules on a real broker: killed while they fire, and taken over by another worker. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { startBroker, type Broker } from "@millrace/event-log/broker";
import { scheduleType } from "@millrace/schemas";
import { afterAll, beforeAll, expect, test } from "vitest";
import { connect } from "../connect.ts";
import { defineWorkflow } from "../definition.ts";

let broker: Broker;
const dataDir = mkdtempSync(join(tmpdir(), "millrace-schedules-"));

beforeAll(async () => {
  broker = await startBroker({ dataDir });
});

afterAll(async () => {
  await broker.stop();
  rmSync(dataDir, { recursive: true, force: true });
});

const report = defineWorkflow({ type: "report" }, (ctx) => ctx.step("work", () => null));

test("kill -9 of the broker, then a take-over: every second has its run, and one", async () => {
  const namespace = "clock";
  const first = await connect({ servers: broker.url, namespace });
  const second = await connect({ servers: broker.url, namespace });
  const operator = await connect({ servers: broker.url, namespace });
  await first.worker({ workflows: [report] });
  await second.worker({ workflows: [report] });
  const ids = ["a", "b", "c", "d", "e", "f"];
  for (const id of ids)
    await operator.schedules.create(id, { everyMs: 1_000, overlap: "allow", workflow: { type: "report" } });

  const triggered = async (id: string): Promise<number> =>
    operator.schedules.get(id).then(
      ({ counts }) => counts.triggered,
      () => 0,
    );
  const all = async (count: number): Promise<void> => {
    await expect
      .poll(async () => Math.min(...(await Promise.all(ids.map(triggered)))), { timeout: 40_000 })
      .toBeGreaterThanOrEqual(count);
  };

  await all(2);
  process.kill(broker.pid, "SIGKILL");
  await all(5);
  // Shards of the worker that leaves go to the other one.
  await first.close();
  await all(8);
  for (const id of ids) await operator.schedules.pause(id);

  for (const id of ids) {
    const history = await operator.log.load(id);
    expect(history.every(({ type }) => type === scheduleType)).toBe(true);
    const runs = history
      .flatMap(({ events }) => events)
      .flatMap((event) => (event.type === "ScheduleTriggered" ? event.data.runs : []));
    const ticks = runs.map(({ tick }) => tick);
    expect(ticks).toEqual(ticks.map((_, n) => (ticks[0] ?? 0) + n * 1_000));
    for (const run of runs) {
      await operator.handle(run.id).result();
      const types = (await operator.log.load(run.id)).flatMap((commit) =>
        commit.events.map(({ type }) => type),
      );
      expect(types).toEqual(["WorkflowStarted", "StepCompleted", "WorkflowCompleted"]);
    }
  }
  await Promise.all([second.close(), operator.close()]);
}, 120_000);
