/** The README's programs are files that tests run; this keeps the copies true. `UPDATE_README=1` writes them anew. */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";

const root = join(import.meta.dirname, "..");
const quoted = /<!-- (examples\/[\w.-]+) -->\n\n```ts\n([\s\S]*?)```/g;

test("programs in README.md are the files that they name", () => {
  const path = join(root, "README.md");
  const text = readFileSync(path, "utf8");
  const wanted = text.replace(quoted, (_all, file: string) => {
    const source = readFileSync(join(root, file), "utf8");
    return `<!-- ${file} -->\n\n\`\`\`ts\n${source}\`\`\``;
  });
  if (process.env["UPDATE_README"] === "1") writeFileSync(path, wanted);
  expect([...text.matchAll(quoted)].map(([, file]) => file)).toEqual([
    "examples/greet.ts",
    "examples/follow.ts",
  ]);
  expect(readFileSync(path, "utf8")).toBe(wanted);
});
