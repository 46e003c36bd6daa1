import { mkdir, open, readFile, rename } from "node:fs/promises";
import { join } from "node:path";
import type { CursorStore } from "./cursor-store.ts";

export type { CursorStore } from "./cursor-store.ts";

/**
 * Keeps cursors as files in a folder, one for each key; only in Node. A write goes to a file beside it first and is
 * flushed to the disk, so that a crash leaves the old cursor or the new one. One process per key.
 */
export function fileStore(folder: string): CursorStore {
  const fileOf = (key: string): string => join(folder, `${encodeURIComponent(key)}.cursor`);
  return {
    async load(key) {
      try {
        return (await readFile(fileOf(key), "utf8")).trim();
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code === "ENOENT") return null;
        throw error;
      }
    },
    async save(key, cursor) {
      const file = fileOf(key);
      const next = `${file}.next`;
      await mkdir(folder, { recursive: true });
      const handle = await open(next, "w");
      try {
        await handle.writeFile(`${cursor}\n`);
        await handle.sync();
      } finally {
        await handle.close();
      }
      await rename(next, file);
    },
  };
}
