/** Operators' commands with `--json`: what scripts get, and by whom it was done. */
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { BulkAnswer, BulkPreview, EventRow, WorkflowRow } from "@millrace/schemas";
import {
  eventually,
  jsonError,
  jsonLines,
  millrace,
  Server,
  temporaryFolder,
  type ReadyValue,
} from "./testing/cli-process.ts";

interface Answer {
  readonly sequence: number;
  readonly run?: number;
  readonly id?: string;
}

describe("operators' commands", () => {
  let folder: Awaited<ReturnType<typeof temporaryFolder>>;
  let server: Server;
  let ready: ReadyValue;
  const client = (...args: string[]) =>
    millrace([...args, "--url", ready.url, "--json"], { MILLRACE_BY: "ada" });
  const one = async (...args: string[]): Promise<Answer> => {
    const [answer] = jsonLines<Answer>(await client(...args));
    if (answer === undefined) throw new Error(`${args.join(" ")} printed nothing`);
    return answer;
  };
  const rowOf = async (id: string, min: number) =>
    jsonLines<WorkflowRow & { whyNotMoving: string | null }>(
      await client("show", id, "--min", String(min)),
    )[0];
  const permit = (id: string, ...attr: string[]) =>
    one("start", "permit", "--id", id, "--driver", "external", "--attr", ...attr);

  beforeAll(async () => {
    folder = await temporaryFolder();
    server = new Server(["dev", "--data", join(folder.path, "data"), "--port", "0"]);
    ready = await server.ready();
  });
  afterAll(async () => {
    await server.kill();
    await folder.remove();
  });

  it("print the server's answer, and say who in the history", async () => {
    await permit("p-1", "customer=7");
    const paused = await one("pause", "p-1", "--reason", "audit");
    expect(await rowOf("p-1", paused.sequence)).toMatchObject({
      status: "paused",
      paused: { by: "ada", reason: "audit" },
      whyNotMoving: expect.stringMatching(/^paused by ada since .* \(audit\)/) as string,
    });
    const resumed = await one("resume", "p-1", "--by", "bob");
    expect(resumed.sequence).toBeGreaterThan(paused.sequence);
    expect(await one("signal", "p-1", "go", "--payload", "[1]")).toMatchObject({
      sequence: expect.any(Number) as number,
    });
    expect(await one("reset", "p-1")).toMatchObject({ run: 2 });
    const forked = await one("fork", "p-1", "--id", "p-2");
    expect(forked).toMatchObject({ id: "p-2", created: true });
    const ended = await one("terminate", "p-2", "--reason", "enough");
    expect((await rowOf("p-2", ended.sequence))?.status).toBe("terminated");
    const events = jsonLines<EventRow>(await client("history", "p-1"));
    expect(events.map(({ type, data }) => [type, (data as { by?: string }).by])).toEqual([
      ["WorkflowStarted", undefined],
      ["WorkflowPaused", "ada"],
      ["WorkflowResumed", "bob"],
      ["SignalReceived", "ada"],
      ["WorkflowReset", "ada"],
      ["WorkflowStarted", undefined],
      ["SignalReceived", "ada"],
    ]);
    const refused = await client("retry", "p-1");
    expect([refused.code, jsonError(refused).code]).toEqual([4, "workflow_not_failed"]);
  });

  it("for many: a preview, then a page a line, and the exit code of a refusal", async () => {
    const started = [];
    for (let n = 0; n < 5; n++) started.push(await permit(`b-${n}`, "batch=1"));
    const last = await one("terminate", "b-3");
    await eventually("the list shows the end of b-3", 5_000, async () => {
      const row = await rowOf("b-3", last.sequence);
      return row?.status === "terminated";
    });
    const filter = ["--attr", "batch=1"];
    const [preview] = jsonLines<BulkPreview>(await client("bulk", "pause", ...filter, "--dry-run"));
    expect(preview).toEqual({ count: 5, exact: true, ids: ["b-4", "b-3", "b-2", "b-1", "b-0"] });
    const paused = await client("bulk", "pause", ...filter, "--limit", "2", "--reason", "audit");
    expect(paused.code).toBe(4);
    const pages = paused.stdout
      .split("\n")
      .filter((line) => line !== "")
      .map((line) => JSON.parse(line) as BulkAnswer);
    expect(pages.map(({ done, failed }) => [done, failed.map(({ id, code }) => `${id} ${code}`)])).toEqual([
      [1, ["b-3 workflow_closed"]],
      [2, []],
      [1, []],
    ]);
    // It was cut off after the first page: the position that it told goes on.
    const rest = jsonLines<BulkAnswer>(
      await client("bulk", "pause", ...filter, "--limit", "3", "--after", String(pages[0]?.next)),
    );
    expect(rest.map(({ done }) => done)).toEqual([3]);
    const nothing = await client("bulk", "dance", "--type", "permit");
    expect([nothing.code, jsonError(nothing).message]).toEqual([
      2,
      expect.stringContaining('"dance" is no command'),
    ]);
    const everything = await client("bulk", "terminate");
    expect([everything.code, jsonError(everything).message]).toEqual([
      2,
      expect.stringContaining("its filter is empty"),
    ]);
  });
});
