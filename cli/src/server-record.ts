import { readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";

/** What a running server leaves in its data folder, so that `millrace doctor` finds its broker. */
export interface ServerRecord {
  readonly pid: number;
  readonly url: string | null;
  readonly natsUrl: string;
  readonly durability: string;
  readonly startedAt: string;
}

const fileName = "server.json";

/** Only the holder of the data folder may write it. */
export async function writeServerRecord(dataDir: string, record: ServerRecord): Promise<void> {
  await writeFile(join(dataDir, fileName), `${JSON.stringify(record)}\n`);
}

export async function removeServerRecord(dataDir: string): Promise<void> {
  await rm(join(dataDir, fileName), { force: true });
}

/** Null when there is none; it may be left over from a killed server. */
export async function readServerRecord(dataDir: string): Promise<ServerRecord | null> {
  try {
    return JSON.parse(await readFile(join(dataDir, fileName), "utf8")) as ServerRecord;
  } catch (error) {
    if (
      error instanceof SyntaxError ||
      (error instanceof Error && "code" in error && error.code === "ENOENT")
    )
      return null;
    throw error;
  }
}

/** Whether the process of a record still runs. */
export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    // EPERM: it lives and belongs to somebody else.
    return error instanceof Error && "code" in error && error.code === "EPERM";
  }
}
