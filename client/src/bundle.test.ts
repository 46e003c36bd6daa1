import { readdir, readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { rolldown } from "rolldown";
import { expect, test } from "vitest";

const source = fileURLToPath(new URL(".", import.meta.url));
const gzippedBytesMax = 12 * 1_024;

test("the bundle for a page is small and has no schema library in it", async () => {
  const bundle = await rolldown({
    input: `${source}index.ts`,
    platform: "browser",
    resolve: { conditionNames: ["@millrace/source", "import", "default"] },
  });
  const { output } = await bundle.generate({ minify: true });
  await bundle.close();
  expect(output).toHaveLength(1);
  const { code } = output[0];
  // Every schema of the library carries this key.
  expect(code).not.toContain("~standard");
  const gzippedBytes = gzipSync(code).byteLength;
  // Far below would mean that the client itself was shaken off.
  expect(gzippedBytes).toBeGreaterThan(4_000);
  expect(gzippedBytes).toBeLessThan(gzippedBytesMax);
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
