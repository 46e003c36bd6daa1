/**
 * A client in another language, written from docs/protocol.md alone, through a network that cuts and a stream server
 * that is killed and comes back: it gets exactly the log's events.
 *
 * Needs Debian's package python3-websockets; without it the test is skipped and says so.
 */
import { execFileSync, spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as delay } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { afterAll, afterEach, beforeAll, describe, expect, it, type TestContext } from "vitest";
import { openEventLog, type EventLog } from "@millrace/event-log";
import { compareStreams, noFaults } from "./compare-streams.ts";
import { CuttingProxy } from "./cutting-proxy.ts";
import { within } from "./deadline.ts";
import { driveOpenCase } from "./external-driver.ts";
import { HttpApi } from "./http-api.ts";
import { MillraceProcess } from "./millrace-process.ts";
import { eventLine, expectedEvents, readLog } from "./read-log.ts";
import { SeededRandom, testSeed } from "./seeded-random.ts";
import { Signal } from "./signal.ts";
import { temporaryFolder, type TemporaryFolder } from "./temporary-folder.ts";

const program = fileURLToPath(new URL("../../examples/follow.py", import.meta.url));
/** Debian's own first: another one in the path does not see Debian's packages. */
const pythons = ["/usr/bin/python3", "python3"];
const waitMs = 60_000;
const seed = testSeed();
const why = `MILLRACE_TEST_SEED=${seed}`;

type Entry = readonly [sequence: number, type: string, workflowId: string, at: string, data: unknown];

/** One process of the Python client, and what it printed. */
class PythonFollower {
  readonly entries: Entry[] = [];
  errors = "";
  exitCode: number | null = null;
  readonly child: ChildProcess;
  readonly #changed = new Signal();

  constructor(python: string, args: readonly string[]) {
    const child = spawn(python, [program, ...args], { stdio: ["ignore", "pipe", "pipe"] });
    this.child = child;
    createInterface({ input: child.stdout }).on("line", (line) => {
      const value = JSON.parse(line) as unknown;
      if (Array.isArray(value)) this.entries.push(value as unknown as Entry);
      this.#changed.fire();
    });
    child.stderr.on("data", (chunk: Buffer) => {
      this.errors += chunk.toString();
      this.#changed.fire();
    });
    child.on("close", (code) => {
      this.exitCode = code ?? -1;
      this.#changed.fire();
    });
  }

  async until(what: string, holds: (follower: this) => boolean): Promise<void> {
    const shown = () =>
      `${what}; ${this.entries.length} entries, exit code ${this.exitCode} (${why}): ${this.errors.slice(-2_000)}`;
    await within(
      shown,
      waitMs,
      this.#changed.until(() => holds(this)),
    );
  }

  async kill(): Promise<void> {
    this.child.kill("SIGKILL");
    if (this.exitCode === null) await once(this.child, "close");
  }
}

const linesOf = (entries: readonly Entry[]): string[] =>
  entries.map(([sequence, type, workflowId, , data]) => eventLine(sequence, workflowId, type, data));

function findPython(context: TestContext): string {
  for (const python of pythons) {
    try {
      execFileSync(python, ["-c", "import websockets"], { stdio: "ignore" });
      return python;
    } catch {
      // The next one may have it; when none has, the test says so.
    }
  }
  process.stdout.write("python client: skipped, no python3 here imports websockets\n");
  context.skip(true, "no python3 here imports websockets: install Debian's package python3-websockets");
  return "";
}

