/**
 * Three engine processes and two task workers, two thousand runs with steps, tasks, timers, signals and children; every
 * two seconds one process is killed with SIGKILL. Afterwards the log is read from its first commit.
 *
 * Owns: no production code. Which process is killed, and what the runs do, follow from the seed.
 */
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { connect, type Millrace } from "@millrace/engine";
import type { StoredCommit } from "@millrace/event-log";
import { startBroker, type Broker } from "@millrace/event-log/broker";
import { isMillraceError, stepKey, type WorkflowEvent } from "@millrace/schemas";
import { MillraceProcess } from "./millrace-process.ts";
import { readLog, untilClosed } from "./read-log.ts";
import { SeededRandom, testSeed } from "./seeded-random.ts";
import { signalsEach, storm, type StormInput, type StormOutput } from "./storm-workflows.ts";
import { temporaryFolder, type TemporaryFolder } from "./temporary-folder.ts";

const workflowsFile = fileURLToPath(new URL("../dist/test/e2e/storm-workflows.js", import.meta.url));
const taskWorkerFile = fileURLToPath(new URL("../dist/test/e2e/storm-task-worker.js", import.meta.url));
const engineCount = 3;
const taskWorkerCount = 2;
const runCount = 2_000;
const stormMs = 60_000;
const killEveryMs = 2_000;
const allClosedMs = 120_000;

const seed = testSeed();
const why = `MILLRACE_TEST_SEED=${seed}`;

/** Attempts of a step are events of their own. */
function attemptOf(data: object): string {
  return "attempt" in data ? ` attempt ${String(data.attempt)}` : "";
}

