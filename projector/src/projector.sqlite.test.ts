import { existsSync, readdirSync } from "node:fs";
import { dirname } from "node:path";
import { createMemoryLog, type EventLog } from "@millrace/event-log";
import { encodeCommit } from "@millrace/schemas";
import BetterSqlite3 from "better-sqlite3";
import { describe, expect, onTestFinished, test, vi } from "vitest";
import { threeStepRuns } from "./fixture/sample-history.ts";
import { createSampleLog } from "./fixture/sample-log.ts";
import {
  caughtUp,
  projectAll,
  startTestProjector,
  temporaryProjection,
} from "./fixture/temporary-projection.ts";
import { openProjection, type OpenedProjection } from "./open-projection.ts";
import { startProjector, type ProjectorStatus } from "./projector.ts";
import { rebuildProjection, verifyProjection } from "./rebuild.ts";
import { hashProjection } from "./sqlite/hash-projection.ts";

function open(path: string, log?: EventLog): OpenedProjection {
  const projection = openProjection({ path, ...(log === undefined ? {} : { log }) });
  onTestFinished(() => projection.close());
  return projection;
}

const filesBeside = (path: string) =>
  readdirSync(dirname(path))
    .filter((name) => name.endsWith(".sqlite"))
    .sort();

describe("following", () => {
  test("a commit that comes alone is stored at once, however large a batch may be", async () => {
    const { log, fill } = createSampleLog();
    const path = temporaryProjection();
    const advances: number[] = [];
    const projector = await startTestProjector({
      log,
      path,
      batchMax: 1_000,
      onAdvance: (n) => advances.push(n),
    });
    const projection = open(path);
    const [first, second] = threeStepRuns(1);
    if (first === undefined || second === undefined) throw new Error("The sample run is empty.");
    await fill([first]);
    await caughtUp(projector, log);
    await fill([second]);
    await caughtUp(projector, log);
    expect(advances).toEqual([1, 2]);
    expect(projection.workflow("order-0")).toMatchObject({
      status: "running",
      currentStep: 1,
      totalSteps: 3,
      sequence: 2,
    });
  });

  test("I3: onAdvance and the hint to others come with a sequence that can be read", async () => {
    const { log, server, fill } = createSampleLog();
    const path = temporaryProjection();
    const other = createMemoryLog({ server });
    const read: [string, number, number][] = [];
    const projection = open(path);
    const seen = (by: string) => (sequence: number) =>
      read.push([by, sequence, projection.checkpoint().sequence]);
    other.onAnnounce("projector", seen("hint"));
    await fill(threeStepRuns(30));
    const projector = await startTestProjector({ log, path, batchMax: 7, onAdvance: seen("call") });
    await caughtUp(projector, log);
    await vi.waitFor(() => expect(read.filter(([by]) => by === "hint").at(-1)?.[1]).toBe(120));
    expect(read.filter(([by]) => by === "call").map(([, sequence]) => sequence)).toContain(119);
    for (const [, sequence, checkpoint] of read) expect(checkpoint).toBeGreaterThanOrEqual(sequence);
  });

  test("a batch that was announced to go on and does not is stored all the same", async () => {
    const { log, fill } = createSampleLog();
    const path = temporaryProjection();
    // A broker that always says that more is ready.
    const eager: EventLog = {
      ...log,
      follow: (options) => log.follow({ ...options, onCommit: (commit) => options.onCommit(commit, 1) }),
    };
    await fill(threeStepRuns(2));
    const projector = await startTestProjector({ log: eager, path });
    await caughtUp(projector, log);
    expect(projector.position).toBe(8);
  });

  test("a restart goes on from the checkpoint and reads no commit again", async () => {
    const { log, fill } = createSampleLog();
    const path = temporaryProjection();
    await fill(threeStepRuns(5));
    await projectAll({ log, path });
    await fill(threeStepRuns(8).slice(20));
    const after: number[] = [];
    const watched: EventLog = {
      ...log,
      follow: (options) => log.follow((after.push(options.after), options)),
    };
    await projectAll({ log: watched, path });
    expect(after).toEqual([20]);
    expect(open(path).checkpoint().sequence).toBe(32);
  });

  test("status tells catching up, live, interrupted and stopped", async () => {
    const { log, server, fill } = createSampleLog();
    const statuses: ProjectorStatus[] = [];
    await fill(threeStepRuns(2));
    const projector = await startProjector({
      log,
      path: temporaryProjection(),
      onStatus: (status) => statuses.push(status),
    });
    expect(projector.status).toBe("catching-up");
    await vi.waitFor(() => expect(projector.status).toBe("live"));
    server.disconnect();
    await vi.waitFor(() => expect(projector.status).toBe("interrupted"));
    server.reconnect();
    await vi.waitFor(() => expect(projector.status).toBe("live"));
    await projector.stop();
    await projector.stop();
    expect(statuses).toEqual(["live", "interrupted", "catching-up", "live", "stopped"]);
  });

  test("an empty log is live at once", async () => {
    const { log } = createSampleLog();
    const projector = await startTestProjector({ log, path: temporaryProjection() });
    expect([projector.status, projector.position]).toEqual(["live", 0]);
  });

  test("I4: a second projector on the file makes the first one stop, and neither harms the rows", async () => {
    const { log, fill } = createSampleLog();
    const path = temporaryProjection();
    const errors: unknown[] = [];
    const first = await startTestProjector({ log, path, onStatus: (_, error) => errors.push(error) });
    const second = await startTestProjector({ log, path, onStatus: (_, error) => errors.push(error) });
    await fill(threeStepRuns(3));
    await vi.waitFor(() => expect([first.status, second.status].sort()).toEqual(["failed", "live"]));
    expect(errors).toContainEqual(expect.objectContaining({ code: "data_folder_in_use" }));
    expect(await verifyProjection({ log, path })).toMatchObject({ equal: true, live: { sequence: 12 } });
  });

  test("a folder that is not there is refused with the next step", async () => {
    const { log } = createSampleLog();
    await expect(
      startProjector({ log, path: `${temporaryProjection()}/none/projection.sqlite` }),
    ).rejects.toMatchObject({
      code: "data_folder_not_writable",
    });
  });
});

