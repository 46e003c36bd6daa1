/**
 * `npm run bench`: all figures, in `bench/RESULTS.md` and, with `--json`, as one JSON object on the last line.
 * `npm run bench -- --only waits`: the figures of what waits alone, as JSON; no file is written.
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { cpus, tmpdir, totalmem } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { startBroker } from "@millrace/event-log/broker";
import { benchAppend } from "./append.ts";
import { benchDelivery, benchResume } from "./delivery.ts";
import { benchProjector } from "./projector.ts";
import { renderResults, type Figures } from "./render-results.ts";
import { benchTakeOver } from "./take-over.ts";
import { benchTasks } from "./tasks.ts";
import { benchWaits } from "./waits.ts";
import { benchWorkflows } from "./workflows.ts";

const { values } = parseArgs({
  options: {
    json: { type: "boolean", default: false },
    durability: { type: "string", default: "default" },
    only: { type: "string" },
  },
});
const durability = values.durability === "fsync" ? "fsync" : "default";
const folder = mkdtempSync(join(tmpdir(), "millrace-bench-"));
const say = (text: string): void => void process.stderr.write(`${text}\n`);

const broker = await startBroker({ dataDir: folder, durability, onProgress: say });
try {
  if (values.only === undefined) await benchAll();
  else if (values.only === "waits")
    process.stdout.write(`${JSON.stringify(await benchWaits(broker.url, "waits"))}\n`);
  else throw new Error(`--only ${values.only}: expected waits.`);
} finally {
  await broker.stop();
  rmSync(folder, { recursive: true, force: true });
}

async function benchAll(): Promise<void> {
  say("Appending…");
  const append = await benchAppend(broker.url, "append");
  say("Running three-step workflows…");
  const workflows = await benchWorkflows(broker.url, "workflows");
  say("Doing tasks…");
  const tasks = await benchTasks(broker.url, "tasks");
  say("Waiting…");
  const waits = await benchWaits(broker.url, "waits");
  say("Projecting…");
  const projector = await benchProjector(broker.url, "projector", folder);
  say("Taking runs over…");
  const takeOver = [
    await benchTakeOver(broker.url, "take-over-waiting", "waiting", 10_000),
    await benchTakeOver(broker.url, "take-over-working", "working", 10_000),
  ] as const;
  const delivery = [];
  for (const subscribers of [1, 100, 1_000]) {
    say(`Delivering to ${subscribers}…`);
    delivery.push(await benchDelivery(broker.url, folder, subscribers));
  }
  say("Resuming…");
  const resume = await benchResume(broker.url, folder, 10_000);
  const figures: Figures = {
    date: new Date().toISOString().slice(0, 10),
    machine: `${cpus()[0]?.model.trim() ?? "unknown CPU"}, ${cpus().length} cores, ${Math.round(totalmem() / 2 ** 30)} GiB, ${process.platform}, Node ${process.version}, nats-server ${broker.version}`,
    durability,
    append,
    workflows,
    tasks,
    waits,
    projector,
    takeOver,
    delivery,
    resume,
  };
  const results = renderResults(figures);
  if (durability === "default")
    writeFileSync(fileURLToPath(new URL("../RESULTS.md", import.meta.url)), results);
  process.stdout.write(results);
  if (values.json) {
    process.stdout.write(
      `${JSON.stringify({
        appendLeanPerS: append.leanPerS,
        appendJsPublishPerS: append.jsPublishPerS,
        workflows3PerS: workflows.throughput.perS,
        p50MsC1: workflows.c1.p50Ms,
        p99MsC1: workflows.c1.p99Ms,
        p50MsC100: workflows.c100.p50Ms,
        p99MsC100: workflows.c100.p99Ms,
        tasksPerS: tasks.onePerS,
        tasksTenPerRunPerS: tasks.tenPerS,
        taskP50Ms: tasks.p50Ms,
        taskP99Ms: tasks.p99Ms,
        timersPerS: waits.timersPerS,
        timerLateP99Ms: waits.lateP99Ms,
        signalsPerS: waits.signalsPerS,
        parkedRunBytes: waits.parkedBytes,
        projectorEventsPerS: projector.eventsPerS,
        rawSqliteRowsPerS: projector.rawRowsPerS,
        takeOver10kWaitingMs: takeOver[0].takeOverMs,
        takeOver10kWorkingMs: takeOver[1].takeOverMs,
        delivery1P99Ms: delivery[0]?.p99Ms,
        delivery100P99Ms: delivery[1]?.p99Ms,
        delivery1000P50Ms: delivery[2]?.p50Ms,
        delivery1000P99Ms: delivery[2]?.p99Ms,
        resume10kMs: resume.sqliteMs,
        resume10kFromRingMs: resume.ringMs,
        durability,
      })}\n`,
    );
  }
}
