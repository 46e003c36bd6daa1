/**
 * 200 clients with different filters and shapes over 60 s of traffic, through a proxy that keeps cutting them.
 * Afterwards each of them is compared with the log.
 */
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openEventLog, type EventLog, type StoredCommit } from "@millrace/event-log";
import { matchesEvent, matchesRun } from "@millrace/schemas";
import { compareStreams, noFaults } from "./compare-streams.ts";
import { CuttingProxy } from "./cutting-proxy.ts";
import { within } from "./deadline.ts";
import { driveOpenCase } from "./external-driver.ts";
import { HttpApi } from "./http-api.ts";
import { MillraceProcess } from "./millrace-process.ts";
import {
  expectedEvents,
  expectedStates,
  foldCommits,
  readLog,
  untilClosed,
  type FoldedCommit,
} from "./read-log.ts";
import { Recorder, type Follows } from "./recorder.ts";
import { SeededRandom, testSeed } from "./seeded-random.ts";
import { temporaryFolder, type TemporaryFolder } from "./temporary-folder.ts";

const workflowsFile = fileURLToPath(new URL("../dist/test/e2e/chaos-workflows.js", import.meta.url));
const trafficMs = 60_000;
const clients = 200;
/** So many join in the midst of the traffic and catch up from the first commit. */
const lateClients = 40;
const meters = 12;
const meterTypes = ["meter", "gauge", "probe"] as const;
const caughtUpMs = 60_000;

const seed = testSeed();
const why = `MILLRACE_TEST_SEED=${seed}`;