describe("a commit that cannot be read", () => {
  test("stops its own run's row, is told of, and stays in no history; what follows it does", async () => {
    const { log, fill, put } = createSampleLog();
    const path = temporaryProjection();
    const runs = threeStepRuns(2, 1);
    await fill(runs.slice(0, 2));
    await put("order-0", "order", '{"v":1,"events":[{"type":"WorkflowDreamt","data":{}}]}');
    await fill(runs.slice(2));
    const logged: unknown[] = [];
    const logger = {
      info: () => undefined,
      warn: () => undefined,
      error: (fields: object) => logged.push(fields),
    };
    const projector = await startTestProjector({ log, path, logger });
    await caughtUp(projector, log);

    const projection = open(path);
    expect(projection.workflow("order-0")).toMatchObject({ status: "running", sequence: 2, currentStep: 1 });
    expect(projection.workflow("order-1")).toMatchObject({ status: "completed", currentStep: 3 });
    expect(
      projection.commits({ workflow: ["order-0"] }, 0, 10, 1e6).commits.map(({ sequence }) => sequence),
    ).toEqual([1, 2, 4, 5]);
    expect(projection.quarantined().map(({ sequence, workflowId }) => [sequence, workflowId])).toEqual([
      [5, "order-0"],
      [4, "order-0"],
      [3, "order-0"],
    ]);
    expect(projection.quarantined().at(-1)?.error).toContain("WorkflowDreamt");
    expect(logged).toHaveLength(3);
    expect(projector.status).toBe("live");
    // The state as of a sequence beyond the hole is the one at which the row stopped.
    expect(projection.stateAt("order-0", 5)?.sequence).toBe(2);
    expect(await verifyProjection({ log, path })).toMatchObject({ equal: true });
  });

  test("as a run's first one shows no run at all, and its later commits go to quarantine", async () => {
    const { log, fill, put } = createSampleLog();
    const path = temporaryProjection();
    await put("order-0", "order", "nonsense");
    await fill(threeStepRuns(1).slice(1));
    await projectAll({ log, path });
    // Once more with what the first run left in the file.
    await fill(threeStepRuns(1).slice(1));
    await projectAll({ log, path });
    const projection = open(path);
    expect(projection.workflow("order-0")).toBeNull();
    expect(projection.list({}).items).toEqual([]);
    expect(projection.stateAt("order-0", 7)).toBeNull();
    expect(projection.quarantined()).toHaveLength(7);
    expect(await verifyProjection({ log, path })).toMatchObject({ equal: true });
  });

  test("stops a rebuild and leaves no file", async () => {
    const { log, fill, put } = createSampleLog();
    await fill(threeStepRuns(1));
    await put("order-0", "order", "nonsense");
    const path = temporaryProjection();
    await expect(rebuildProjection({ log, path })).rejects.toMatchObject({ code: "commit_malformed" });
    expect(readdirSync(dirname(path))).toEqual([]);
  });
});

