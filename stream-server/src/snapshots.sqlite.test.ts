import { statSync } from "node:fs";
import type { ServerFrame, WorkflowEvent, WorkflowRow } from "@millrace/schemas";
import { afterEach, expect, it } from "vitest";
import type { StreamClient } from "./testing/stream-client.ts";
import { completed, memoryWorld, progress, started, type World } from "./testing/world.ts";

let world: World;
afterEach(() => world.close());

/** Starts runs of two types in turn, all at once, and waits until they are projected. */
async function writeRuns(count: number, input: unknown = null): Promise<number> {
  const written = Array.from({ length: count }, (_, n) =>
    world.append(`run-${n}`, n % 2 === 0 ? "order" : "permit", [started(input)]),
  );
  const last = Math.max(...(await Promise.all(written)));
  await world.projection.waitFor(last, 20_000);
  return last;
}

function rowsOf(client: StreamClient, i = 1): readonly WorkflowRow[] {
  return client.frames.flatMap((frame: ServerFrame) =>
    frame.t === "snap" && frame.i === i ? (frame.rows as WorkflowRow[]) : [],
  );
}

const openFiles = async (): Promise<string> =>
  /millrace_snapshots_open (\d+)/.exec(await (await fetch(`${world.server.url}/metrics`)).text())?.[1] ?? "";

it("N1, N2: a list of any length comes in pages, all of one moment, whatever is written meanwhile", async () => {
  world = await memoryWorld({ server: { settings: { pageBytesMax: 8_192 } } });
  const before = await writeRuns(12_000);
  const client = await world.client();
  client.subscribe({ i: 1, from: "snapshot", shape: "state" });
  const { s } = await client.next("subbed");
  expect(s).toBe(before);
  client.pause();
  // The rest of the rows is read after these are projected, and shows none of them.
  let last = before;
  for (let n = 0; n < 20; n++)
    last = await world.append(`run-${11_960 + 2 * n}`, "order", [progress("later")]);
  last = await world.append("run-new", "order", [started()]);
  await world.projection.waitFor(last, 5_000);
  client.resume();
  await client.until(() => client.frames.some((frame) => frame.t === "live"), "live", 20_000);
  const rows = rowsOf(client);
  expect(rows).toHaveLength(12_000);
  expect(new Set(rows.map(({ id }) => id)).size).toBe(12_000);
  expect(rows.every(({ sequence, message }) => sequence <= before && message !== "later")).toBe(true);
  expect(client.frames.filter((frame) => frame.t === "snap").length).toBeGreaterThan(100);
  expect(
    client.frames
      .filter((frame) => frame.t === "snap")
      .map(({ more }) => more)
      .lastIndexOf(true),
  ).toBe(client.frames.filter((frame) => frame.t === "snap").length - 2);
  await client.until(() => client.cursors.get(1) === last, "the last", 10_000);
  expect(client.sequences(1)).toEqual(Array.from({ length: 21 }, (_, n) => before + 1 + n));
  expect(client.alarms).toBe(0);
});

it("filters by workflow, type, status and attribute, alone and together", async () => {
  world = await memoryWorld();
  const customer = (n: number): WorkflowEvent => ({
    type: "AttributesUpserted",
    data: { attributes: { customer: String(n) } },
  });
  for (let n = 0; n < 500; n++) {
    const type = n % 2 === 0 ? "order" : "permit";
    const end = n % 5 === 0 ? [completed()] : [];
    await world.append(`run-${n}`, type, [started(), customer(n % 3), ...end]);
  }
  await world.projection.waitFor(500, 5_000);
  const wanted = (test: (n: number) => boolean) =>
    Array.from({ length: 500 }, (_, n) => n)
      .filter(test)
      .map((n) => `run-${n}`)
      .sort();
  const cases = [
    [{ type: ["order"] }, wanted((n) => n % 2 === 0)],
    [{ type: ["permit", "order"] }, wanted(() => true)],
    [{ status: ["completed"] }, wanted((n) => n % 5 === 0)],
    [{ status: ["running", "completed"], type: ["permit"] }, wanted((n) => n % 2 === 1)],
    [{ attr: { customer: ["0", "1"] } }, wanted((n) => n % 3 < 2)],
    [
      { attr: { customer: "2" }, type: ["order"], status: ["running"] },
      wanted((n) => n % 3 === 2 && n % 2 === 0 && n % 5 !== 0),
    ],
    [{ workflow: ["run-1", "run-2", "nobody"], type: ["order"] }, ["run-2"]],
  ] as const;
  const client = await world.client();
  for (const [i, [filter, ids]] of cases.entries()) {
    client.subscribe({ i, from: "snapshot", filter: filter as never, shape: "state" });
    await client.next("live", (frame) => frame.i === i);
    expect(
      rowsOf(client, i)
        .map(({ id }) => id)
        .sort(),
    ).toEqual(ids);
  }
});

it("N3: a client that does not take its rows loses its snapshot with the reason, and the log beside the rows is folded back", async () => {
  // No connection is slow by its own account here, so that only the time counts.
  world = await memoryWorld({ server: { settings: { snapshotMs: 300, lowBytes: 1_000 } } });
  await writeRuns(2_000, "x".repeat(4_000));
  const client = await world.client();
  client.pause();
  client.subscribe({ i: 1, from: "snapshot" });
  await expect.poll(openFiles, { timeout: 10_000 }).toBe("1");
  await expect.poll(openFiles, { timeout: 10_000 }).toBe("0");
  client.resume();
  const refused = await client.next("err");
  expect(refused).toMatchObject({ i: 1, code: "timeout", retry: true });
  expect(refused.msg).toMatch(/300 ms.*Narrow the filter/);
  expect(rowsOf(client).length).toBeLessThan(2_000);
  // The id is free again, and the subscription is gone with its snapshot.
  client.subscribe({ i: 1, from: "snapshot", filter: { workflow: ["run-1"] } });
  await client.next("live");
  expect(statSync(`${world.path}-wal`).size).toBeLessThan(64 * 1_048_576);
});

it("N3: more than may be read at once wait in line; more than may wait are refused", async () => {
  world = await memoryWorld({
    server: { settings: { snapshotsMax: 1, snapshotsWaitingMax: 1, lowBytes: 1_000 } },
  });
  await writeRuns(2_000, "x".repeat(4_000));
  const [slow, waiting, refused] = [await world.client(), await world.client(), await world.client()];
  slow.pause();
  slow.subscribe({ i: 1, from: "snapshot" });
  await expect.poll(openFiles, { timeout: 10_000 }).toBe("1");
  waiting.subscribe({ i: 1, from: "snapshot", filter: { workflow: ["run-7"] } });
  await expect.poll(openFiles, { timeout: 10_000 }).toBe("2");
  refused.subscribe({ i: 1, from: "snapshot" });
  expect(await refused.next("err")).toMatchObject({ i: 1, code: "overloaded", retry: true });
  slow.cut();
  await waiting.next("snapend");
  expect(rowsOf(waiting).map(({ id }) => id)).toEqual(["run-7"]);
  await expect.poll(openFiles, { timeout: 10_000 }).toBe("0");
});
