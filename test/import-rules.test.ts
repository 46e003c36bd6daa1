/** ARCHITECTURE.md's import table, kept true: arrows between packages go one way, a technology stays in its room, a core stays pure. */
import { builtinModules } from "node:module";
import { posix } from "node:path";
import { describe, expect, it } from "vitest";
import { workspaces } from "./repository.ts";
import { positionIn, sourceFiles, visit, type SourceFile } from "./source-file.ts";

const files = sourceFiles();
const byName = new Map(workspaces().map(({ folder, manifest }) => [manifest.name, { folder, manifest }]));

/** Package folder to the package folders that it may import. Folders not named here (scripts, bench, examples, test) may import all. */
const arrows: Readonly<Record<string, readonly string[]>> = {
  schemas: [],
  "event-log": ["schemas"],
  projector: ["event-log", "schemas"],
  engine: ["event-log", "schemas"],
  "stream-server": ["event-log", "projector", "engine", "schemas"],
  client: ["schemas"],
  cli: ["schemas", "event-log", "projector", "engine", "stream-server", "client"],
};

/** A technology and the folders whose production code may name it. */
const rooms: readonly { readonly technology: RegExp; readonly rooms: readonly string[] }[] = [
  { technology: /^(?:kysely|better-sqlite3)$/, rooms: ["projector/src/"] },
  { technology: /^uWebSockets\.js$/, rooms: ["stream-server/src/uws/"] },
  { technology: /^react(?:-dom)?(?:\/|$)/, rooms: ["client/src/react/"] },
  { technology: /^@opentelemetry\//, rooms: ["engine/src/opentelemetry/"] },
  { technology: /^(?:nats|@nats-io\/.+)$/, rooms: ["event-log/src/jetstream/", "event-log/src/broker/"] },
];

/** Folders of development: they measure or drive a technology directly, and ship nothing. */
const developmentFolders = new Set(["scripts", "bench", "test", "examples"]);

/** Pure by their place; `schemas` is pure as a whole. Packages that are too flat for a `core/` name their pure files. */
const purePath = /^schemas\/src\/|^[a-z-]+\/src\/(?:[a-z-]+\/)*core\//;
const pureFiles = new Set([
  "client/src/backoff.ts",
  "client/src/connection-machine.ts",
  "client/src/http/event-stream-parser.ts",
  "client/src/http/judge-refusal.ts",
  "client/src/items.ts",
  "client/src/server-frame.ts",
  "client/src/subscription-machine.ts",
  "client/src/transport-choice.ts",
  "event-log/src/encode-append.ts",
  "event-log/src/log-commit.ts",
  "event-log/src/queue-rate.ts",
  "event-log/src/verdict-of.ts",
]);
const pureLibraries = new Set(["valibot", "@standard-schema/spec", "@millrace/schemas", "croner"]);
const impureGlobals = new Set([
  "process",
  "setTimeout",
  "setInterval",
  "setImmediate",
  "queueMicrotask",
  "performance",
  "crypto",
  "fetch",
  "console",
  "WebSocket",
]);
const impureMembers = new Set(["Date.now", "Math.random"]);

/** Files that break a rule, one line each. Expect none: `toEqual([])` prints them all. */
function offences(rule: (file: SourceFile) => readonly string[]): string[] {
  return files.flatMap((file) => rule(file).map((offence) => `${file.path}: ${offence}`));
}

describe("import rules", () => {
  it("has an arrow table for every package", () => {
    expect(Object.keys(arrows).sort()).toEqual(
      workspaces()
        .map(({ folder }) => folder)
        .filter((folder) => !developmentFolders.has(folder))
        .sort(),
    );
  });

  it("lets packages import each other only along the arrows", () => {
    expect(
      offences((file) => {
        const allowed = arrows[file.folder];
        if (allowed === undefined) return [];
        return file.imports
          .map(({ packageName }) => byName.get(packageName ?? "")?.folder)
          .filter((folder) => folder !== undefined && folder !== file.folder && !allowed.includes(folder))
          .map((folder) => `imports ${folder}; ${file.folder} may import only [${allowed.join(", ")}]`);
      }),
    ).toEqual([]);
  });

  it("reaches other packages by their exported names, never by a path", () => {
    expect(
      offences((file) =>
        file.imports.flatMap(({ specifier, packageName }) => {
          if (specifier.startsWith(".")) {
            const target = posix.join(posix.dirname(file.path), specifier);
            const leaves = file.folder !== file.path && !target.startsWith(`${file.folder}/`);
            return leaves ? [`"${specifier}" leaves ${file.folder}/`] : [];
          }
          const other = byName.get(packageName ?? "");
          if (other === undefined) return [];
          const subpath = `.${specifier.slice(other.manifest.name.length)}`;
          return Object.hasOwn(other.manifest.exports ?? {}, subpath)
            ? []
            : [`"${specifier}" is not an export of ${other.folder}`];
        }),
      ),
    ).toEqual([]);
  });

  it("writes relative imports with .ts and builtins with node:", () => {
    const builtins = new Set(builtinModules);
    expect(
      offences((file) =>
        file.imports
          .filter(({ specifier }) =>
            specifier.startsWith(".") ? !/\.(?:ts|json)$/.test(specifier) : builtins.has(specifier),
          )
          .map(({ specifier }) => `"${specifier}"`),
      ),
    ).toEqual([]);
  });

  it("keeps each technology in its room", () => {
    expect(
      offences((file) => {
        if (file.isTest || developmentFolders.has(file.folder)) return [];
        return file.imports.flatMap(({ specifier, packageName }) => {
          const room = rooms.find(({ technology }) => technology.test(packageName ?? ""));
          if (room === undefined || room.rooms.some((folder) => file.path.startsWith(folder))) return [];
          return [`imports ${specifier}, which belongs in ${room.rooms.join(" or ")}`];
        });
      }),
    ).toEqual([]);
  });

  it("keeps client and schemas free of Node, so that a browser can load them", () => {
    expect(
      offences((file) => {
        if (file.isTest || (file.folder !== "client" && file.folder !== "schemas")) return [];
        // A door of its own, which a page does not open.
        if (file.path === "client/src/stores/file-store.ts") return [];
        return file.imports
          .filter(({ specifier }) => specifier.startsWith("node:"))
          .map(({ specifier }) => specifier);
      }),
    ).toEqual([]);
  });

  it("keeps cores pure: no clock, no randomness, no environment, no timer, no I/O, no await", () => {
    const pure = files.filter(
      (file) => !file.isTest && (purePath.test(file.path) || pureFiles.has(file.path)),
    );
    expect(pure.map(({ path }) => path)).toEqual(expect.arrayContaining([...pureFiles]));
    expect(pure.flatMap((file) => [...impureImports(file), ...impureSyntax(file)])).toEqual([]);
  });
});

function impureImports(file: SourceFile): string[] {
  return file.imports
    .filter(
      ({ specifier, packageName }) =>
        specifier.startsWith("node:") || (packageName !== undefined && !pureLibraries.has(packageName)),
    )
    .map(({ specifier }) => `${file.path}: imports ${specifier}`);
}

function impureSyntax(file: SourceFile): string[] {
  const found: string[] = [];
  const report = (node: { readonly start: number }, what: string) =>
    found.push(`${positionIn(file, node.start)}: ${what}`);
  visit(file, {
    AwaitExpression: (node) => report(node, "await"),
    NewExpression: (node) => {
      if (node.callee.type === "Identifier" && node.callee.name === "Date" && node.arguments.length === 0)
        report(node, "new Date()");
    },
    MemberExpression: (node) => {
      if (node.object.type !== "Identifier" || node.property.type !== "Identifier") return;
      const member = `${node.object.name}.${node.property.name}`;
      if (
        impureMembers.has(member) ||
        impureGlobals.has(node.object.name) ||
        node.object.name === "globalThis"
      )
        report(node, member);
    },
    CallExpression: (node) => {
      if (node.callee.type === "Identifier" && impureGlobals.has(node.callee.name))
        report(node, `${node.callee.name}()`);
    },
  });
  return found;
}
