import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { loadWorkflows } from "./load-workflows.ts";

describe("loadWorkflows", () => {
  let folder: string;
  const file = async (name: string, text: string): Promise<string> => {
    const path = join(folder, name);
    await writeFile(path, text);
    return path;
  };
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "millrace-load-"));
  });
  afterAll(() => rm(folder, { recursive: true, force: true }));

  it("finds definitions by name and in arrays, each once, and leaves other exports alone", async () => {
    const definition = (type: string) =>
      `{ type: "${type}", version: "1", input: null, steps: [], run: async () => 1 }`;
    const path = await file(
      "some.mjs",
      `export const a = ${definition("a")}; export const all = [a, ${definition("b")}]; export const n = 1; export function f() {}`,
    );
    expect((await loadWorkflows([path])).map(({ type }) => type).sort()).toEqual(["a", "b"]);
  });

  it.each([
    ["is not there", undefined, /cannot be loaded/],
    ["does not parse", "export const = 1", /cannot be loaded/],
    ["exports no workflow", "export const n = 1", /exports no workflow/],
  ])("refuses a module that %s", async (title, text, expected) => {
    const path =
      text === undefined
        ? join(folder, "missing.mjs")
        : await file(`${title.replaceAll(" ", "-")}.mjs`, text);
    await expect(loadWorkflows([path])).rejects.toMatchObject({
      code: "invalid_request",
      message: expect.stringMatching(expected) as string,
    });
  });
});