describe(`a fleet of which one dies every two seconds (${why})`, () => {
  let folder: TemporaryFolder;
  let broker: Broker;
  let millrace: Millrace;
  let commits: StoredCommit[] = [];
  let kills = 0;
  const engines: MillraceProcess[] = [];
  const taskWorkers: ChildProcess[] = [];
  const inputs = new Map<string, StormInput>();
  const journalFile = () => join(folder.path, "journal.txt");

  beforeAll(async () => {
    const random = new SeededRandom(seed);
    folder = await temporaryFolder();
    writeFileSync(journalFile(), "");
    broker = await startBroker({ dataDir: join(folder.path, "broker") });
    millrace = await connect({ servers: broker.url, namespace: "storm" });
    engines.push(...(await Promise.all(Array.from({ length: engineCount }, startEngine))));
    taskWorkers.push(...(await Promise.all(Array.from({ length: taskWorkerCount }, startTaskWorker))));
    try {
      await Promise.all([killEngines(random.fork()), startRuns(random.fork())]);
      const ids = new Set([...inputs.keys()].flatMap((id) => [id, `${id}-child`]));
      await untilClosed(millrace.log, ids, allClosedMs);
      commits = await readLog(millrace.log);
    } catch (error) {
      const said = engines.map(({ errors }) => errors).join("\n");
      throw new Error(`${why}: ${String(error)}\n${said}`, { cause: error });
    }
  }, 280_000);

  afterAll(async () => {
    for (const { child } of engines) child.kill("SIGKILL");
    for (const child of taskWorkers) child.kill("SIGKILL");
    await Promise.all(engines.map(({ ended }) => ended));
    await millrace?.close();
    await broker?.stop();
    await folder?.remove();
  });

  function startEngine(): Promise<MillraceProcess> {
    return MillraceProcess.start(
      [
        ...["serve", "--parts", "engine", "--namespace", "storm", "--data", join(folder.path, "data")],
        ...["--workflows", workflowsFile, "--lease", "2"],
      ],
      { MILLRACE_NATS_URL: broker.url, MILLRACE_TEST_JOURNAL: journalFile() },
    );
  }

  async function startTaskWorker(): Promise<ChildProcess> {
    const child = spawn(process.execPath, [taskWorkerFile, broker.url, "storm"], {
      env: { ...process.env, MILLRACE_TEST_JOURNAL: journalFile() },
      stdio: ["ignore", "pipe", "inherit"],
    });
    await once(child.stdout, "data");
    return child;
  }

  async function killEngines(random: SeededRandom): Promise<void> {
    const until = Date.now() + stormMs;
    const back: Promise<unknown>[] = [];
    while (Date.now() < until) {
      await delay(killEveryMs);
      if (random.next() < 1 / 4) {
        taskWorkers.shift()?.kill("SIGKILL");
        kills++;
        back.push(startTaskWorker().then((child) => taskWorkers.push(child)));
        continue;
      }
      const [victim] = engines.splice(random.between(0, engines.length - 1), 1);
      if (victim === undefined) continue;
      victim.child.kill("SIGKILL");
      kills++;
      back.push(startEngine().then((engine) => engines.push(engine)));
      // The next one is killed while this one is on its way back, but never the last.
      if (engines.length < 2) await Promise.all(back);
    }
    await Promise.all(back);
  }

  async function startRuns(random: SeededRandom): Promise<void> {
    const sent: Promise<unknown>[] = [];
    for (let n = 0; n < runCount; n++) {
      const id = `storm-${n}`;
      const input = { n, sleepMs: random.between(1, 3_000), stepMs: random.between(0, 40) };
      inputs.set(id, input);
      const handle = await millrace.start(storm, input, { id });
      for (let count = 1; count <= signalsEach; count++) {
        // Each is sent twice under one id, at times that have nothing to do with each other.
        const value = n + count;
        for (const afterMs of [random.between(0, 4_000), random.between(0, 4_000)])
          sent.push(
            delay(afterMs).then(() => sendOnce(() => handle.signal("count", value, { id: `c${count}` }))),
          );
      }
      await delay(stormMs / runCount / 2);
    }
    await Promise.all(sent);
  }

  /** The second one of a signal may find the run closed already. */
  async function sendOnce(send: () => Promise<unknown>): Promise<void> {
    try {
      await send();
    } catch (error) {
      if (!isMillraceError(error, "workflow_closed")) throw error;
    }
  }

  function eventsOf(id: string): WorkflowEvent[] {
    return commits.filter(({ workflowId }) => workflowId === id).flatMap(({ events }) => events);
  }

  it("every run completes with what follows from its input: no signal, timer or child is lost", () => {
    expect(kills).toBeGreaterThanOrEqual(15);
    expect(inputs.size).toBe(runCount);
    const outputs = new Map<string, unknown>();
    for (const { workflowId, events } of commits)
      for (const event of events)
        if (event.type === "WorkflowCompleted") outputs.set(workflowId, event.data.output);
    for (const [id, { n }] of inputs) {
      const expected: StormOutput = {
        steps: 2 * n + 1,
        counted: signalsEach * n + (signalsEach * (signalsEach + 1)) / 2,
        child: n * n,
        task: n * n * n,
        raced: "step",
      };
      expect(outputs.get(id), `${id}, ${why}`).toEqual(expected);
    }
  });

  it("no history forks: each end, step, timer, child and signal stands in it once, and no turn failed", () => {
    const seen = new Map<string, number>();
    for (const { workflowId, events } of commits) {
      for (const { type, data } of events) {
        const what =
          "occurrence" in data
            ? `${stepKey(data.name, data.occurrence)}${type === "StepCompleted" ? "" : attemptOf(data)}`
            : "timer" in data
              ? data.timer
              : "child" in data
                ? data.child
                : type.startsWith("Workflow")
                  ? "run"
                  : null;
        if (what === null) continue;
        const key = `${workflowId} ${type} ${what}`;
        seen.set(key, (seen.get(key) ?? 0) + 1);
      }
    }
    const failed = [...seen.keys()].filter((key) => key.includes("WorkflowTurnFailed"));
    expect(failed, why).toEqual([]);
    const doubled = [...seen].filter(([, times]) => times > 1);
    expect(doubled, why).toEqual([]);
    expect(eventsOf("storm-0").filter(({ type }) => type === "WaitSatisfied")).toHaveLength(signalsEach);
  });

  it("says how many step functions ran twice", () => {
    const calls = readFileSync(journalFile(), "utf8").trim().split("\n");
    const distinct = new Set(calls).size;
    expect(distinct).toBe(5 * runCount);
    process.stdout.write(
      `fleet storm: ${runCount} runs and as many children, ${commits.length} commits, ${kills} kills; ` +
        `${calls.length - distinct} of ${calls.length} step functions ran again (${why})\n`,
    );
    // Only what ran at the moment of a kill may run again.
    expect(calls.length - distinct).toBeLessThan(calls.length / 20);
  });
});
