/** CONTRIBUTING.md's rules that a machine can check. Each test lists every offence, so one run is enough to fix them all. */
import { basename } from "node:path";
import type { Argument } from "oxc-parser";
import { describe, expect, it } from "vitest";
import { readText, repositoryFiles, repositoryRoot, rootManifest, workspaces } from "./repository.ts";
import { positionIn, sourceFiles, visit, type SourceFile } from "./source-file.ts";

const paths = repositoryFiles();
const files = sourceFiles();
const textPath = /\.(?:ts|js|mjs|json|md|sh|yml|yaml|html)$|^\.ci\/run$/;
const texts = paths
  .filter((path) => textPath.test(path) && basename(path) !== "package-lock.json")
  .map((path) => ({ path, text: readText(path) }));

describe("names", () => {
  const kebabCase = /^[a-z0-9]+(?:-[a-z0-9]+)*(?:\.[a-z0-9]+)*$/;
  const emptyWords = new Set(["util", "utils", "helper", "helpers", "common", "misc", "manager"]);

  it("writes file names in kebab-case", () => {
    const isUpperByCustom = /^(?:README|ARCHITECTURE|CONTRIBUTING|CHANGELOG|RESULTS|SECURITY)\.md$|^LICENSE$/;
    expect(
      paths.filter((path) => {
        const name = basename(path);
        return !name.startsWith(".") && !isUpperByCustom.test(name) && !kebabCase.test(name);
      }),
    ).toEqual([]);
  });

  it("names no file after nothing in particular", () => {
    expect(
      paths.filter((path) =>
        path.split("/").some((segment) => {
          const [stem = ""] = segment.split(".");
          return stem === "types" || stem.split("-").some((word) => emptyWords.has(word));
        }),
      ),
    ).toEqual([]);
  });
});

