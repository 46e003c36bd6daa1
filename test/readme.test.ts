/** Programs in documents are files that tests run; this keeps the copies true. `UPDATE_README=1` writes them anew. */
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";

const root = join(import.meta.dirname, "..");
const quoted = /<!-- (examples\/[\w.-]+) -->\n\n```ts\n([\s\S]*?)```/g;
const guides = readdirSync(join(root, "docs/guides")).map((name) => `docs/guides/${name}`);

test.for(["README.md", ...guides])("programs in %s are the files that they name", (name) => {
  const path = join(root, name);
  const text = readFileSync(path, "utf8");
  const wanted = text.replace(quoted, (_all, file: string) => {
    const source = readFileSync(join(root, file), "utf8");
    return `<!-- ${file} -->\n\n\`\`\`ts\n${source}\`\`\``;
  });
  if (process.env["UPDATE_README"] === "1") writeFileSync(path, wanted);
  expect(readFileSync(path, "utf8")).toBe(wanted);
});

test("the README shows what the first steps run", () => {
  const text = readFileSync(join(root, "README.md"), "utf8");
  expect([...text.matchAll(quoted)].map(([, file]) => file)).toEqual([
    "examples/greet.ts",
    "examples/follow.ts",
  ]);
});
