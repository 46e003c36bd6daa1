import { execFile } from "node:child_process";
import { access, constants, mkdir, mkdtemp, readdir, rename, rm, stat } from "node:fs/promises";
import { homedir } from "node:os";
import { delimiter, join } from "node:path";
import { promisify } from "node:util";
import { MillraceError } from "@millrace/schemas";
import {
  assertBrokerVersion,
  brokerVersionIn,
  isBrokerVersionSupported,
  requiredBrokerVersion,
} from "./broker-version.ts";
import type { Environment } from "./config.ts";
import { processEnvironment } from "./config.ts";
import { fetchDistributionPackage } from "./fetch-distribution-package.ts";
import { fetchRelease } from "./fetch-release.ts";

export interface FoundBroker {
  /** The nats-server program. */
  readonly path: string;
  readonly version: string;
  readonly source: "environment" | "path" | "cache" | "fetched";
}

export interface FindBrokerOptions {
  /** Default: `process.env`. */
  readonly env?: Environment;
  /** False: only look, fetch nothing. Default: true. */
  readonly fetch?: boolean;
  readonly onProgress?: (message: string) => void;
}

/** Starting a Go program takes milliseconds; a minute-old, busy laptop a second. */
const versionTimeoutMs = 15_000;
/** A fetch takes a minute at most; what is left in the cache after an hour belongs to a killed process. */
const abandonedAfterMs = 3_600_000;
const programName = process.platform === "win32" ? "nats-server.exe" : "nats-server";

/**
 * Finds a nats-server that is new enough, and fetches one into the user's cache when there is none. In order:
 * `MILLRACE_NATS_SERVER` (path; what it names must do, nothing else is looked at), `nats-server` on `PATH`, the cached
 * copy, the project's release archive, the package of Debian's next release.
 *
 * The cache is `MILLRACE_CACHE_DIR`, else `millrace` in the user's cache folder. Several processes may fetch at once.
 *
 * Rejects with `broker_version_unsupported` when `MILLRACE_NATS_SERVER` is too old, and `broker_not_found`, which lists
 * all that was tried, each with its reason (also in `details.tried`).
 */
export async function findBroker(options: FindBrokerOptions = {}): Promise<FoundBroker> {
  const env = options.env ?? processEnvironment;
  const progress = options.onProgress ?? (() => undefined);
  const given = env["MILLRACE_NATS_SERVER"];
  if (given !== undefined && given !== "") {
    const version = await versionOf(given).catch((cause: unknown) => {
      throw notFound([`MILLRACE_NATS_SERVER=${given}: ${reasonOf(cause)}`], cause);
    });
    assertBrokerVersion(version, `MILLRACE_NATS_SERVER=${given}`);
    return { path: given, version, source: "environment" };
  }

  const tried: string[] = ["MILLRACE_NATS_SERVER: not set"];
  const attempt = async (
    name: string,
    source: FoundBroker["source"],
    find: () => Promise<string>,
  ): Promise<FoundBroker | undefined> => {
    try {
      const path = await find();
      const version = await versionOf(path);
      if (isBrokerVersionSupported(version)) return { path, version, source };
      tried.push(`${name}: ${path} is ${version}, required is ${requiredBrokerVersion} or newer`);
    } catch (error) {
      tried.push(`${name}: ${reasonOf(error)}`);
    }
    return undefined;
  };

  const cacheDir = brokerCacheDir(env);
  const cached = join(cacheDir, `${process.platform}-${process.arch}`, programName);
  const fetchers =
    options.fetch === false
      ? []
      : [
          { name: "release archive of the nats-server project", fetch: fetchRelease },
          { name: "package of Debian's next release", fetch: fetchDistributionPackage },
        ];
  return (
    (await attempt("nats-server on PATH", "path", () => onPath(env))) ??
    (await attempt("cached copy", "cache", () => existing(cached))) ??
    (await firstOf(fetchers, async ({ name, fetch }) => {
      progress(`No nats-server ${requiredBrokerVersion} or newer here yet: fetching the ${name}`);
      return attempt(name, "fetched", () => intoCache(cacheDir, cached, (folder) => fetch(folder, progress)));
    })) ??
    Promise.reject(notFound(tried))
  );
}

