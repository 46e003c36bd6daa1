import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, mkdir, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import type { DemoResult } from "./demo/demo-result.ts";

const program = fileURLToPath(new URL("./dist/demo.js", import.meta.url));
const filesCount = 30;

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "millrace-demo-test-"));
  await mkdir(join(folder, "temporary"));
});
afterEach(() => rm(folder, { recursive: true, force: true }));

describe("npm run demo", () => {
  it("loses, doubles and reorders nothing through kills and cuts, and says so in its last line", async () => {
    const dir = join(folder, "files");
    await mkdir(dir);
    for (let number = 0; number < filesCount; number++) {
      await writeFile(join(dir, `file ${number} é.txt`), `word${number} `.repeat(40 * number));
    }
    // Where two ways to read text may differ: a byte order mark, no valid UTF-8, unusual white space, no word at all.
    await writeFile(join(dir, "mark.txt"), "\uFEFFmark\u00A0and\u2003more\r\n");
    await writeFile(join(dir, "latin1.txt"), Buffer.from([0xe9, 0x74, 0xe9, 0x20, 0xf0, 0x9f, 0x20, 0xc3]));
    await writeFile(join(dir, "empty.txt"), "");

    const { code, stdout, stderr } = await demo(["--dir", dir, "--json"]).ended;
    expect(code, stderr).toBe(0);
    const [detailsLine = "", lastLine = ""] = stdout.trimEnd().split("\n").slice(-2);
    expect(Object.keys(JSON.parse(lastLine) as object)).toEqual([
      ...["workflows", "steps", "events", "cuts", "received"],
      ...["lost", "duplicates", "outOfOrder", "p50Ms", "p99Ms"],
    ]);
    const { details } = JSON.parse(detailsLine) as { readonly details: object };
    const result = { ...details, ...JSON.parse(lastLine) } as DemoResult;
    const { events } = result;
    expect(result).toMatchObject({
      workflows: filesCount + 3 + result.cases,
      steps: 4 * (filesCount + 3) + 3 * result.cases,
      received: events,
      receivedByClient: { direct: events, cut: events },
      ...{
        lost: 0,
        duplicates: 0,
        outOfOrder: 0,
        chainBreaks: 0,
        kills: 2,
        durability: "default",
        failures: [],
      },
    });
    // A start, an end and each step of each run, at least.
    expect(events).toBeGreaterThanOrEqual(result.steps + 2 * result.workflows);
    expect(result.cuts).toBeGreaterThanOrEqual(10);
    expect(result.staleTokensRefused).toBeGreaterThan(0);
    expect(result.p50Ms).toBeGreaterThanOrEqual(0);
    expect(result.p99Ms).toBeGreaterThanOrEqual(result.p50Ms ?? Number.NaN);
    expect(await leftBehind()).toEqual([]);
  });

  it("says what is missing when its time is up, ends with 1 and leaves nothing behind", async () => {
    const { code, stderr } = await demo(["--timeout", "1"]).ended;
    expect(code).toBe(1);
    expect(stderr).toMatch(/FAILED: Not done after 1 s\. .* runs completed; first missing: /);
    expect(await leftBehind()).toEqual([]);
  });

  it("ends on Ctrl-C with 130 and leaves nothing behind", async () => {
    const running = demo([]);
    await running.says(/\d+\/\d+ runs/);
    running.interrupt();
    const { code, stderr } = await running.ended;
    expect([code, stderr]).toEqual([130, expect.stringContaining("Ended by SIGINT.")]);
    expect(await leftBehind()).toEqual([]);
  });

  it("refuses a folder without files with 1, and an unknown option with 2", async () => {
    const empty = await demo(["--dir", join(folder, "temporary"), "--json"]).ended;
    expect([empty.code, empty.stderr]).toEqual([1, expect.stringContaining("has no text file")]);
    expect(JSON.parse(empty.stdout)).toEqual({ failures: [expect.stringContaining("has no text file")] });
    expect(await demo(["--wat"]).ended).toMatchObject({ code: 2, stdout: "" });
  });
});

interface RunningDemo {
  readonly ended: Promise<{ readonly code: number | null; readonly stdout: string; readonly stderr: string }>;
  /** Resolves when standard error has such text; rejects when it ends without. */
  says(text: RegExp): Promise<void>;
  interrupt(): void;
}

function demo(args: readonly string[]): RunningDemo {
  const child = spawn(process.execPath, [program, ...args], {
    env: { ...process.env, TMPDIR: join(folder, "temporary") },
    stdio: ["ignore", "pipe", "pipe"],
  });
  let [stdout, stderr] = ["", ""];
  child.stdout.on("data", (chunk: Buffer) => (stdout += chunk.toString()));
  child.stderr.on("data", (chunk: Buffer) => (stderr += chunk.toString()));
  const closed = once(child, "close") as Promise<[number | null]>;
  return {
    ended: closed.then(([code]) => ({ code, stdout, stderr })),
    says: (text) =>
      new Promise((resolve, reject) => {
        child.stderr.on("data", () => {
          if (text.test(stderr)) resolve();
        });
        closed.then(() => reject(new Error(`It ended without saying ${String(text)}:\n${stderr}`)), reject);
      }),
    interrupt: () => {
      child.kill("SIGINT");
    },
  };
}

/** Temporary folders that are still there; a process that is left would have one of them as its data folder. */
function leftBehind(): Promise<string[]> {
  return readdir(join(folder, "temporary"));
}