describe(`a client in Python (${why})`, () => {
  const random = new SeededRandom(seed);
  const followers: PythonFollower[] = [];
  let folder: TemporaryFolder;
  let server: MillraceProcess;
  let log: EventLog;
  let proxy: CuttingProxy;
  let api: HttpApi;

  beforeAll(async () => {
    folder = await temporaryFolder();
    server = await MillraceProcess.start([
      ...["dev", "--split", "--data", join(folder.path, "data"), "--port", "0"],
    ]);
    const { url, natsUrl, namespace } = server.ready;
    log = await openEventLog({ servers: natsUrl, namespace });
    proxy = await CuttingProxy.start(url);
    api = new HttpApi(url);
  });

  afterEach(async () => {
    await Promise.all(followers.splice(0).map((follower) => follower.kill()));
  });

  afterAll(async () => {
    await proxy?.close();
    await log?.close();
    await server?.stop();
    await folder?.remove();
  });

  function follow(python: string, ...args: readonly string[]): PythonFollower {
    const url = `ws://127.0.0.1:${proxy.port}/v1/stream`;
    const follower = new PythonFollower(python, ["--url", url, "--backoff", "0.3", ...args]);
    followers.push(follower);
    return follower;
  }

  /** Runs of one type that go on until `more` says no. */
  async function drive(type: string, runs: number, more: () => boolean): Promise<void> {
    function* steps() {
      for (let n = 1; more(); n++)
        yield { step: n === 1 ? "tick" : `tick#${n}`, output: { n, text: "ü".repeat(n % 40) }, failures: 0 };
    }
    await Promise.all(
      Array.from({ length: runs }, (_, n) =>
        driveOpenCase(api, {
          id: `${type}-${n}`,
          type,
          input: { n },
          steps: steps(),
          output: null,
          pauseMs: () => random.between(0, 20),
        }),
      ),
    );
  }

  async function expectExact(entries: readonly Entry[], type: string): Promise<void> {
    const wanted = expectedEvents(await readLog(log), { type: [type] });
    const found = compareStreams(wanted, linesOf(entries));
    expect(found, why).toBe(noFaults);
  }

  it("is exact over cuts and a stream server that is killed", async (context) => {
    const python = findPython(context);
    const type = "third-party";
    const follower = follow(python, "--filter", JSON.stringify({ type: [type] }), "--from", "start");
    let goesOn = true;
    const driving = drive(type, 3, () => goesOn);
    try {
      for (let cut = 1; cut <= 12; cut++) {
        // Cut in the midst of what comes, each time after it has got further.
        const had = follower.entries.length;
        await follower.until(`entries after cut ${cut - 1}`, ({ entries }) => entries.length > had + 5);
        await delay(random.between(0, 60));
        if (cut === 6) {
          const pid = server.killPart("stream-server");
          await server.partBack("stream-server", pid, waitMs);
        }
        proxy.cutAll();
      }
    } finally {
      goesOn = false;
      await driving;
    }
    const commits = await readLog(log);
    const wanted = expectedEvents(commits, { type: [type] });
    await follower.until("all of it", ({ entries }) => entries.length >= wanted.length);
    await expectExact(follower.entries, type);
    expect(proxy.cuts, why).toBeGreaterThanOrEqual(10);
    expect(follower.errors, why).not.toContain("gap");
  });

  it("goes on from its stored cursor after it was killed, and ends with the run", async (context) => {
    const python = findPython(context);
    const type = "stored-cursor";
    const cursor = join(folder.path, "cursor");
    const args = [
      ...["--filter", JSON.stringify({ workflow: [`${type}-0`] })],
      ...["--from", "start", "--cursor", cursor, "--until", "closed"],
    ];
    const first = follow(python, ...args);
    let goesOn = true;
    const driving = drive(type, 1, () => goesOn);
    try {
      await first.until("twenty entries", ({ entries }) => entries.length >= 20);
      await first.kill();
    } finally {
      goesOn = false;
      await driving;
    }
    const second = follow(python, ...args);
    await second.until("its end", ({ exitCode }) => exitCode !== null);
    expect(second.exitCode, second.errors).toBe(0);
    // The lines of a frame whose cursor was not stored yet come again; what stands is each sequence's last appearance.
    const again = second.entries[0]?.[0] ?? Number.POSITIVE_INFINITY;
    const kept = first.entries.filter(([sequence]) => sequence < again);
    expect(first.entries.length - kept.length, why).toBeLessThan(10);
    await expectExact([...kept, ...second.entries], type);
  });

  it("says what is final and ends", async (context) => {
    const python = findPython(context);
    const follower = follow(python, "--from", "0000abcd.7");
    await follower.until("its end", ({ exitCode }) => exitCode !== null);
    expect(follower.exitCode).toBe(1);
    expect(follower.errors).toMatch(/^gone, epoch: /m);
  });
});
