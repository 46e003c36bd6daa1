/**
 * Several engine processes on one broker: they share the work, are rolled without running a step twice, replace one
 * that was killed within its lease, and fence one that stood still.
 *
 * Owns: no production code. Who ran a step is in the journal, what counts is in the log.
 */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { connect, type Millrace } from "@millrace/engine";
import { startBroker, type Broker } from "@millrace/event-log/broker";
import { shardOf, type Fleet } from "@millrace/schemas";
import { eventually, within } from "./deadline.ts";
import { readJournal, relay, type JournalLine, type RelayInput } from "./fleet-workflows.ts";
import { MillraceProcess } from "./millrace-process.ts";
import { temporaryFolder, type TemporaryFolder } from "./temporary-folder.ts";

const workflowsFile = fileURLToPath(new URL("../dist/test/e2e/fleet-workflows.js", import.meta.url));
const shardCount = 64;
const leaseSeconds = 3;
/** What a loaded machine may add to a lease. */
const takeOverMarginMs = 2_500;
const patienceMs = 60_000;

describe("a fleet of engine processes", () => {
  let folder: TemporaryFolder;
  let broker: Broker;
  let millrace: Millrace;
  let tests = 0;
  let namespace = "";
  const engines = new Set<MillraceProcess>();
  const journalFile = () => join(folder.path, `journal-${namespace}.txt`);
  const journal = (): JournalLine[] => readJournal(journalFile());

  beforeAll(async () => {
    folder = await temporaryFolder();
    broker = await startBroker({ dataDir: join(folder.path, "broker") });
  });
  afterAll(async () => {
    await broker?.stop();
    await folder?.remove();
  });
  beforeEach(async () => {
    namespace = `fleet${++tests}`;
    writeFileSync(journalFile(), "");
    millrace = await connect({ servers: broker.url, namespace });
  });
  afterEach(async () => {
    for (const { child } of engines) child.kill("SIGKILL");
    await Promise.all([...engines].map(({ ended }) => ended));
    engines.clear();
    await millrace.close();
  });

  async function startEngine(): Promise<MillraceProcess> {
    const engine = await MillraceProcess.start(
      [
        ...["serve", "--parts", "engine", "--namespace", namespace, "--data", join(folder.path, namespace)],
        ...["--workflows", workflowsFile, "--lease", String(leaseSeconds)],
      ],
      { MILLRACE_NATS_URL: broker.url, MILLRACE_TEST_JOURNAL: journalFile() },
    );
    engines.add(engine);
    return engine;
  }

  function pidOf({ child }: MillraceProcess): number {
    if (child.pid === undefined) throw new Error("The engine has no process.");
    return child.pid;
  }

  /** Every shard is held once, by the engines with these processes and no other, each having some. */
  async function shared(expected: readonly MillraceProcess[]): Promise<Fleet> {
    let fleet = await millrace.fleet();
    const pids = expected.map(pidOf).toSorted((a, b) => a - b);
    await eventually(
      () => `64 shards shared by ${pids.join(", ")}: ${JSON.stringify(fleet.sessions)}`,
      patienceMs,
      async () => {
        fleet = await millrace.fleet();
        const shards = fleet.sessions.flatMap((session) => session.shards);
        return (
          fleet.sessions
            .map(({ pid }) => pid)
            .toSorted((a, b) => a - b)
            .join() === pids.join() &&
          fleet.sessions.every((session) => session.shards.length > 0) &&
          shards.length === shardCount &&
          new Set(shards).size === shardCount
        );
      },
    );
    return fleet;
  }

  async function startRun(
    id: string,
    input: RelayInput,
  ): Promise<{ readonly ended: Promise<{ readonly pids: readonly number[] }> }> {
    const handle = await millrace.start(relay, input, { id });
    const ended = within(`${id} ends`, patienceMs, handle.result());
    // Whoever waits for it hears of its failure; until then it must not end the process.
    ended.catch(() => undefined);
    return { ended };
  }

  async function stepsRecorded(id: string): Promise<string[]> {
    const events = (await millrace.log.load(id)).flatMap((commit) => commit.events);
    return events.flatMap(({ type, data }) =>
      type === "StepCompleted" ? [`${data.name}#${data.occurrence}`] : [],
    );
  }

  /** An id in a shard that the engine holds. */
  function idOn(fleet: Fleet, engine: MillraceProcess, prefix: string): string {
    const session = fleet.sessions.find(({ pid }) => pid === pidOf(engine));
    for (let number = 0; number < 10_000; number++) {
      const id = `${prefix}-${number}`;
      if (session?.shards.includes(shardOf(id, shardCount))) return id;
    }
    throw new Error(`The engine ${pidOf(engine)} holds nothing.`);
  }

  function repeats(lines: readonly JournalLine[]): string[] {
    const keys = lines.map(({ key }) => key);
    return keys.filter((key, index) => keys.indexOf(key) !== index);
  }

  it("three engines share the shards, and a clean roll of all of them under load runs no step twice", async () => {
    let fleet = [await startEngine(), await startEngine(), await startEngine()];
    await shared(fleet);
    const runs: Promise<unknown>[] = [];
    let loading = true;
    const more = (): boolean => loading;
    const load = (async () => {
      for (let number = 0; more() || number < 300; number++) {
        const { ended } = await startRun(`run-${number}`, { steps: 5, stepMs: 20 + (number % 7) * 30 });
        runs.push(ended);
        await within("a moment", 1_000, new Promise((resolve) => setTimeout(resolve, 15)));
      }
    })();
    await eventually("all three work", patienceMs, () => new Set(journal().map(({ pid }) => pid)).size === 3);
    for (const old of fleet) {
      const next = await startEngine();
      expect(await old.stop(), old.errors).toBe(0);
      engines.delete(old);
      fleet = [...fleet.filter((engine) => engine !== old), next];
    }
    loading = false;
    await load;
    const ends = await Promise.all(runs);
    await shared(fleet);
    const lines = journal();
    expect(repeats(lines)).toEqual([]);
    expect(lines).toHaveLength(ends.length * 5);
    expect(new Set(lines.map(({ pid }) => pid)).size).toBe(6);
    for (const number of ends.keys()) {
      const steps = await stepsRecorded(`run-${number}`);
      expect(steps).toEqual(["leg#1", "leg#2", "leg#3", "leg#4", "leg#5"]);
    }
    process.stdout.write(
      `fleet: ${ends.length} runs over a roll of 3 engines, ${lines.length} steps, none run twice\n`,
    );
  });

  it("the runs of an engine that was killed go on elsewhere within its lease; nobody else's are disturbed", async () => {
    const [doomed, ...others] = [await startEngine(), await startEngine(), await startEngine()] as const;
    const fleet = await shared([doomed, ...others]);
    const lost = Array.from({ length: 5 }, (_, number) => idOn(fleet, doomed, `lost-${number}`));
    const kept = others.map((engine, number) => idOn(fleet, engine, `kept-${number}`));
    const runs = await Promise.all([...lost, ...kept].map((id) => startRun(id, { steps: 2, stepMs: 1_500 })));
    await eventually(
      "their first steps run",
      patienceMs,
      () => journal().length === lost.length + kept.length,
    );
    const killedAt = Date.now();
    process.kill(pidOf(doomed), "SIGKILL");
    await Promise.all(runs.map(({ ended }) => ended));
    const lines = journal();
    const again = lines.filter(({ key, pid }) => key.endsWith("/leg#1") && pid !== pidOf(doomed));
    const taken = again.filter(({ key }) => lost.some((id) => key.startsWith(`${id}/`)));
    expect(taken).toHaveLength(lost.length);
    const tookMs = Math.max(...taken.map(({ atMs }) => atMs)) - killedAt;
    expect(tookMs).toBeLessThan(leaseSeconds * 1_000 + takeOverMarginMs);
    expect(repeats(lines).toSorted()).toEqual(lost.map((id) => `${id}/1/leg#1`).toSorted());
    for (const id of lost) expect(await stepsRecorded(id)).toEqual(["leg#1", "leg#2"]);
    await shared(others);
    process.stdout.write(`fleet: taken over ${tookMs} ms after kill -9, with a lease of ${leaseSeconds} s\n`);
  });

  it("an engine that is started again after kill -9 on the same machine does not wait for the lease", async () => {
    const first = await startEngine();
    const id = "again";
    const { ended } = await startRun(id, { steps: 1, stepMs: 1_000 });
    await eventually("its step runs", patienceMs, () => journal().length === 1);
    process.kill(pidOf(first), "SIGKILL");
    await first.ended;
    const second = await startEngine();
    const readyAt = Date.now();
    expect(await ended).toEqual({ pids: [pidOf(second)] });
    expect(Date.now() - readyAt).toBeLessThan(leaseSeconds * 1_000 - 500);
    await shared([second]);
  });

  it("an engine that stood still is fenced: its late outcome is refused, and it goes on as another session", async () => {
    const [zombie, heir] = [await startEngine(), await startEngine()] as const;
    const before = await shared([zombie, heir]);
    const ids = Array.from({ length: 4 }, (_, number) => idOn(before, zombie, `held-${number}`));
    const runs = await Promise.all(ids.map((id) => startRun(id, { steps: 2, stepMs: 1_500 })));
    await eventually("their steps run", patienceMs, () => journal().length === ids.length);
    process.kill(pidOf(zombie), "SIGSTOP");
    for (const { ended } of runs) expect(await ended).toEqual({ pids: [pidOf(heir), pidOf(heir)] });
    const histories = await Promise.all(ids.map((id) => millrace.log.load(id)));
    process.kill(pidOf(zombie), "SIGCONT");
    // It had outcomes in hand. It notices that its session is over, and takes part again under another name.
    const after = await shared([zombie, heir]);
    const sessionOf = (fleet: Fleet) => fleet.sessions.find(({ pid }) => pid === pidOf(zombie))?.session;
    expect(sessionOf(after)).not.toBe(sessionOf(before));
    const next = await startRun(idOn(after, zombie, "next"), { steps: 1, stepMs: 1 });
    expect(await next.ended).toEqual({ pids: [pidOf(zombie)] });
    for (const [index, id] of ids.entries()) {
      expect((await millrace.log.load(id)).map(({ sequence }) => sequence)).toEqual(
        histories[index]?.map(({ sequence }) => sequence),
      );
      expect(await stepsRecorded(id)).toEqual(["leg#1", "leg#2"]);
    }
    expect(zombie.child.exitCode).toBeNull();
  });
});
