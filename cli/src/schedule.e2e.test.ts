/** `millrace schedule …` against a server with a real broker. */
import type { Page, ScheduleRow, WorkflowRow } from "@millrace/schemas";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  eventually,
  jsonError,
  jsonLines,
  millrace,
  Server,
  temporaryFolder,
  type ReadyValue,
} from "./testing/cli-process.ts";

describe("millrace schedule", () => {
  let folder: Awaited<ReturnType<typeof temporaryFolder>>;
  let server: Server;
  let ready: ReadyValue;
  const schedule = (...args: string[]) => millrace(["schedule", ...args, "--url", ready.url]);
  const json = async <T>(...args: string[]): Promise<T> => {
    const [value] = jsonLines<T>(await schedule(...args, "--json"));
    if (value === undefined) throw new Error("nothing was printed");
    return value;
  };
  const create = (id: string, ...args: string[]) =>
    json<{ sequence: number; created: boolean }>(
      ...["create", id, "--type", "hello", "--input", '{"name":"Ada"}', ...args],
    );

  beforeAll(async () => {
    folder = await temporaryFolder();
    server = new Server(["dev", "--data", folder.path, "--port", "0", "--examples"]);
    ready = await server.ready();
  });
  afterAll(async () => {
    await server.kill();
    await folder.remove();
  });

  it("creates a schedule that fires by itself, every second, and shows it", async () => {
    const { sequence, created } = await create("often", "--every", "1s", "--overlap", "allow");
    expect(created).toBe(true);
    await eventually("two runs", 30_000, async () => {
      const { counts } = await json<ScheduleRow>("show", "often", "--min", String(sequence));
      return counts.triggered >= 2;
    });
    const [page] = jsonLines<Page<WorkflowRow>>(
      await millrace(["list", "--attr", "schedule=often", "--url", ready.url, "--json"]),
    );
    expect(page?.items.length).toBeGreaterThanOrEqual(1);
    expect(page?.items[0]?.id).toMatch(/^often-\d{8}T\d{6}Z$/);
    await json("delete", "often");
    expect(jsonError(await schedule("show", "often", "--json")).code).toBe("schedule_not_found");
  });

  it("pauses, resumes, triggers, backfills, updates, and says why it does not fire", async () => {
    const { sequence } = await create("n", "--cron", "0 3 * * *", "--time-zone", "Europe/Amsterdam");
    expect((await create("n", "--cron", "0 3 * * *", "--time-zone", "Europe/Amsterdam")).created).toBe(false);
    expect(await json("show", "n", "--min", String(sequence))).toMatchObject({
      cron: "0 3 * * *",
      whyNotFiring: null,
    });
    const paused = await json<{ sequence: number }>("pause", "n", "--reason", "audit", "--by", "ada");
    expect(await json("show", "n", "--min", String(paused.sequence))).toMatchObject({
      whyNotFiring: expect.stringMatching(/paused since .* by ada: audit/) as string,
    });
    const first = await json<{ workflowId: string; started: boolean }>("trigger", "n", "--key", "k");
    expect(first.started).toBe(true);
    expect(await json("trigger", "n", "--key", "k")).toMatchObject({ workflowId: first.workflowId });
    await json("resume", "n");
    const span = ["--from", "2026-01-01T00:00:00Z", "--to", "2026-01-03T00:00:00Z"];
    expect(await json("backfill", "n", ...span)).toMatchObject({ ticks: 2 });
    await eventually("both are filled", 30_000, async () => {
      const finished = await millrace(["list", "--attr", "schedule=n", "--url", ready.url, "--json"]);
      const [page] = jsonLines<Page<WorkflowRow>>(finished);
      return page?.items.filter(({ status }) => status === "completed").length === 3;
    });
    const updated = await json<{ sequence: number }>(
      ...["update", "n", "--type", "hello", "--every", "1d", "--note", "slower"],
    );
    expect(await json("show", "n", "--min", String(updated.sequence))).toMatchObject({
      cron: null,
      everyMs: 86_400_000,
      note: "slower",
    });
    const page = await json<Page<ScheduleRow>>("list");
    expect(page.items.map(({ id }) => id)).toEqual(["n"]);
  });

  it("prints for people, and exits by what went wrong", async () => {
    const shown = await schedule("show", "n");
    expect(shown.stdout).toMatch(/^n {2}active {2}every 86400000 ms {2}starts hello/);
    expect((await schedule("list")).stdout).toContain("hello");
    const codes = await Promise.all([
      schedule("show", "nobody", "--json"),
      schedule("create", "n", "--type", "hello", "--every", "2h", "--json"),
      schedule("create", "x", "--type", "hello", "--every", "soon", "--json"),
      schedule("create", "x", "--type", "hello", "--cron", "0 25 * * *", "--json"),
      schedule("create", "x", "--type", "unheard-of", "--every", "2h", "--json"),
    ]);
    expect(codes.map((each) => [each.code, jsonError(each).code])).toEqual([
      [3, "schedule_not_found"],
      [4, "schedule_exists"],
      [2, "invalid_request"],
      [2, "invalid_request"],
      [3, "workflow_type_unknown"],
    ]);
  });
});