describe("I2: a file of another log", () => {
  test("recreated while away: put aside, built anew, told of", async () => {
    const { log, server, fill } = createSampleLog();
    const path = temporaryProjection();
    await fill(threeStepRuns(3));
    await projectAll({ log, path });
    server.recreate(log.namespace);
    const now = createMemoryLog({ server });
    await fill(threeStepRuns(1));
    const projection = open(path);
    expect(projection.checkpoint().sequence).toBe(12);
    const told: (string | undefined)[] = [];
    const warned: string[] = [];
    const projector = await startTestProjector({
      log: now,
      path,
      onStatus: (status, error) => told.push(status, error?.message),
      logger: { info: () => undefined, warn: (_, message) => warned.push(message), error: () => undefined },
    });
    await caughtUp(projector, now);
    expect(told[0]).toBe("rebuilding");
    expect(told[1]).toContain("projection-stale-12.sqlite");
    expect(warned).toEqual([told[1]]);
    expect(filesBeside(path)).toEqual(["projection-stale-12.sqlite", "projection.sqlite"]);
    // The reader that had the old file open reads the new one.
    expect(projection.checkpoint()).toMatchObject({ sequence: 4, streamCreated: (await now.info()).created });
    expect(projection.workflow("order-2")).toBeNull();
    expect(await verifyProjection({ log: now, path })).toMatchObject({ equal: true });
  });

  test("diverged while away: the sequences that were used again are those of the log", async () => {
    const { log, server, fill } = createSampleLog();
    const path = temporaryProjection();
    const runs = threeStepRuns(4, 1);
    await fill(runs.slice(0, 8));
    await projectAll({ log, path });
    server.cutTail(log.namespace, 4);
    await fill(runs.slice(8));
    await projectAll({ log, path });
    expect(filesBeside(path)).toEqual(["projection-stale-8.sqlite", "projection.sqlite"]);
    expect(
      open(path)
        .list({})
        .items.map(({ id }) => id),
    ).toEqual(["order-3", "order-2", "order-0"]);
    expect(await verifyProjection({ log, path })).toMatchObject({ equal: true });
  });

  test("diverged while running: goes on from zero by itself", async () => {
    const { log, server, fill } = createSampleLog();
    const path = temporaryProjection();
    const runs = threeStepRuns(4, 1);
    const statuses: ProjectorStatus[] = [];
    await fill(runs.slice(0, 8));
    const projector = await startTestProjector({ log, path, onStatus: (status) => statuses.push(status) });
    await caughtUp(projector, log);
    server.disconnect();
    server.cutTail(log.namespace, 4);
    server.reconnect();
    await fill(runs.slice(8));
    await vi.waitFor(() => expect(projector.status).toBe("live"));
    await caughtUp(projector, log);
    expect(statuses).toContain("rebuilding");
    expect(filesBeside(path)).toEqual(["projection-stale-8.sqlite", "projection.sqlite"]);
    expect(await verifyProjection({ log, path })).toMatchObject({ equal: true, live: { sequence: 12 } });
  });

  test("recreated while running: the old rows are put aside, and the connection that cannot go on is named", async () => {
    const { log, server, fill } = createSampleLog();
    const path = temporaryProjection();
    await fill(threeStepRuns(2));
    const errors: (Error | undefined)[] = [];
    const projector = await startTestProjector({ log, path, onStatus: (_, error) => errors.push(error) });
    await caughtUp(projector, log);
    server.disconnect();
    server.recreate(log.namespace);
    server.reconnect();
    await vi.waitFor(() => expect(projector.status).toBe("failed"));
    expect(errors.at(-1)).toMatchObject({ code: "log_recreated" });
    expect(open(path).checkpoint().sequence).toBe(0);
    expect(existsSync(path.replace(".sqlite", "-stale-8.sqlite"))).toBe(true);
    const now = createMemoryLog({ server });
    await fill(threeStepRuns(1));
    await projectAll({ log: now, path });
    expect(await verifyProjection({ log: now, path })).toMatchObject({ equal: true, live: { sequence: 4 } });
  });

  test("a log that lost commits after the checkpoint is an error with the next step, and the file stays", async () => {
    const { log, fill } = createSampleLog();
    const path = temporaryProjection();
    await fill(threeStepRuns(1));
    await projectAll({ log, path });
    const before = hashProjection(path);
    const expired: EventLog = { ...log, verify: async () => "expired" };
    await expect(startProjector({ log: expired, path })).rejects.toMatchObject({
      code: "checkpoint_mismatch",
      message: expect.stringContaining("restore the log") as string,
    });
    expect(hashProjection(path)).toEqual(before);
  });

  test("a file with tables of another version is put aside and built anew; readers wait for the new one", async () => {
    const { log, fill } = createSampleLog();
    const path = temporaryProjection();
    await fill(threeStepRuns(2));
    await projectAll({ log, path });
    const file = new BetterSqlite3(path);
    file.pragma("user_version = 999");
    file.close();
    const projection = open(path);
    expect(projection.checkpoint().sequence).toBe(0);
    await projectAll({ log, path });
    expect(filesBeside(path)).toEqual(["projection-v999.sqlite", "projection.sqlite"]);
    expect(projection.checkpoint().sequence).toBe(8);
    expect(await verifyProjection({ log, path })).toMatchObject({ equal: true });
  });
});

