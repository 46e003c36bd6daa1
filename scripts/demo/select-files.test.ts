import { chmod, mkdir, mkdtemp, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { independentFacts } from "./independent-facts.ts";
import { interleave } from "./plan-work.ts";
import { readReportRows, writeReportRow } from "./report-rows.ts";
import { selectFiles, selectionLimits } from "./select-files.ts";

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "millrace-select-"));
});
afterEach(() => rm(folder, { recursive: true, force: true }));

describe("selectFiles", () => {
  it("takes text files in the order of their paths, from a copy, and leaves out what is built or fetched", async () => {
    const dir = join(folder, "tree");
    for (const inner of ["src", "node_modules", "dist", ".git"])
      await mkdir(join(dir, inner), { recursive: true });
    for (const path of ["src/b.ts", "a.md", "node_modules/x.js", "dist/y.js", ".git/config"]) {
      await writeFile(join(dir, path), `text of ${path}`);
    }
    await writeFile(join(dir, "image.png"), Buffer.from([137, 80, 0, 1]));
    await symlink(dir, join(dir, "loop"));
    const { files, leftOut } = await selectFiles(dir, join(folder, "copy"));
    expect(files.map(({ path }) => path)).toEqual(["a.md", "src/b.ts"]);
    expect(leftOut).toEqual([]);
    expect(await Promise.all(files.map(({ copy }) => readFile(copy, "utf8")))).toEqual([
      "text of a.md",
      "text of src/b.ts",
    ]);
  });

  it("says which limit left files out", async () => {
    const dir = join(folder, "many");
    await mkdir(dir);
    const names = Array.from({ length: selectionLimits.files + 2 }, (_none, number) => `f${1_000 + number}`);
    for (const name of names) await writeFile(join(dir, name), name);
    await writeFile(join(dir, "f0"), "x".repeat(selectionLimits.fileBytes + 1));
    const { files, leftOut } = await selectFiles(dir, join(folder, "copy"));
    expect(files).toHaveLength(selectionLimits.files);
    expect(leftOut).toEqual(["2 files beyond the limit of 400", "1 files over 524288 bytes"]);
  });

  it("skips what cannot be read", async (context) => {
    context.skip(process.getuid?.() === 0, "root can read everything");
    await writeFile(join(folder, "a"), "text");
    await writeFile(join(folder, "b"), "secret");
    await chmod(join(folder, "b"), 0);
    const { files, leftOut } = await selectFiles(folder, join(folder, "node_modules"));
    expect(files).toHaveLength(1);
    expect(leftOut).toEqual(["1 files or folders that could not be read"]);
  });

  it("refuses a folder that is not there or has no text", async () => {
    const copy = join(folder, "node_modules");
    await expect(selectFiles(join(folder, "nowhere"), copy)).rejects.toMatchObject({
      code: "invalid_request",
    });
    await expect(selectFiles(folder, copy)).rejects.toMatchObject({ code: "invalid_request" });
  });
});

describe("independentFacts", () => {
  it("knows the published SHA-256 of abc", async () => {
    expect(await independentFacts(new TextEncoder().encode("abc"))).toEqual({
      read: { bytes: 3, characters: 3 },
      checksum: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
      words: { words: 1, distinct: 1, longestChars: 3 },
    });
  });

  it("counts words between white space of all kinds", async () => {
    const { words, read } = await independentFacts(
      new TextEncoder().encode("\uFEFF one\u00A0two\n\ttwo\u2003drei… "),
    );
    expect(words).toEqual({ words: 4, distinct: 3, longestChars: 5 });
    expect(read).toEqual({ bytes: 28, characters: 21 });
  });
});

describe("report rows", () => {
  it("are one per idempotency key, however often it is written", async () => {
    const row = { idempotencyKey: "a/1/report#1", path: "a", sha256: "00", bytes: 1, words: 1 };
    const other = { ...row, idempotencyKey: "b/1/report#1", path: "b" };
    const reportDir = join(folder, "report");
    for (const each of [row, row, other, row]) await writeReportRow(reportDir, each);
    // What a killed process leaves of an unfinished row is none.
    await writeFile(join(reportDir, "unfinished.part"), '{"path":');
    const rows = await readReportRows(reportDir);
    expect(rows.toSorted((a, b) => (a.path < b.path ? -1 : 1))).toEqual([row, other]);
  });
});

describe("interleave", () => {
  it("spreads the shorter list over the longer one and keeps both orders", () => {
    expect(interleave([1, 2, 3, 4, 5, 6], ["a", "b"])).toEqual([1, 2, "a", 3, 4, 5, "b", 6]);
    expect(interleave([1], ["a", "b"])).toEqual(["a", 1, "b"]);
  });
});