describe(`many clients under random cuts (${why})`, () => {
  let folder: TemporaryFolder;
  let server: MillraceProcess;
  let proxy: CuttingProxy;
  let log: EventLog;
  let commits: StoredCommit[] = [];
  let folded: FoldedCommit[] = [];
  const recorders: Recorder[] = [];

  beforeAll(async () => {
    const random = new SeededRandom(seed);
    folder = await temporaryFolder();
    server = await MillraceProcess.start([
      "dev",
      "--data",
      join(folder.path, "data"),
      "--port",
      "0",
      "--workflows",
      workflowsFile,
    ]);
    const { url, natsUrl, namespace } = server.ready;
    log = await openEventLog({ servers: natsUrl, namespace });
    proxy = await CuttingProxy.start(url);
    const follows = Array.from({ length: clients }, (_, client) => followsOf(client));
    try {
      const options = { url: `ws://127.0.0.1:${proxy.port}`, backoff: { minMs: 50, maxMs: 1_000 } };
      const follow = (each: Follows) => recorders.push(new Recorder(options, each));
      for (const each of follows.slice(lateClients)) follow(each);

      const started = performance.now();
      const more = () => performance.now() - started < trafficMs;
      const ids = new Set<string>();
      await Promise.all([
        cut(random.fork(), more),
        joinLate(follows.slice(0, lateClients), follow),
        startRuns(new HttpApi(url), random.fork(), more, ids),
        ...Array.from({ length: meters }, (_, meter) =>
          driveMeter(new HttpApi(url), meter, random.fork(), more, ids),
        ),
      ]);
      await untilClosed(log, ids, caughtUpMs);
      commits = await readLog(log);
      folded = foldCommits(commits);
    } catch (error) {
      throw new Error(`${why}: ${String(error)}\n${server.errors}`, { cause: error });
    }
  }, 200_000);

  afterAll(async () => {
    for (const recorder of recorders) recorder.close();
    await proxy?.close();
    await log?.close();
    await server?.stop();
    await folder?.remove();
  });

  function followsOf(client: number): Follows {
    const type = meterTypes[client % meterTypes.length] ?? "meter";
    const shape = client % 2 === 0 ? "events" : "state";
    if (client < 60)
      return { filter: { workflow: [`${meterType(client % meters)}-${client % meters}`] }, shape };
    if (client < 100) return { filter: { type: [type] }, shape };
    if (client < 120) return { filter: { type: ["chain", "fan"] } };
    if (client < 150) return { filter: { event: ["StepCompleted", "WorkflowCompleted"] } };
    if (client < 170)
      return { filter: { event: ["WorkflowStarted", "StepCompleted"], type: ["chain", type] }, shape };
    if (client < 180) return { filter: { type: [type] }, shape, from: "snapshot" };
    return { filter: {}, shape: client < 195 ? "events" : "state" };
  }

  function meterType(meter: number): string {
    return meterTypes[meter % meterTypes.length] ?? "meter";
  }

  async function cut(random: SeededRandom, more: () => boolean): Promise<void> {
    while (more()) {
      await delay(random.between(20, 120));
      proxy.cutOne(random.next());
    }
  }

  async function joinLate(follows: readonly Follows[], follow: (each: Follows) => void): Promise<void> {
    for (const each of follows) {
      await delay(trafficMs / 2 / follows.length);
      follow(each);
    }
  }

  async function startRuns(
    api: HttpApi,
    random: SeededRandom,
    more: () => boolean,
    ids: Set<string>,
  ): Promise<void> {
    for (let number = 0; more(); number++) {
      await delay(random.between(80, 240));
      const type = random.pick(["chain", "fan"]);
      const id = `${type}-${number}`;
      const input = {
        value: number,
        failures: [0, number % 7 === 0 ? 1 : 0, 0],
        stepMs: random.between(0, 30),
      };
      await api.mustPost("/v1/workflows", { type, id, input });
      ids.add(id);
    }
  }

  /** One run that goes on for as long as the traffic does, a step or so a second. */
  async function driveMeter(
    api: HttpApi,
    meter: number,
    random: SeededRandom,
    more: () => boolean,
    ids: Set<string>,
  ): Promise<void> {
    const type = meterType(meter);
    const id = `${type}-${meter}`;
    ids.add(id);
    function* ticks() {
      for (let tick = 1; more(); tick++)
        yield { step: tick === 1 ? "tick" : `tick#${tick}`, output: { tick }, failures: 0 };
    }
    await driveOpenCase(api, {
      id,
      type,
      input: { meter },
      steps: ticks(),
      output: null,
      pauseMs: () => random.between(300, 1_200),
    });
  }

  it("had the traffic and the cuts", () => {
    expect(recorders.length, why).toBe(clients);
    expect(commits.length, why).toBeGreaterThan(1_000);
    expect(proxy.cuts, why).toBeGreaterThan(clients);
  });

  it("lost nothing, doubled nothing and kept the order, for each of them", async () => {
    const positions = () => recorders.map(({ position }) => position).toSorted((one, other) => one - other);
    const caughtUp = Promise.all(recorders.map((recorder) => recorder.until(lastMatching(recorder.follows))));
    await within(
      () => `every client has caught up; lowest ${positions().slice(0, 5).join()} (${why})`,
      caughtUpMs,
      caughtUp,
    );
    for (const recorder of recorders) recorder.close();

    const faults = recorders.flatMap((recorder, client) => {
      const found = compareStreams(expectedOf(recorder), recorder.received);
      return found === noFaults ? [] : [{ client, ...recorder.follows, ...found }];
    });
    expect(faults, why).toEqual([]);
    expect(recorders.filter(({ received }) => received.length < 20).length, why).toBe(0);
    const sum = (count: (recorder: Recorder) => number) =>
      recorders.reduce((total, each) => total + count(each), 0);
    expect(
      sum(({ gaps }) => gaps),
      why,
    ).toBe(0);
    expect(
      sum(({ reconnects }) => reconnects),
      why,
    ).toBeGreaterThan(clients);
    process.stdout.write(
      `many clients: ${clients} clients, ${commits.length} commits, ${sum(({ received }) => received.length)} items received, ` +
        `${proxy.cuts} cuts, ${sum(({ reconnects }) => reconnects)} reconnects (${why})\n`,
    );
  });

  it("gave snapshots that are exact at their sequence", () => {
    const withSnapshot = recorders.filter(({ follows }) => follows.from === "snapshot");
    expect(withSnapshot.length).toBe(10);
    for (const { follows, snapshot, snapshotAt } of withSnapshot) {
      const latest = new Map(
        folded
          .filter(
            ({ commit: { sequence, workflowId, type } }) =>
              sequence <= snapshotAt && matchesRun(follows.filter, workflowId, type),
          )
          .map(({ commit, row }) => [commit.workflowId, row]),
      );
      expect(new Map(snapshot.map((row) => [row.id, row])), why).toEqual(latest);
    }
  });

  function expectedOf({ follows: { filter, shape }, snapshotAt }: Recorder): string[] {
    return shape === "state"
      ? expectedStates(folded, filter, snapshotAt)
      : expectedEvents(commits, filter, snapshotAt);
  }

  function lastMatching({ filter }: Follows): number {
    const last = commits.findLast(
      ({ workflowId, type, events }) =>
        matchesRun(filter, workflowId, type) && events.some((event) => matchesEvent(filter, event.type)),
    );
    return last?.sequence ?? 0;
  }
});
