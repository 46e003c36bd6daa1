/** Programs in documents are files that tests run; this keeps the copies true. `UPDATE_README=1` writes them anew. */
import { writeFileSync } from "node:fs";
import { posix } from "node:path";
import { expect, test } from "vitest";
import { readText, repositoryFiles, repositoryPath } from "./repository.ts";

const quoted = /<!-- (examples\/[\w./-]+) -->\n\n```ts\n([\s\S]*?)```/g;
const files = repositoryFiles();
const documents = files.filter((path) => path.endsWith(".md"));

function programsIn(document: string): string[] {
  return [...readText(document).matchAll(quoted)].map(([, file = ""]) => file);
}

test.for(documents)("programs in %s are the files that they name", (document) => {
  const wanted = readText(document).replace(
    quoted,
    (_all, file: string) => `<!-- ${file} -->\n\n\`\`\`ts\n${readText(file)}\`\`\``,
  );
  if (process.env["UPDATE_README"] === "1") writeFileSync(repositoryPath(document), wanted);
  expect(readText(document)).toBe(wanted);
});

test.for(documents)("links in %s lead to files that there are", (document) => {
  const prose = readText(document).replaceAll(/```[\s\S]*?```|`[^`\n]*`/g, "");
  const targets = [...prose.matchAll(/\]\(([^)#\s]+)(?:#[^)\s]*)?\)/g)].map(([, target = ""]) => target);
  const missing = targets
    .filter((target) => !/^[a-z]+:/.test(target))
    .map((target) => posix.join(posix.dirname(document), target).replace(/\/$/, ""))
    .filter((path) => !files.some((file) => file === path || file.startsWith(`${path}/`)));
  expect(missing).toEqual([]);
});

test("the README shows what the first steps run", () => {
  expect(programsIn("README.md")).toEqual(["examples/greet.ts", "examples/follow.ts"]);
});

test("each program of a guide stands in one, which has its output too", () => {
  const programs = files.filter((path) => /^examples\/guides\/.*\.ts$/.test(path));
  const guides = documents.filter((document) => document.startsWith("docs/"));
  const ran = (program: string): string =>
    `$ node ${program.replace(/^examples\/(.*)\.ts$/, "examples/dist/$1.js")}`;
  const lacking = programs.filter(
    (program) =>
      !guides.some((guide) => programsIn(guide).includes(program) && readText(guide).includes(ran(program))),
  );
  expect(lacking).toEqual([]);
});
