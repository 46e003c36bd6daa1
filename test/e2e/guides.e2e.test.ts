/** The programs of docs/guides do what the guides say, on a real broker. */
import { execFile } from "node:child_process";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { startBroker, type Broker } from "@millrace/event-log/broker";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { temporaryFolder } from "./temporary-folder.ts";

const root = fileURLToPath(new URL("../../", import.meta.url));

describe("guides", () => {
  let folder: Awaited<ReturnType<typeof temporaryFolder>>;
  let broker: Broker;
  beforeAll(async () => {
    folder = await temporaryFolder();
    broker = await startBroker({ dataDir: folder.path });
  });
  afterAll(async () => {
    await broker.stop();
    await folder.remove();
  });

  async function run(example: string): Promise<string[]> {
    const file = join(root, "examples/dist", `${example}.js`);
    const env = { ...process.env, MILLRACE_NATS_URL: broker.url };
    const { stdout } = await promisify(execFile)(process.execPath, [file], { env });
    return stdout.trimEnd().split("\n");
  }

  /** The fenced block behind these words, as lines; what differs from run to run is `…` and fits anything. */
  async function promised(guide: string, behind: string): Promise<RegExp[]> {
    const text = await readFile(join(root, "docs/guides", `${guide}.md`), "utf8");
    const block = /```\n([\s\S]*?)```/.exec(text.slice(text.indexOf(behind)))?.[1] ?? "";
    const literal = (part: string): string => part.replace(/[$()*+.?[\\\]^{|}]/g, String.raw`\$&`);
    return block
      .trimEnd()
      .split("\n")
      .map((line) => new RegExp(`^${line.split("…").map(literal).join(".*")}`));
  }

  it("task-queues: a retry, a dead letter, a redrive", async () => {
    const lines = await run("tasks");
    const wanted = await promised("task-queues", "It prints");
    expect(lines).toHaveLength(wanted.length);
    for (const [index, line] of lines.entries()) expect(line).toMatch(wanted[index] ?? /^$/);
  });

  it("sealed: the owner reads everything, others the stored forms", async () => {
    const lines = await run("sealed");
    const wanted = await promised("payloads", "It prints (");
    expect(lines).toHaveLength(wanted.length);
    for (const [index, line] of lines.entries()) expect(line).toMatch(wanted[index] ?? /^$/);
    expect(lines.slice(1).join("\n")).not.toContain("Ada");
  });

  it("nightly: a backfill over a change of the clock, and a run now", async () => {
    const lines = await run("nightly");
    const wanted = await promised("schedules", "It prints");
    expect(lines).toHaveLength(wanted.length);
    for (const [index, line] of lines.entries()) expect(line).toMatch(wanted[index] ?? /^$/);
  });

  it("middleware: counts, spans and log lines", async () => {
    const lines = await run("middleware");
    const wanted = await promised("middleware", "It prints the log lines");
    const printed = lines.slice(-wanted.length);
    for (const [index, line] of printed.entries()) expect(line).toMatch(wanted[index] ?? /^$/);
    const logged = lines
      .filter((line) => line.includes('"step":"charge"') || line.includes('"msg":"Order '))
      .map((line) => JSON.parse(line) as Record<string, unknown>);
    const ofRun = { workflowId: "order-middleware", type: "order", run: 1 };
    expect(logged).toMatchObject([
      { ...ofRun, msg: "Order came in", amount: 42 },
      { ...ofRun, msg: "Charged", step: "charge", attempt: 2 },
      { ...ofRun, msg: "Order is paid", paid: 42 },
    ]);
  });
});
