/**
 * The names that each package exports, against `public-api.snapshot.txt`: a change of the public surface is
 * seen in review. After an intended change: `UPDATE_API=1 npx vitest run --project unit test/public-api`.
 */
import { writeFileSync } from "node:fs";
import { posix } from "node:path";
import type { Declaration, ModuleExportName, Program } from "oxc-parser";
import { expect, it } from "vitest";
import { readText, repositoryPath, workspaces } from "./repository.ts";
import { sourceFiles, type SourceFile } from "./source-file.ts";

const snapshotPath = "test/public-api.snapshot.txt";
const byPath = new Map(sourceFiles().map((file) => [file.path, file]));

it("exports what the snapshot says", () => {
  const api = publicApi();
  if (process.env["UPDATE_API"] === "1") writeFileSync(repositoryPath(snapshotPath), api);
  expect(
    api,
    "The public API changed. Intended? Refresh with: UPDATE_API=1 npx vitest run --project unit test/public-api",
  ).toBe(readText(snapshotPath));
});

function publicApi(): string {
  const sections = workspaces().flatMap(({ folder, manifest }) =>
    Object.entries(manifest.exports ?? {}).flatMap(([subpath, conditions]) => {
      const entry = byPath.get(posix.join(folder, conditions["@millrace/source"] ?? ""));
      if (entry === undefined) return [];
      const lines = exportedNames(entry).map(([name, kind]) => `  ${name}: ${kind}\n`);
      return [`${posix.join(manifest.name, subpath)}\n${lines.sort().join("")}`];
    }),
  );
  return sections.join("\n");
}

/** Names and kinds of a file's exports, re-exports followed to where the name is declared. */
function exportedNames(file: SourceFile): [name: string, kind: string][] {
  return file.program.body.flatMap((node): [string, string][] => {
    if (node.type !== "ExportNamedDeclaration") return [];
    if (node.declaration !== null) return declaredNames(node.declaration);
    return node.specifiers.map((specifier) => {
      const local = textOf(specifier.local);
      const isType = node.exportKind === "type" || specifier.exportKind === "type";
      const kinds =
        node.source === null
          ? kindsDeclaredIn(file.program, local)
          : kindsExportedFrom(file, node.source.value, local);
      return [
        textOf(specifier.exported),
        kinds.filter((kind) => !isType || isTypeKind(kind)).join(" and ") || "unknown",
      ];
    });
  });
}

function kindsExportedFrom(file: SourceFile, specifier: string, name: string): string[] {
  if (!specifier.startsWith(".")) return [`from ${specifier}`];
  const target = byPath.get(posix.join(posix.dirname(file.path), specifier));
  if (target === undefined) return [];
  return exportedNames(target)
    .filter(([exported]) => exported === name)
    .map(([, kind]) => kind);
}

function kindsDeclaredIn(program: Program, name: string): string[] {
  return program.body
    .flatMap((node): [string, string][] => {
      if (node.type === "ExportNamedDeclaration")
        return node.declaration === null ? [] : declaredNames(node.declaration);
      return isDeclaration(node) ? declaredNames(node) : [];
    })
    .filter(([declared]) => declared === name)
    .map(([, kind]) => kind);
}

function isDeclaration(node: Program["body"][number]): node is Extract<Program["body"][number], Declaration> {
  return node.type.endsWith("Declaration") && !/^(?:Import|Export)/.test(node.type);
}

function declaredNames(declaration: Declaration): [name: string, kind: string][] {
  switch (declaration.type) {
    case "VariableDeclaration":
      return declaration.declarations.map(({ id }) => [
        id.type === "Identifier" ? id.name : "(pattern)",
        declaration.kind,
      ]);
    case "FunctionDeclaration":
    case "TSDeclareFunction":
      return [[declaration.id?.name ?? "", "function"]];
    case "ClassDeclaration":
      return [[declaration.id?.name ?? "", "class"]];
    case "TSInterfaceDeclaration":
      return [[declaration.id.name, "interface"]];
    case "TSTypeAliasDeclaration":
      return [[declaration.id.name, "type"]];
    default:
      return [];
  }
}

function isTypeKind(kind: string): boolean {
  return kind === "interface" || kind === "type" || kind === "class" || kind.startsWith("from ");
}

function textOf(name: ModuleExportName): string {
  return name.type === "Literal" ? name.value : name.name;
}
