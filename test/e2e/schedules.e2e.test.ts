/** Schedules over several engine processes, one of which is killed: no second is lost, none has two runs. */
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, it } from "vitest";
import { connect, type Millrace } from "@millrace/engine";
import { startBroker, type Broker } from "@millrace/event-log/broker";
import { shardOf } from "@millrace/schemas";
import { eventually, within } from "./deadline.ts";
import { MillraceProcess } from "./millrace-process.ts";
import { temporaryFolder, type TemporaryFolder } from "./temporary-folder.ts";

const workflowsFile = fileURLToPath(new URL("../dist/test/e2e/fleet-workflows.js", import.meta.url));
const namespace = "clock";
const patienceMs = 60_000;

let folder: TemporaryFolder;
let broker: Broker;
let millrace: Millrace;
const engines = new Set<MillraceProcess>();

beforeAll(async () => {
  folder = await temporaryFolder();
  broker = await startBroker({ dataDir: join(folder.path, "broker") });
  millrace = await connect({ servers: broker.url, namespace });
});
afterAll(async () => {
  for (const { child } of engines) child.kill("SIGKILL");
  await Promise.all([...engines].map(({ ended }) => ended));
  await millrace?.close();
  await broker?.stop();
  await folder?.remove();
});

async function startEngine(): Promise<MillraceProcess> {
  const engine = await MillraceProcess.start(
    [
      ...["serve", "--parts", "engine", "--namespace", namespace, "--data", join(folder.path, "data")],
      ...["--workflows", workflowsFile, "--lease", "2"],
    ],
    { MILLRACE_NATS_URL: broker.url },
  );
  engines.add(engine);
  return engine;
}

it("an engine is killed with kill -9 while it fires: the other takes its schedules over and catches up", async () => {
  const doomed = await startEngine();
  await startEngine();
  await eventually("both have shards", patienceMs, async () => {
    const { sessions } = await millrace.fleet();
    return sessions.length === 2 && sessions.every(({ shards }) => shards.length > 0);
  });
  const ids = Array.from({ length: 16 }, (_, n) => `s-${n}`);
  const ofDoomed =
    (await millrace.fleet()).sessions.find(({ pid }) => pid === doomed.child.pid)?.shards ?? [];
  expect(ids.filter((id) => ofDoomed.includes(shardOf(id, 64))).length).toBeGreaterThan(0);
  for (const id of ids)
    await millrace.schedules.create(id, {
      everyMs: 1_000,
      overlap: "allow",
      workflow: { type: "relay", input: { steps: 1, stepMs: 1 } },
    });
  const allHave = (count: number) =>
    eventually(`${count} runs of each schedule`, patienceMs, async () => {
      const rows = await Promise.all(ids.map((id) => millrace.schedules.get(id)));
      return rows.every(({ counts }) => counts.triggered >= count);
    });
  await allHave(2);
  doomed.child.kill("SIGKILL");
  await allHave(8);
  for (const id of ids) await millrace.schedules.pause(id);

  for (const id of ids) {
    const runs = (await millrace.log.load(id))
      .flatMap(({ events }) => events)
      .flatMap((event) => (event.type === "ScheduleTriggered" ? event.data.runs : []));
    const ticks = runs.map(({ tick }) => tick);
    expect(ticks).toEqual(ticks.map((_, n) => (ticks[0] ?? 0) + n * 1_000));
    for (const run of runs) {
      await within(`${run.id} ends`, patienceMs, millrace.handle(run.id).result());
      const types = (await millrace.log.load(run.id)).flatMap(({ events }) => events.map(({ type }) => type));
      expect(types.filter((type) => type === "WorkflowStarted")).toHaveLength(1);
    }
  }
}, 180_000);