/** Where fetched brokers are kept: `MILLRACE_CACHE_DIR`, else `millrace` in the user's cache folder. */
export function brokerCacheDir(env: Environment): string {
  const given = env["MILLRACE_CACHE_DIR"];
  if (given !== undefined && given !== "") return given;
  const home = env["HOME"] ?? homedir();
  if (process.platform === "win32")
    return join(env["LOCALAPPDATA"] ?? join(home, "AppData", "Local"), "millrace");
  if (process.platform === "darwin") return join(home, "Library", "Caches", "millrace");
  const xdg = env["XDG_CACHE_HOME"];
  return join(xdg === undefined || xdg === "" ? join(home, ".cache") : xdg, "millrace");
}

async function firstOf<Item, Result>(
  items: readonly Item[],
  tryItem: (item: Item) => Promise<Result | undefined>,
): Promise<Result | undefined> {
  for (const item of items) {
    const result = await tryItem(item);
    if (result !== undefined) return result;
  }
  return undefined;
}

async function onPath(env: Environment): Promise<string> {
  for (const folder of (env["PATH"] ?? env["Path"] ?? "").split(delimiter)) {
    if (folder === "") continue;
    const path = join(folder, programName);
    const usable = await access(path, constants.X_OK).then(
      () => true,
      () => false,
    );
    if (usable) return path;
  }
  throw new Error("not there");
}

async function existing(path: string): Promise<string> {
  try {
    await access(path, constants.X_OK);
    return path;
  } catch (cause) {
    throw new Error(`none at ${path}`, { cause });
  }
}

/**
 * Fetches in a folder of this process's own and moves the finished, checked program to its place in one step: another
 * process sees none or a whole one, and of two that fetch at once the second replaces the first with its equal.
 */
async function intoCache(
  cacheDir: string,
  target: string,
  fetch: (folder: string) => Promise<string>,
): Promise<string> {
  await mkdir(join(target, ".."), { recursive: true });
  await removeAbandoned(cacheDir);
  const folder = await mkdtemp(join(cacheDir, "fetch-"));
  try {
    const program = await fetch(folder);
    const version = await versionOf(program);
    assertBrokerVersion(version, "the fetched copy");
    try {
      await rename(program, target);
    } catch (error) {
      // Windows does not replace a running program: then the one there is another process's, just fetched and in use.
      if (process.platform !== "win32") throw error;
    }
    return target;
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

async function removeAbandoned(cacheDir: string): Promise<void> {
  for (const name of await readdir(cacheDir)) {
    if (!name.startsWith("fetch-")) continue;
    const path = join(cacheDir, name);
    const { mtimeMs } = await stat(path).catch(() => ({ mtimeMs: Number.POSITIVE_INFINITY }));
    if (Date.now() - mtimeMs > abandonedAfterMs) await rm(path, { recursive: true, force: true });
  }
}

async function versionOf(path: string): Promise<string> {
  const { stdout } = await promisify(execFile)(path, ["--version"], {
    timeout: versionTimeoutMs,
    windowsHide: true,
  });
  const version = brokerVersionIn(stdout);
  if (version === undefined) throw new Error(`${path} --version printed no version`);
  return version;
}

function notFound(tried: readonly string[], cause?: unknown): MillraceError {
  return new MillraceError(
    "broker_not_found",
    [
      `No nats-server ${requiredBrokerVersion} or newer found. Tried:`,
      ...tried.map((line) => `  - ${line}`),
      `Provide one in one of three ways:`,
      `  1. install nats-server ${requiredBrokerVersion} or newer so that it is on PATH;`,
      `  2. set MILLRACE_NATS_SERVER to the path of a nats-server program;`,
      `  3. set MILLRACE_NATS_URL to the address of a running server or cluster with JetStream.`,
    ].join("\n"),
    { cause, details: { tried, required: requiredBrokerVersion } },
  );
}

/** One line: what programs print on failure goes on for pages. */
function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const reason = error.cause instanceof Error ? `${error.message} (${error.cause.message})` : error.message;
  return reason.replaceAll(/\s+/g, " ").trim().slice(0, 400);
}
