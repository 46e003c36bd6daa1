import { mkdtemp, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { makeFolder } from "./make-folder.ts";

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "millrace-make-folder-"));
});
afterEach(() => rm(folder, { recursive: true }));

describe("makeFolder", () => {
  test("makes what is missing, also several at once, and finds what is there", async () => {
    const path = join(folder, "a", "b", "c");
    await Promise.all([makeFolder(path), makeFolder(path), makeFolder(join(folder, "a", "d"))]);
    await makeFolder(path);
    expect((await stat(path)).isDirectory()).toBe(true);
  });

  test("rejects below a file", async () => {
    await writeFile(join(folder, "file"), "");
    await expect(makeFolder(join(folder, "file", "a"))).rejects.toMatchObject({ code: "ENOTDIR" });
  });

  test("rejects on a file system without room for folders", async (context) => {
    context.skip(process.platform !== "linux", "only Linux has /proc");
    await expect(makeFolder("/proc/none/a")).rejects.toMatchObject({ code: "ENOENT" });
  });
});
