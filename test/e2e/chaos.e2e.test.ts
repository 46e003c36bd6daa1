/**
 * Load while engine, projector, stream server and broker are killed with SIGKILL, each several times at random points.
 * Afterwards the log is read from its first commit, and everything else is compared with it.
 *
 * Owns: no production code. The broker is run by the launcher in this process, the parts by `millrace dev --split`.
 * The points of the kills and the runs follow from the seed; what is in flight at a kill does not.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openEventLog, type EventLog, type StoredCommit } from "@millrace/event-log";
import { startBroker, type Broker } from "@millrace/event-log/broker";
import { hashProjection, verifyProjection } from "@millrace/projector";
import { expectedOf, type ChaosInput } from "./chaos-workflows.ts";
import { compareStreams, noFaults } from "./compare-streams.ts";
import { eventually, within } from "./deadline.ts";
import { Recorder } from "./recorder.ts";
import { driveCase, type ExternalCase } from "./external-driver.ts";
import { HttpApi } from "./http-api.ts";
import { MillraceProcess } from "./millrace-process.ts";
import { closingStatus, expectedEvents, readLog, untilClosed } from "./read-log.ts";
import { SeededRandom, testSeed } from "./seeded-random.ts";
import { temporaryFolder, type TemporaryFolder } from "./temporary-folder.ts";

const workflowsFile = fileURLToPath(new URL("../dist/test/e2e/chaos-workflows.js", import.meta.url));
const killsOfEach = 3;
const runsMin = 300;
const starters = 2;
const drivers = 4;
const partBackMs = 60_000;
const allClosedMs = 120_000;
const caughtUpMs = 60_000;

const targets = ["engine", "projector", "stream-server", "broker"] as const;
type Target = (typeof targets)[number];

interface CodeRun {
  readonly id: string;
  readonly type: "chain" | "fan" | "hold";
  readonly input: ChaosInput;
}

interface Recorders {
  readonly everything: Recorder;
  readonly chains: Recorder;
}

const seed = testSeed();
const why = `MILLRACE_TEST_SEED=${seed}`;

describe(`kill -9 of every part under load (${why})`, () => {
  let folder: TemporaryFolder;
  let broker: Broker;
  let server: MillraceProcess;
  let log: EventLog;
  let commits: StoredCommit[] = [];
  const journalFile = () => join(folder.path, "journal.txt");
  const codeRuns: CodeRun[] = [];
  const cases: ExternalCase[] = [];
  let recorders: Recorders;

  beforeAll(async () => {
    const random = new SeededRandom(seed);
    folder = await temporaryFolder();
    broker = await startBroker({ dataDir: join(folder.path, "broker") });
    server = await MillraceProcess.start(
      ["dev", "--split", "--data", join(folder.path, "data"), "--port", "0", "--workflows", workflowsFile],
      { MILLRACE_NATS_URL: broker.url, MILLRACE_TEST_JOURNAL: journalFile() },
    );
    const { url, streamUrl, namespace } = server.ready;
    log = await openEventLog({ servers: broker.url, namespace });
    const backoff = { minMs: 50, maxMs: 1_000 };
    recorders = {
      everything: new Recorder({ url: streamUrl, backoff }, { filter: {} }),
      chains: new Recorder({ url: streamUrl, backoff }, { filter: { type: ["chain"] } }),
    };

    try {
      let killing = true;
      const kills = killEverything(random.fork(), recorders).finally(() => {
        killing = false;
      });
      const more = () => killing || codeRuns.length < runsMin;
      await Promise.all([
        kills,
        ...Array.from({ length: starters }, () => startRuns(new HttpApi(url), random.fork(), more)),
        ...Array.from({ length: drivers }, (_, driver) =>
          driveCases(new HttpApi(url), driver, random.fork(), more),
        ),
      ]);
      const ids = new Set([...codeRuns, ...cases].map(({ id }) => id));
      await untilClosed(log, ids, allClosedMs);
      commits = await readLog(log);
    } catch (error) {
      throw new Error(`${why}: ${String(error)}\n${server.errors}`, { cause: error });
    }
  }, 280_000);

  afterAll(async () => {
    recorders?.everything.close();
    recorders?.chains.close();
    await log?.close();
    await server?.stop();
    await broker?.stop();
    await folder?.remove();
  });

  /**
   * Kills each part several times, each time while commits come; often the next one falls while the one before is
   * still on its way back.
   */
  async function killEverything(random: SeededRandom, { everything, chains }: Recorders): Promise<void> {
    const plan = random.shuffle(
      targets.flatMap((target) => Array.from({ length: killsOfEach }, () => target)),
    );
    const back = new Map<Target, Promise<void>>();
    for (const target of plan) {
      await within(
        `the next commits before killing ${target}`,
        partBackMs,
        everything.until(everything.position + 20),
      );
      await delay(random.between(0, 600));
      await back.get(target);
      back.set(target, kill(target));
      // A client of which only the cursor is left.
      if (target === "stream-server") chains.close();
      if (random.next() < 0.5) await back.get(target);
      if (target === "stream-server") chains.open();
    }
    await Promise.all(back.values());
  }

  async function kill(target: Target): Promise<void> {
    if (target !== "broker") return await server.partBack(target, server.killPart(target), partBackMs);
    const { pid } = broker;
    process.kill(pid, "SIGKILL");
    await eventually(
      "the broker is back",
      partBackMs,
      () => broker.pid !== pid && broker.status === "running",
    );
  }

  async function startRuns(api: HttpApi, random: SeededRandom, more: () => boolean): Promise<void> {
    const cancels: Promise<unknown>[] = [];
    while (more()) {
      await delay(random.between(10, 70));
      const type = random.pick<CodeRun["type"]>(["chain", "chain", "chain", "fan", "fan", "hold"]);
      const failures = Array.from({ length: random.between(3, 5) }, () =>
        random.next() < 0.15 ? random.between(1, 2) : 0,
      );
      const input = { value: random.between(0, 1_000_000), failures, stepMs: random.between(0, 120) };
      const run: CodeRun = { id: `${type}-${codeRuns.length}`, type, input };
      codeRuns.push(run);
      await api.mustPost("/v1/workflows", { type, id: run.id, input });
      if (type === "hold") cancels.push(cancel(api, run.id, random.between(0, 400)));
    }
    await Promise.all(cancels);
  }

  async function cancel(api: HttpApi, id: string, afterMs: number): Promise<void> {
    await delay(afterMs);
    await api.mustPost(`/v1/workflows/${id}/cancel`, { reason: "enough" });
  }

  async function driveCases(
    api: HttpApi,
    driver: number,
    random: SeededRandom,
    more: () => boolean,
  ): Promise<void> {
    for (let number = 0; more(); number++) {
      const steps = Array.from({ length: random.between(3, 5) }, (_, place) => ({
        step: place === 2 ? "check#2" : place === 0 ? "check" : `do it ${place}`,
        output: { place, value: random.between(0, 1_000) },
        failures: random.next() < 0.1 ? 1 : 0,
      }));
      const one = {
        id: `case-${driver}-${number}`,
        type: "permit",
        input: { number },
        steps,
        output: { number },
      };
      cases.push(one);
      await driveCase(api, one);
      await delay(random.between(20, 120));
    }
  }

  function commitsOf(id: string): StoredCommit[] {
    return commits.filter(({ workflowId }) => workflowId === id);
  }

  function outcomeOf(id: string): { closings: string[]; steps: string[]; output: unknown; after: string[] } {
    const events = commitsOf(id).flatMap((commit) => commit.events);
    const closing = events.findIndex(({ type }) => closingStatus(type) !== null);
    const closed = events[closing];
    return {
      closings: events.flatMap(({ type }) => closingStatus(type) ?? []),
      steps: events.flatMap(({ type, data }) =>
        type === "StepCompleted" || type === "StepFailed" || type === "StepTimedOut"
          ? [`${data.name}#${data.occurrence}`]
          : [],
      ),
      output: closed?.type === "WorkflowCompleted" ? closed.data.output : null,
      after: events.slice(closing + 1).map(({ type }) => type),
    };
  }

  it("had a load, and killed each part several times within it", () => {
    expect(codeRuns.length, why).toBeGreaterThanOrEqual(runsMin);
    expect(cases.length, why).toBeGreaterThan(10);
    expect(codeRuns.filter(({ type }) => type === "hold").length, why).toBeGreaterThan(10);
    const started = commits.flatMap(({ events, workflowId }) =>
      events.map(({ type }) => ({ type, workflowId })),
    );
    const ids = started.filter(({ type }) => type === "WorkflowStarted").map(({ workflowId }) => workflowId);
    expect(ids.toSorted(), why).toEqual([...codeRuns, ...cases].map(({ id }) => id).toSorted());
  });

  it("ended every workflow exactly once, with the right output", () => {
    for (const { id, type, input } of codeRuns) {
      const { closings, output, after } = outcomeOf(id);
      const right =
        type === "hold"
          ? { closings: ["cancelled"], output: null }
          : { closings: ["completed"], output: { value: expectedOf(type, input).value } };
      expect({ closings, output }, `${id}, ${why}`).toEqual(right);
      // A cancel request commutes: it may be stored beside the end that it came too late for.
      expect(
        after.filter((each) => each !== "WorkflowCancelRequested"),
        `${id}, ${why}`,
      ).toEqual([]);
    }
    for (const { id, output } of cases) {
      expect(outcomeOf(id), `${id}, ${why}`).toMatchObject({ closings: ["completed"], output, after: [] });
    }
  });

  it("recorded every step exactly once; counts the functions that ran twice", () => {
    for (const { id, type, input } of codeRuns) {
      const { steps } = outcomeOf(id);
      // Of a run that was cancelled the first step may or may not have ended before.
      const right =
        type === "hold" ? steps.filter((step) => step === "prepare#1") : expectedOf(type, input).steps;
      expect(steps.toSorted(), `${id}, ${why}`).toEqual(right.toSorted());
      expect(new Set(steps).size, `${id}, ${why}`).toBe(steps.length);
    }
    for (const { id, steps } of cases) {
      const named = steps.map(({ step }) => (step.includes("#") ? step : `${step}#1`));
      expect(outcomeOf(id).steps, `${id}, ${why}`).toEqual(named);
    }
    const calls = readFileSync(journalFile(), "utf8").trimEnd().split("\n");
    const distinct = new Set(calls);
    const recorded = codeRuns.flatMap(({ id }) => outcomeOf(id).steps).length;
    expect(distinct.size, why).toBeGreaterThanOrEqual(recorded);
    process.stdout.write(
      `chaos: ${codeRuns.length} code-first and ${cases.length} driven runs, ${commits.length} commits, ` +
        `${recorded} steps recorded once; ${calls.length - distinct.size} of ${calls.length} attempts ran again (${why})\n`,
    );
  });

  it("has the same rows in SQLite as a rebuild from zero", async () => {
    const { projection } = server.ready;
    const last = commits.at(-1)?.sequence ?? 0;
    await eventually(
      `the projector reaches ${last}`,
      caughtUpMs,
      () => hashProjection(projection).sequence >= last,
    );
    const { equal, differing, live } = await verifyProjection({ log, path: projection });
    expect({ equal, differing, quarantined: live.tables.quarantine.rows }, why).toEqual({
      equal: true,
      differing: [],
      quarantined: 0,
    });
    expect(live.tables.workflows.rows, why).toBe(codeRuns.length + cases.length);
  });

  it.each(["everything", "chains"] as const)(
    "gave the client on %s exactly the log's events, in order",
    async (name) => {
      const recorder = recorders[name];
      const expected = expectedEvents(commits, recorder.follows.filter);
      const matching = commits.filter(({ type }) => name === "everything" || type === "chain");
      const last = matching.at(-1)?.sequence ?? 0;
      await within(
        () => `the client on ${name} has ${last}, it is at ${recorder.position} (${why})`,
        caughtUpMs,
        recorder.until(last),
      );
      expect(compareStreams(expected, recorder.received), why).toEqual(noFaults);
      recorder.close();
      expect(recorder.gaps, why).toBe(0);
      expect(expected.length, why).toBeGreaterThan(runsMin);
    },
  );
});
