import { spawn } from "node:child_process";
import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { beforeEach, expect, onTestFinished, test } from "vitest";
import type { DataFolderLock } from "./data-folder-lock.ts";
import { lockDataFolder } from "./data-folder-lock.ts";
import { runCompiled } from "./run-compiled.ts";

let dataDir: string;
beforeEach(async () => {
  dataDir = await mkdtemp(join(tmpdir(), "millrace-lock-"));
});

/** A process that waits until it is killed. */
function sleeper(): { readonly pid: number; kill(): Promise<void> } {
  const child = spawn(process.execPath, ["-e", "setInterval(() => {}, 1000)"], { stdio: "ignore" });
  const closed = new Promise<void>((resolve) => child.once("close", () => resolve()));
  const kill = async (): Promise<void> => {
    child.kill("SIGKILL");
    await closed;
  };
  onTestFinished(kill);
  if (child.pid === undefined) throw new Error("Cannot start a child process");
  return { pid: child.pid, kill };
}

const holdScript = `
  import { lockDataFolder } from "./dist/broker/data-folder-lock.js";
  const [dataDir, guardPid] = process.argv.slice(1);
  const lock = await lockDataFolder(dataDir);
  if (guardPid !== undefined) await lock.record({ guard: Number(guardPid) });
  console.log("held");
  setInterval(() => {}, 1000);
`;

async function recordOfThisProcess(): Promise<string> {
  const elsewhere = await mkdtemp(join(tmpdir(), "millrace-lock-"));
  await lockDataFolder(elsewhere);
  return readFile(join(elsewhere, "lock.1"), "utf8");
}

/** Leaves the folder as a holder does that was killed, with the lock record changed by `change`. */
async function abandon(
  change: (record: Record<string, unknown>) => Record<string, unknown> = (same) => same,
) {
  const lock = await lockDataFolder(dataDir);
  const path = join(dataDir, "lock.1");
  const record = JSON.parse(await readFile(path, "utf8")) as Record<string, unknown>;
  await lock.release();
  await writeFile(path, JSON.stringify(change(record)));
}

test("I1: a second start is refused with folder, holder and next step; after release it is free", async () => {
  const lock = await lockDataFolder(dataDir);
  await expect(lockDataFolder(dataDir)).rejects.toMatchObject({
    code: "data_folder_in_use",
    message: expect.stringContaining(`${dataDir} is in use by the launcher with pid ${process.pid}. Stop it`),
    details: { dataDir, pid: process.pid },
  });
  await lock.release();
  await lock.release();
  await (await lockDataFolder(dataDir)).release();
});

test("I1: a folder held by another process is refused while it lives and taken over after kill -9", async () => {
  const holder = await runCompiled(holdScript, [dataDir]);
  onTestFinished(() => holder.kill("SIGKILL"));
  await holder.nextLine();
  await expect(lockDataFolder(dataDir)).rejects.toMatchObject({ details: { pid: holder.pid } });
  holder.kill("SIGKILL");
  await holder.closed;
  await (await lockDataFolder(dataDir)).release();
});

test("I1, I2: of many starters at an abandoned lock exactly one gets it", async () => {
  for (let round = 0; round < 20; round += 1) {
    dataDir = await mkdtemp(join(tmpdir(), "millrace-lock-"));
    await abandon((record) => ({
      ...record,
      processes: [{ role: "launcher", pid: 2 ** 22 + 1, startedAt: null }],
    }));
    const starters = await Promise.allSettled(Array.from({ length: 16 }, () => lockDataFolder(dataDir)));
    const won = starters.filter((each) => each.status === "fulfilled");
    expect(won, `round ${round}`).toHaveLength(1);
    const refusals = starters.flatMap((each) => (each.status === "rejected" ? [each.reason as unknown] : []));
    for (const each of refusals) expect(each).toMatchObject({ code: "data_folder_in_use" });
    await won[0]?.value.release();
  }
});

