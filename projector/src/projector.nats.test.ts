/** The projector over a real broker, in a process that is killed with SIGKILL again and again. */
import { execFile, spawn, type ChildProcess } from "node:child_process";
import { on, once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { openEventLog, type EventLog } from "@millrace/event-log";
import { startBroker, type Broker } from "@millrace/event-log/broker";
import { evolveCommit, initialRunState, toRow } from "@millrace/schemas";
import { afterAll, beforeAll, expect, onTestFinished, test } from "vitest";
import { threeStepRuns, type SampleCommit } from "./fixture/sample-history.ts";
import { caughtUp, startTestProjector, temporaryProjection } from "./fixture/temporary-projection.ts";
import { openProjection } from "./open-projection.ts";
import { verifyProjection } from "./rebuild.ts";

const packageDir = fileURLToPath(new URL("../", import.meta.url));
let broker: Broker;
let dataDir: string;

beforeAll(async () => {
  // The child runs the compiled package: Node 20 cannot run the sources.
  const compiler = join(
    dirname(createRequire(import.meta.url).resolve("typescript/package.json")),
    "bin",
    "tsc",
  );
  await promisify(execFile)(process.execPath, [compiler, "-b", packageDir]);
  dataDir = await mkdtemp(join(tmpdir(), "millrace-projector-broker-"));
  broker = await startBroker({ dataDir });
});

afterAll(async () => {
  await broker?.stop();
  await rm(dataDir, { recursive: true, force: true });
});

const projectorScript = `
  import { openEventLog } from "@millrace/event-log";
  import { startProjector } from "@millrace/projector";
  const [servers, namespace, path] = process.argv.slice(1);
  const log = await openEventLog({ servers, namespace });
  await startProjector({
    log, path, batchMax: 25,
    onAdvance: (sequence) => console.log(sequence),
    onStatus: (status, error) => { if (status === "failed") throw error; },
  });
`;

/** A projector in a process of its own; `advanced` resolves when its file has at least that sequence. */
function startChild(
  namespace: string,
  path: string,
): { process: ChildProcess; advanced: (sequence: number) => Promise<number> } {
  const child = spawn(
    process.execPath,
    ["--input-type=module", "-e", projectorScript, broker.url, namespace, path],
    {
      cwd: packageDir,
      stdio: ["ignore", "pipe", "inherit"],
    },
  );
  onTestFinished(() => void child.kill("SIGKILL"));
  const lines = createInterface({ input: child.stdout });
  return {
    process: child,
    async advanced(sequence) {
      for await (const [line] of on(lines, "line", { signal: AbortSignal.timeout(20_000) })) {
        if (Number(line) >= sequence) return Number(line);
      }
      throw new Error(`The projector ended before sequence ${sequence}.`);
    },
  };
}

async function kill({ process: child }: { process: ChildProcess }): Promise<void> {
  const gone = once(child, "exit");
  child.kill("SIGKILL");
  await gone;
}

async function openLog(namespace: string): Promise<EventLog> {
  const log = await openEventLog({ servers: broker.url, namespace });
  onTestFinished(() => log.close());
  return log;
}

let commitCount = 0;
const commitId = () => `01J00000000000000000${String(++commitCount).padStart(6, "0")}`;

/** Appends each run's commits in order, the runs side by side. */
async function append(log: EventLog, commits: readonly SampleCommit[]): Promise<void> {
  const runs = new Map<string, SampleCommit[]>();
  for (const commit of commits) {
    const run = runs.get(commit.workflowId) ?? [];
    runs.set(commit.workflowId, run);
    run.push(commit);
  }
  await Promise.all(
    [...runs.values()].map(async (run) => {
      let last: number | null = null;
      for (const commit of run) {
        const { sequence } = await log.append({ ...commit, commitId: commitId(), expected: last ?? "new" });
        last = sequence;
      }
    }),
  );
}

function random(seed: number): () => number {
  let state = seed;
  return () => {
    // Mulberry32: enough to choose where to kill, and the same again for the same seed.
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

test("I1: killed in mid-projection again and again, then restarted, equals a rebuild from zero", async () => {
  const seed = Number(process.env["MILLRACE_TEST_SEED"] ?? Date.now() % 1_000_000);
  const next = random(seed);
  const namespace = "kills";
  const log = await openLog(namespace);
  const path = temporaryProjection();
  const history = threeStepRuns(600, 50);
  const writing = append(log, history);
  // A failure of the writer is seen at its await below, not as an unhandled one in between.
  const written = writing.then(
    () => null,
    (error: unknown) => error,
  );
  let reached = 0;
  for (let kills = 0; kills < 4; kills++) {
    const child = startChild(namespace, path);
    reached = await child.advanced(Math.min(reached + 1 + Math.floor(next() * 500), history.length - 200));
    await kill(child);
  }
  expect(await written).toBeNull();
  const projector = await startTestProjector({ log, path });
  expect(projector.position, `seed ${seed}`).toBeGreaterThanOrEqual(reached);
  await caughtUp(projector, log);
  const verification = await verifyProjection({ log, path });
  expect(verification.differing, `seed ${seed}`).toEqual([]);
  expect(verification).toMatchObject({ equal: true, live: { sequence: history.length } });
  expect(verification.live.tables.commits.rows).toBe(history.length);
  expect(verification.live.tables.steps.rows).toBe(600 * 3);
});

test("rows are those of the log itself, and waitFor is pushed by a projector in another process", async () => {
  const namespace = "rows";
  const log = await openLog(namespace);
  const path = temporaryProjection();
  const projection = openProjection({ path, log });
  onTestFinished(() => projection.close());
  // Before there is a projector or a file.
  const waiting = projection.waitFor(80, 20_000);
  const child = startChild(namespace, path);
  await append(log, threeStepRuns(20));
  expect(await waiting).toBeGreaterThanOrEqual(80);
  for (let n = 0; n < 20; n++) {
    const state = initialRunState(`order-${n}`, "order");
    for (const commit of await log.load(state.id)) evolveCommit(state, commit);
    expect(projection.workflow(state.id)).toEqual(toRow(state));
  }
  // And once more while the projector is up: far under the time-out, so that it was the hint.
  const begun = performance.now();
  const { sequence } = await log.append({
    workflowId: "late",
    type: "order",
    commitId: commitId(),
    expected: "new",
    events: [{ type: "WorkflowStarted", data: { version: "1", driver: "code", input: null } }],
  });
  expect(await projection.waitFor(sequence, 10_000)).toBe(sequence);
  expect(performance.now() - begun).toBeLessThan(5_000);
  await kill(child);
});

test("a broker that goes away and comes back costs no commit", async () => {
  const namespace = "outage";
  const log = await openLog(namespace);
  const path = temporaryProjection();
  const statuses: string[] = [];
  const projector = await startTestProjector({ log, path, onStatus: (status) => statuses.push(status) });
  await append(log, threeStepRuns(50));
  process.kill(broker.pid, "SIGKILL");
  await append(
    log,
    threeStepRuns(50).map((commit) => ({ ...commit, workflowId: `later-${commit.workflowId}` })),
  );
  await caughtUp(projector, log);
  expect(statuses).toContain("interrupted");
  expect(await verifyProjection({ log, path })).toMatchObject({ equal: true, live: { sequence: 400 } });
});
