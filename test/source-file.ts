import { readFileSync } from "node:fs";
import { parseSync, Visitor, type Program, type VisitorObject } from "oxc-parser";
import { repositoryFiles, repositoryPath } from "./repository.ts";

/** A TypeScript file of this repository, parsed: rules look at the syntax, so that text in comments and strings cannot mislead them. */
export interface SourceFile {
  /** From the root of the repository, with forward slashes. */
  readonly path: string;
  /** First segment of the path: `schemas`, `engine`, `scripts`, … */
  readonly folder: string;
  readonly text: string;
  readonly isTest: boolean;
  readonly imports: readonly Import[];
  readonly comments: readonly { readonly value: string; readonly start: number }[];
  readonly program: Program;
}

export interface Import {
  readonly specifier: string;
  /** `@scope/name` or `name`; undefined for a relative path and for `node:`. */
  readonly packageName: string | undefined;
}

/** Test code: test files, and the suites and doubles that exist for tests only. */
const testPath = /\.test\.ts$|^test\/|\/(?:conformance|testing|fixtures?)\//;

export function sourceFiles(): readonly SourceFile[] {
  return repositoryFiles()
    .filter((path) => path.endsWith(".ts") && !path.endsWith(".d.ts"))
    .map(parseSourceFile);
}

/** `path:line` of an offset, for messages. */
export function positionIn(file: SourceFile, offset: number): string {
  return `${file.path}:${file.text.slice(0, offset).split("\n").length}`;
}

export function visit(file: SourceFile, visitor: VisitorObject): void {
  new Visitor(visitor).visit(file.program);
}

function parseSourceFile(path: string): SourceFile {
  const text = readFileSync(repositoryPath(path), "utf8");
  const { program, comments, errors } = parseSync(path, text, { sourceType: "module" });
  if (errors.length > 0)
    throw new Error(`${path} does not parse: ${errors.map((error) => error.message).join("; ")}`);
  const [folder = ""] = path.split("/");
  return { path, folder, text, isTest: testPath.test(path), imports: importsOf(program), comments, program };
}

function importsOf(program: Program): Import[] {
  const specifiers = new Set<string>();
  const add = (source: { readonly type: string; readonly value?: unknown } | null) => {
    if (source?.type === "Literal" && typeof source.value === "string") specifiers.add(source.value);
  };
  new Visitor({
    ImportDeclaration: (node) => add(node.source),
    ExportNamedDeclaration: (node) => add(node.source),
    ExportAllDeclaration: (node) => add(node.source),
    ImportExpression: (node) => add(node.source),
    TSImportType: (node) => add(node.source),
  }).visit(program);
  return [...specifiers].map((specifier) => ({ specifier, packageName: packageNameOf(specifier) }));
}

function packageNameOf(specifier: string): string | undefined {
  if (specifier.startsWith(".") || specifier.startsWith("/") || specifier.startsWith("node:"))
    return undefined;
  return specifier
    .split("/")
    .slice(0, specifier.startsWith("@") ? 2 : 1)
    .join("/");
}
