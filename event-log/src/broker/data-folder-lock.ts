/**
 * Owns: the right to use a data folder, as files `lock.1`, `lock.2`, … in it, of which the highest is the lock.
 * Does not own: what else is in the folder; ending any process.
 *
 * I1 At most one live holder: taking over is creating the next number with `link`, which the file system lets only one
 *    starter do. A plain lock file cannot do that: of two starters that both saw the old holder dead, the slower one
 *    would delete the lock that the faster one just took.
 * I2 The highest number is never deleted, so a slow starter cannot reuse a number that is gone: it sees a higher one
 *    after linking and withdraws. Releasing writes "released" into the file instead.
 * I3 The lock is held as long as any process recorded in it lives: the launcher, its guard, the broker. After
 *    `kill -9` of the launcher a new starter waits for the guard to end the old broker, so that never two brokers
 *    write one store.
 * I4 A process is the recorded one only when its start time is the same too (where the system tells: Linux); a
 *    recycled process id does not block the folder.
 * I5 A holder on another host (or container) cannot be asked; it counts as alive and the message says how to decide.
 *
 * Tested in `data-folder-lock.nats.test.ts` with real processes.
 */
import { randomUUID } from "node:crypto";
import { link, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { hostname } from "node:os";
import { dirname, join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { MillraceError } from "@millrace/schemas";
import { makeFolder } from "./make-folder.ts";

interface RecordedProcess {
  readonly role: string;
  readonly pid: number;
  /** Start time as the system counts it; null where it does not tell. */
  readonly startedAt: string | null;
}

interface LockRecord {
  readonly host: string;
  readonly released: boolean;
  readonly processes: readonly RecordedProcess[];
}

export interface DataFolderLock {
  /** Replaces the processes recorded beside the launcher: the lock lives as long as any of them. */
  record(processes: Readonly<Record<string, number>>): Promise<void>;
  /** Idempotent. */
  release(): Promise<void>;
}

/**
 * How long a starter waits for the rest of a killed holder: the guard's grace before it kills (10 s), and a margin.
 * A holder whose launcher lives is refused at once.
 */
const leftoverWaitMs = 12_000;
const leftoverCheckMs = 50;
/** Starters that lose a race look again; each loss means that another one won, so a few turns are plenty. */
const attemptsMax = 20;

/**
 * Takes the folder, creating it when missing. Rejects with `data_folder_in_use` (details `{dataDir, pid}`) and
 * `data_folder_not_writable`. A lock left behind by killed processes is taken over.
 */
export async function lockDataFolder(dataDir: string): Promise<DataFolderLock> {
  const draft = join(dataDir, `lock.draft-${randomUUID()}`);
  const launcher: RecordedProcess = {
    role: "launcher",
    pid: process.pid,
    startedAt: await startTime(process.pid),
  };
  try {
    await makeFolder(dataDir);
    await writeFile(draft, encode({ host: hostname(), released: false, processes: [launcher] }), {
      flag: "wx",
    });
  } catch (cause) {
    throw notWritable(dataDir, cause);
  }
  try {
    for (let attempt = 0; attempt < attemptsMax; attempt += 1) {
      const top = await highestNumber(dataDir);
      if (top > 0) await assertFree(dataDir, join(dataDir, `lock.${top}`));
      const number = top + 1;
      if (!(await linked(draft, join(dataDir, `lock.${number}`)))) continue;
      if ((await highestNumber(dataDir)) > number) {
        await rm(join(dataDir, `lock.${number}`), { force: true });
        continue;
      }
      await removeBelow(dataDir, number);
      return heldLock(join(dataDir, `lock.${number}`), launcher);
    }
  } finally {
    await rm(draft, { force: true });
  }
  throw new MillraceError(
    "data_folder_in_use",
    `Data folder ${dataDir} could not be taken: ${attemptsMax} times another process was faster. Start one at a time.`,
    { details: { dataDir } },
  );
}

function heldLock(path: string, launcher: RecordedProcess): DataFolderLock {
  let released = false;
  const replace = async (lock: LockRecord): Promise<void> => {
    const next = `${path.replace(/lock\.\d+$/, "lock.draft-")}${randomUUID()}`;
    await writeFile(next, encode(lock));
    await rename(next, path);
  };
  return {
    async record(processes) {
      const others = await Promise.all(
        Object.entries(processes).map(async ([role, pid]) => ({
          role,
          pid,
          startedAt: await startTime(pid),
        })),
      );
      await replace({ host: hostname(), released: false, processes: [launcher, ...others] });
    },
    async release() {
      if (released) return;
      released = true;
      try {
        await replace({ host: hostname(), released: true, processes: [] });
      } catch (error) {
        // Whoever deleted the folder has released it.
        if (codeOf(error) !== "ENOENT") throw error;
      }
    },
  };
}

async function assertFree(dataDir: string, path: string): Promise<void> {
  const deadline = Date.now() + leftoverWaitMs;
  for (;;) {
    const record = await readRecord(path);
    if (record === undefined || record.released) return;
    if (record.host !== hostname()) {
      throw inUse(dataDir, record.processes[0], `on host ${record.host}`, [
        `Stop it there`,
        `or, when that host or container is gone for good, delete ${path}`,
      ]);
    }
    const alive = await firstAlive(record.processes);
    if (alive === undefined) return;
    const next = [`Stop it`, `use another data folder`, `or connect to it instead of starting a second one`];
    if (alive.role === "launcher") throw inUse(dataDir, alive, "", next);
    // The launcher is gone and its guard is ending the broker: no push reaches a process that is not its parent.
    if (Date.now() > deadline)
      throw inUse(dataDir, alive, "left over from a killed launcher", [`End it`, `try again`]);
    await delay(leftoverCheckMs);
  }
}

function inUse(
  dataDir: string,
  holder: RecordedProcess | undefined,
  where: string,
  next: readonly string[],
): MillraceError {
  const who = [`${holder?.role ?? "process"} with pid ${holder?.pid ?? "unknown"}`, where].join(" ").trim();
  return new MillraceError(
    "data_folder_in_use",
    `Data folder ${dataDir} is in use by the ${who}. ${next.join(", ")}.`,
    { details: { dataDir, pid: holder?.pid ?? null, role: holder?.role ?? null } },
  );
}

async function firstAlive(processes: readonly RecordedProcess[]): Promise<RecordedProcess | undefined> {
  for (const each of processes) {
    if (!isAlive(each.pid)) continue;
    if (each.startedAt === null || each.startedAt === (await startTime(each.pid))) return each;
  }
  return undefined;
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    // EPERM: it lives and belongs to somebody else.
    return codeOf(error) === "EPERM";
  }
}

/**
 * When the process started, in the system's own count and together with the boot that it counts from; null where the
 * system does not tell, or the process is gone or a zombie.
 */
async function startTime(pid: number): Promise<string | null> {
  if (process.platform !== "linux") return null;
  try {
    const [stat, boot] = await Promise.all([
      readFile(`/proc/${pid}/stat`, "utf8"),
      readFile("/proc/sys/kernel/random/boot_id", "utf8"),
    ]);
    // The second field is the program's name in parentheses and may hold anything; the start time is the 22nd.
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    return fields[0] === "Z" || fields[19] === undefined ? null : `${boot.trim()}/${fields[19]}`;
  } catch (error) {
    if (codeOf(error) === "ENOENT" || codeOf(error) === "ESRCH" || codeOf(error) === "EACCES") return null;
    throw error;
  }
}

async function highestNumber(dataDir: string): Promise<number> {
  return Math.max(0, ...(await lockNumbers(dataDir)));
}

async function lockNumbers(dataDir: string): Promise<number[]> {
  const names = await readdir(dataDir);
  return names.flatMap((name) => (/^lock\.\d+$/.test(name) ? [Number(name.slice("lock.".length))] : []));
}

async function removeBelow(dataDir: string, number: number): Promise<void> {
  for (const each of await lockNumbers(dataDir)) {
    if (each < number) await rm(join(dataDir, `lock.${each}`), { force: true });
  }
}

async function linked(from: string, to: string): Promise<boolean> {
  try {
    await link(from, to);
    return true;
  } catch (cause) {
    if (codeOf(cause) === "EEXIST") return false;
    throw notWritable(dirname(to), cause);
  }
}

/** Undefined when the file is gone, which means that somebody took over: look again. */
async function readRecord(path: string): Promise<LockRecord | undefined> {
  try {
    return decode(path, await readFile(path, "utf8"));
  } catch (error) {
    if (codeOf(error) === "ENOENT") return undefined;
    throw error;
  }
}

function encode(lock: LockRecord): string {
  return `${JSON.stringify(lock)}\n`;
}

function decode(path: string, text: string): LockRecord {
  try {
    return JSON.parse(text) as LockRecord;
  } catch (cause) {
    // Only a disk that lost the file's content (power cut) leaves this: `link` and `rename` show whole files only.
    throw new MillraceError(
      "data_folder_in_use",
      `Lock file ${path} is unreadable, so its holder is unknown. When no Millrace uses this folder, delete the file.`,
      { cause, details: { path } },
    );
  }
}

function notWritable(dataDir: string, cause: unknown): MillraceError {
  const reason = cause instanceof Error ? cause.message : String(cause);
  return new MillraceError(
    "data_folder_not_writable",
    `Cannot write to data folder ${dataDir} (${reason}). Choose another folder or correct its permissions; ` +
      `its file system must know hard links.`,
    { cause, details: { dataDir, reason: codeOf(cause) ?? null } },
  );
}

function codeOf(error: unknown): string | undefined {
  return error instanceof Error && "code" in error && typeof error.code === "string" ? error.code : undefined;
}
