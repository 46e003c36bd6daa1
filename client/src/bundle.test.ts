import { readdir, readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { rolldown } from "rolldown";
import { expect, test } from "vitest";

const source = fileURLToPath(new URL(".", import.meta.url));
const gzippedBytesMax = 12 * 1_024;

/** Bytes with gzip of what a page loads at once, and of what it may load later. */
async function sizesOf(entry: string): Promise<{ first: number; later: number; code: string }> {
  const bundle = await rolldown({
    input: source + entry,
    platform: "browser",
    external: ["react"],
    resolve: { conditionNames: ["@millrace/source", "import", "default"] },
  });
  const { output } = await bundle.generate({ minify: true });
  await bundle.close();
  const chunks = output.filter((chunk) => chunk.type === "chunk");
  const byName = new Map(chunks.map((chunk) => [chunk.fileName, chunk]));
  const first = new Set<string>();
  const load = (name: string): void => {
    if (first.has(name)) return;
    first.add(name);
    for (const imported of byName.get(name)?.imports ?? []) if (byName.has(imported)) load(imported);
  };
  for (const chunk of chunks) if (chunk.isEntry) load(chunk.fileName);
  const size = (wanted: boolean): number =>
    chunks
      .filter(({ fileName }) => first.has(fileName) === wanted)
      .reduce((sum, { code }) => sum + gzipSync(code).byteLength, 0);
  return { first: size(true), later: size(false), code: chunks.map(({ code }) => code).join("\n") };
}

test("the bundle for a page is small and has no schema library in it", async () => {
  const { first, later, code } = await sizesOf("index.ts");
  process.stdout.write(
    `bundle: @millrace/client ${first} bytes with gzip, ${later} more when HTTP is needed\n`,
  );
  // Every schema of the library carries this key.
  expect(code).not.toContain("~standard");
  // Far below would mean that the client itself was shaken off.
  expect(first).toBeGreaterThan(4_000);
  expect(first).toBeLessThan(gzippedBytesMax);
  // The transports over HTTP are not paid for by a page whose WebSocket works.
  expect(later).toBeGreaterThan(2_000);
});

test("nothing but tests needs Node", async () => {
  const files = (await readdir(source)).filter((name) => name.endsWith(".ts") && !name.includes(".test."));
  expect(files).toContain("create-client.ts");
  for (const name of files) {
    const text = await readFile(source + name, "utf8");
    // Not those of the examples: they stand in comments.
    const imported = [...text.matchAll(/^(?:import|export|\}).* from "([^"]+)";$/gm)].map(([, from]) => from);
    const foreign = imported.filter((from) => from !== "@millrace/schemas" && !from?.startsWith("./"));
    expect(foreign, name).toEqual([]);
  }
});