test("I1, I2: processes that take and release in turns never hold at the same time", async () => {
  const contender = `
    import { lockDataFolder } from "./dist/broker/data-folder-lock.js";
    import { openSync, closeSync, rmSync } from "node:fs";
    const [dataDir] = process.argv.slice(1);
    let turns = 0;
    while (turns < 25) {
      const lock = await lockDataFolder(dataDir).catch((error) => {
        if (error.code !== "data_folder_in_use") throw error;
      });
      if (lock === undefined) continue;
      closeSync(openSync(dataDir + "/witness", "wx"));
      await new Promise((resolve) => setImmediate(resolve));
      rmSync(dataDir + "/witness");
      await lock.release();
      turns += 1;
    }
    console.log("done");
  `;
  const contenders = await Promise.all([1, 2, 3].map(() => runCompiled(contender, [dataDir])));
  expect(await Promise.all(contenders.map((each) => each.nextLine()))).toEqual(["done", "done", "done"]);
});

test("I2: the highest number stays, so the folder does not fill with locks", async () => {
  for (let turn = 0; turn < 3; turn += 1) await (await lockDataFolder(dataDir)).release();
  expect(await readdir(dataDir)).toEqual(["lock.3"]);
});

test("I2: a starter that looked before others came and went does not reuse their number", async () => {
  const guard = sleeper();
  await abandon((record) => ({
    ...record,
    processes: [
      { role: "launcher", pid: 2 ** 22 + 1, startedAt: null },
      { role: "guard", pid: guard.pid, startedAt: null },
    ],
  }));
  const slow = lockDataFolder(dataDir);
  // It has drafted its record and waits at lock.1. Meanwhile 2 came and went, and this process holds 3.
  await expect.poll(() => readdir(dataDir)).toHaveLength(2);
  await writeFile(join(dataDir, "lock.3"), await recordOfThisProcess());
  await rm(join(dataDir, "lock.1"));
  await expect(slow).rejects.toMatchObject({ code: "data_folder_in_use", details: { pid: process.pid } });
  expect(await readdir(dataDir)).toEqual(["lock.3"]);
});

test("I3: after kill -9 of the launcher a start waits until the recorded guard is gone", async () => {
  const guard = sleeper();
  const holder = await runCompiled(holdScript, [dataDir, String(guard.pid)]);
  await holder.nextLine();
  holder.kill("SIGKILL");
  await holder.closed;
  const order: string[] = [];
  const taken = lockDataFolder(dataDir).then((lock: DataFolderLock) => {
    order.push("taken");
    return lock;
  });
  await expect(
    Promise.race([taken, new Promise((resolve) => setTimeout(resolve, 300, "waiting"))]),
  ).resolves.toBe("waiting");
  order.push("guard gone");
  await guard.kill();
  await (await taken).release();
  expect(order).toEqual(["guard gone", "taken"]);
});

test("I4: a recycled process id does not block the folder", async (context) => {
  context.skip(process.platform !== "linux", "only Linux tells when a process started");
  const { pid } = sleeper();
  await abandon((record) => ({
    ...record,
    processes: [{ role: "launcher", pid, startedAt: "another-boot/1" }],
  }));
  const lock = await lockDataFolder(dataDir);
  expect(await readdir(dataDir)).toEqual(["lock.2"]);
  await lock.release();
});

test("I5: a holder on another host is not judged; the message says how to decide", async () => {
  await abandon((record) => ({ ...record, host: "elsewhere" }));
  await expect(lockDataFolder(dataDir)).rejects.toMatchObject({
    code: "data_folder_in_use",
    message: expect.stringMatching(/on host elsewhere\..*delete .*lock\.1/),
  });
});

test("a folder that cannot be written is data_folder_not_writable", async () => {
  // Not by permissions: root may write everywhere.
  const file = join(dataDir, "a-file");
  await writeFile(file, "");
  for (const each of [
    file,
    join(file, "below"),
    ...(process.platform === "linux" ? ["/proc/millrace"] : []),
  ]) {
    await expect(lockDataFolder(each), each).rejects.toMatchObject({
      code: "data_folder_not_writable",
      message: expect.stringContaining(`Cannot write to data folder ${each} (`),
      details: { dataDir: each },
    });
  }
});