describe("sources", () => {
  it("has no enum and no namespace", () => {
    expect(
      offences((file, report) =>
        visit(file, {
          TSEnumDeclaration: (node) => report(node, "enum"),
          TSModuleDeclaration: (node) => {
            if (node.id.type === "Identifier" && !node.declare) report(node, "namespace");
          },
        }),
      ),
    ).toEqual([]);
  });

  it("exports by name, each name once listed: no default, no wildcard", () => {
    expect(
      offences((file, report) =>
        visit(file, {
          ExportDefaultDeclaration: (node) => {
            if (!file.path.endsWith(".config.ts")) report(node, "export default");
          },
          ExportAllDeclaration: (node) => report(node, "export *"),
        }),
      ),
    ).toEqual([]);
  });

  it("leaves no work for later in a comment", () => {
    const marker = /\b(?:TODO|FIXME|XXX|HACK)\b/;
    expect(
      files.flatMap((file) =>
        file.comments.filter(({ value }) => marker.test(value)).map(({ start }) => positionIn(file, start)),
      ),
    ).toEqual([]);
  });

  it("has no leftovers of a merge, also not as a formatter lays them out", () => {
    const marker = /^(?:\| )?(?:<{7} |>{7} |(?:> ){7}|={7}(?: +\|)?$)/m;
    expect(texts.filter(({ text }) => marker.test(text)).map(({ path }) => path)).toEqual([]);
  });

  it("names no registry, no mirror and no path of the machine it was written on", () => {
    const registryHost =
      /\b(?:registry\.[a-z-]+\.(?:org|com)|(?:deb|ftp|security)\.debian\.org|registry\.yarnpkg|npm[m]irror|pypi\.org)\b/i;
    const machinePath = /(?:^|["'`\s(=:])\/(?:tmp|root|private|var\/folders)\//m;
    const checkout = repositoryRoot.split("/").length > 2 ? repositoryRoot : undefined;
    expect(
      texts.flatMap(({ path, text }) =>
        [
          registryHost.exec(text)?.[0],
          machinePath.exec(text)?.[0].trim(),
          checkout !== undefined && text.includes(checkout) ? checkout : undefined,
        ]
          .filter((found) => found !== undefined)
          .map((found) => `${path}: ${found}`),
      ),
    ).toEqual([]);
  });
});

describe("tests", () => {
  const suites = new Set(["it", "test", "describe", "suite"]);

  it("runs them all: nothing focused, and what cannot run here says why", () => {
    expect(
      offences((file, report) => {
        if (!file.isTest) return;
        visit(file, {
          MemberExpression: (node) => {
            if (
              node.property.type !== "Identifier" ||
              node.object.type !== "Identifier" ||
              !suites.has(node.object.name)
            )
              return;
            if (["only", "skip", "todo", "skipIf", "runIf"].includes(node.property.name))
              report(
                node,
                `${node.object.name}.${node.property.name}; use context.skip(condition, "the reason"), which keeps the reason in the report`,
              );
          },
          CallExpression: (node) => {
            if (node.callee.type !== "MemberExpression" || node.callee.property.type !== "Identifier") return;
            if (node.callee.property.name === "skip" && !node.arguments.some(isText))
              report(node, "skip without a reason");
          },
        });
      }),
    ).toEqual([]);
  });

  it("says by its suffix what must be running", () => {
    const suffix = /^[a-z0-9-]+(?:\.(?:prop|sqlite|sim|nats|e2e|browser))?\.test\.ts$/;
    expect(paths.filter((path) => path.endsWith(".test.ts") && !suffix.test(basename(path)))).toEqual([]);
  });
});

describe("packages", () => {
  it("is Apache-2.0, ESM and for Node 20.19 and up throughout", () => {
    const root = rootManifest();
    expect(readText("LICENSE")).toContain("Apache License");
    for (const { folder, manifest } of workspaces())
      expect({ folder, license: manifest.license, type: manifest.type, engines: manifest.engines }).toEqual({
        folder,
        license: "Apache-2.0",
        type: "module",
        engines: root.engines,
      });
  });

  it("declares as dependencies what its production code imports, no more and no less", () => {
    const offending = workspaces().flatMap(({ folder, manifest }) => {
      const sources = files.filter((file) => file.folder === folder && !file.isTest);
      if (sources.length === 0) return [];
      const imported = new Set(sources.flatMap((file) => file.imports.map(({ packageName }) => packageName)));
      const declared = Object.keys({ ...manifest.dependencies, ...manifest.peerDependencies });
      return [
        ...[...imported]
          .filter((name) => name !== undefined && name !== manifest.name && !declared.includes(name))
          .map((name) => `${folder}: imports ${String(name)} and does not declare it`),
        ...declared
          .filter((name) => !imported.has(name))
          .map((name) => `${folder}: declares ${name} and does not import it`),
      ];
    });
    expect(offending).toEqual([]);
  });

  it("builds every TypeScript project from the root, each after the packages that it depends on", () => {
    const references = (path: string) =>
      (JSON.parse(readText(path)) as { references: readonly { path: string }[] }).references.map(
        (reference) => reference.path,
      );
    const projects = paths
      .filter((path) => /^[a-z-]+\/tsconfig\.json$/.test(path))
      .map((path) => path.slice(0, path.indexOf("/")));
    expect(references("tsconfig.json").toSorted()).toEqual(projects.toSorted());

    const folderOf = new Map(workspaces().map(({ folder, manifest }) => [manifest.name, folder]));
    for (const { folder, manifest } of workspaces()) {
      const expected = Object.keys(manifest.dependencies ?? {}).flatMap((name) => folderOf.get(name) ?? []);
      const actual = references(`${folder}/tsconfig.json`).map((path) => path.replace("../", ""));
      expect({ folder, references: actual.toSorted() }).toEqual({ folder, references: expected.toSorted() });
    }
  });

  it("gives every dependency its line in docs/dependencies.md, and no line to what is gone", () => {
    const own = new Set(workspaces().map(({ manifest }) => manifest.name));
    const used = new Set(
      [rootManifest(), ...workspaces().map(({ manifest }) => manifest)]
        .flatMap(({ dependencies, devDependencies }) => Object.keys({ ...dependencies, ...devDependencies }))
        .filter((name) => !own.has(name)),
    );
    const listed = [...readText("docs/dependencies.md").matchAll(/^\| `([^`]+)`/gm)].map(
      ([, name = ""]) => name,
    );
    expect(listed.toSorted()).toEqual([...used].toSorted());
  });

  it("locks dependencies by their hash, not by an address", () => {
    const external = [...lockedPackages()].filter(
      ([path, entry]) => path.includes("node_modules/") && entry.link !== true,
    );
    expect(external.length).toBeGreaterThan(0);
    expect(
      external
        .filter(([, entry]) => entry.resolved !== undefined || entry.integrity === undefined)
        .map(([path]) => path),
    ).toEqual([]);
  });

  // npm leaves out what it cannot fetch at that moment, without a word; `npm ci` then refuses the lock.
  it("locks the binaries of every platform", () => {
    const locked = new Set(
      [...lockedPackages().keys()].map((path) => path.slice(path.lastIndexOf("node_modules/") + 13)),
    );
    expect(
      [...lockedPackages()].flatMap(([path, entry]) =>
        Object.keys(entry.optionalDependencies ?? {})
          .filter((name) => !locked.has(name))
          .map((name) => `${path}: ${name}`),
      ),
    ).toEqual([]);
  });
});

describe("decisions", () => {
  it("numbers them without a gap, each with context, decision and consequences", () => {
    const records = paths.filter((path) => /^docs\/decisions\/\d/.test(path)).map((path) => basename(path));
    expect(records.map((name) => name.slice(0, 4))).toEqual(
      records.map((_, index) => String(index + 1).padStart(4, "0")),
    );
    for (const name of records) {
      const text = readText(`docs/decisions/${name}`);
      for (const heading of ["## Context", "## Decision", "## Consequences"])
        expect(text, name).toContain(heading);
    }
  });
});

interface LockedPackage {
  readonly resolved?: string;
  readonly integrity?: string;
  readonly link?: boolean;
  readonly optionalDependencies?: Readonly<Record<string, string>>;
}

function lockedPackages(): ReadonlyMap<string, LockedPackage> {
  const lock = JSON.parse(readText("package-lock.json")) as {
    readonly packages: Readonly<Record<string, LockedPackage>>;
  };
  return new Map(Object.entries(lock.packages));
}

function isText(node: Argument): boolean {
  return node.type === "TemplateLiteral" || (node.type === "Literal" && typeof node.value === "string");
}

type Report = (node: { readonly start: number }, what: string) => void;

function offences(rule: (file: SourceFile, report: Report) => void): string[] {
  const found: string[] = [];
  for (const file of files)
    rule(file, (node, what) => found.push(`${positionIn(file, node.start)}: ${what}`));
  return found;
}