describe("verification", () => {
  test("finds a row that is not what the log says, and names its table", async () => {
    const { log, fill } = createSampleLog();
    const path = temporaryProjection();
    await fill(threeStepRuns(3));
    await projectAll({ log, path });
    const file = new BetterSqlite3(path);
    file.exec("update steps set output = '{}' where run = 1 and position = 1");
    file.close();
    const verification = await verifyProjection({ log, path });
    expect(verification).toMatchObject({ equal: false, differing: ["steps"] });
    expect(filesBeside(path)).toEqual(["projection.sqlite"]);
  });

  test("compares at the live file's checkpoint, whatever the log has beyond it", async () => {
    const { log, fill } = createSampleLog();
    const path = temporaryProjection();
    await fill(threeStepRuns(3));
    await projectAll({ log, path });
    await fill(threeStepRuns(5).slice(12));
    expect(await verifyProjection({ log, path })).toMatchObject({ equal: true, rebuilt: { sequence: 12 } });
  });

  test("a rebuild does not write over a file, nor beyond the log", async () => {
    const { log, put } = createSampleLog();
    const path = temporaryProjection();
    await put("a", "order", encodeCommit("a", [{ type: "WorkflowCancelled", data: {} }]));
    await expect(rebuildProjection({ log, path, upTo: 2 })).rejects.toMatchObject({ code: "cursor_future" });
    await rebuildProjection({ log, path });
    await expect(rebuildProjection({ log, path })).rejects.toMatchObject({ code: "invalid_request" });
  });
});
