/** The lint configuration catches what it is there for. Type-aware rules fall silent without an error when their tool does not load. */
import { execFileSync } from "node:child_process";
import { copyFileSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { repositoryPath } from "./repository.ts";

const source = `
async function work(): Promise<number> { return 1; }
export function floating(): void { work(); }
export function voided(): void { void work(); }
export function misused(): void { [1].forEach(async () => { await work(); }); }
export async function swallowed(): Promise<void> { try { await work(); } catch {} }
export function inexhaustive(side: "left" | "right"): void { switch (side) { case "left": break; } }
export function loose(value: any): string { return value == 1 ? value! : String(process.env["HOME"]); }
export default floating;
`;

let folder: string;
let diagnostics: readonly Diagnostic[];

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "millrace-lint-"));
  copyFileSync(repositoryPath(".oxlintrc.json"), join(folder, ".oxlintrc.json"));
  writeFileSync(
    join(folder, "tsconfig.json"),
    JSON.stringify({ compilerOptions: { strict: true, target: "ES2023" } }),
  );
  writeFileSync(join(folder, "offender.ts"), source);
  diagnostics = lint();
});

afterAll(() => rmSync(folder, { recursive: true, force: true }));

it("catches floating and misused promises, swallowed errors, open switches, any, ==, !, the environment, default exports", () => {
  const found = new Set(diagnostics.map(({ code }) => code.replace(/^.*\((.*)\)$/, "$1")));
  for (const rule of [
    "no-floating-promises",
    "no-misused-promises",
    "no-empty",
    "switch-exhaustiveness-check",
    "no-explicit-any",
    "eqeqeq",
    "no-non-null-assertion",
    "no-process-env",
    "no-default-export",
  ])
    expect(found).toContain(rule);
});

it("catches a promise that is let go with void as well", () => {
  const lines = diagnostics
    .filter(({ code }) => code.includes("no-floating-promises"))
    .map(({ labels }) => labels[0]?.span.line);
  expect(lines).toEqual(expect.arrayContaining([3, 4]));
});

interface Diagnostic {
  readonly code: string;
  readonly labels: readonly { readonly span: { readonly line: number } }[];
}

function lint(): readonly Diagnostic[] {
  try {
    execFileSync(repositoryPath("node_modules/.bin/oxlint"), ["--type-aware", "--format=json"], {
      cwd: folder,
      encoding: "utf8",
    });
  } catch (error) {
    return (JSON.parse((error as { stdout: string }).stdout) as { diagnostics: readonly Diagnostic[] })
      .diagnostics;
  }
  throw new Error("oxlint found nothing in a file full of offences");
}
