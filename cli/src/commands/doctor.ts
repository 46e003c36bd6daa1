import { access, constants, stat } from "node:fs/promises";
import { arch, platform } from "node:os";
import { isMillraceError } from "@millrace/schemas";
import type { ServerConfig } from "../config.ts";
import { exitCodes, type ExitCode } from "../core/exit-code.ts";
import type { Output } from "../output.ts";
import { projectionFile } from "../parts/start-parts.ts";
import { createServerApi, type ServerApi } from "../server-api.ts";
import { isAlive, readServerRecord } from "../server-record.ts";

export interface Check {
  readonly name: string;
  readonly status: "ok" | "warn" | "fail";
  readonly found: string;
  /** What to do about it; absent when nothing is to be done. */
  readonly next?: string;
}

/**
 * Looks at everything that a server or client command relies on, changes nothing, fetches nothing. One line per check,
 * or with `--json` `{ok, checks}`. A check that failed gives the exit code `machine`.
 */
export async function doctor(
  api: ServerApi,
  output: Output,
  config: ServerConfig,
  urlGiven: boolean,
): Promise<ExitCode> {
  const checks: Check[] = [];
  const look = async (name: string, check: () => Promise<readonly Omit<Check, "name">[]>): Promise<void> => {
    const found = await check().catch((error: unknown): Omit<Check, "name">[] => [failure(error)]);
    for (const each of found) {
      checks.push({ name, ...each });
      const next = each.next === undefined ? "" : `\n${" ".repeat(22)}${each.next}`;
      output.text(`${each.status.padEnd(4)}  ${name.padEnd(14)}  ${each.found}${next}`);
    }
  };
  await look("node", checkNode);
  await look("uWebSockets.js", checkStreamServer);
  await look("better-sqlite3", () => checkProjection(config));
  await look("data folder", () => checkDataFolder(config));
  await look("broker", () => checkBroker(config));
  await look("event log", () => checkLog(config));
  await look("server", async () => checkServer(urlGiven ? api : await serverOf(config, api)));
  const ok = checks.every(({ status }) => status !== "fail");
  output.value({ ok, checks });
  return ok ? exitCodes.ok : exitCodes.machine;
}

function failure(error: unknown): Omit<Check, "name"> {
  const message = error instanceof Error ? error.message : String(error);
  return { status: "fail", found: isMillraceError(error) ? `${error.code}: ${message}` : message };
}

async function checkNode(): Promise<Omit<Check, "name">[]> {
  const [major = 0, minor = 0] = process.versions.node.split(".").map(Number);
  const libc = glibcVersion();
  const where = `${platform()} ${arch()}${platform() === "linux" ? `, ${libc === null ? "no glibc (musl?)" : `glibc ${libc}`}` : ""}`;
  const found = `Node ${process.versions.node} on ${where}`;
  if (major > 20 || (major === 20 && minor >= 19)) return [{ status: "ok", found }];
  return [{ status: "fail", found, next: "Millrace needs Node 20.19 or newer: install one." }];
}

function glibcVersion(): string | null {
  const { header } = process.report.getReport() as {
    readonly header?: { readonly glibcVersionRuntime?: string };
  };
  return header?.glibcVersionRuntime ?? null;
}

async function checkStreamServer(): Promise<Omit<Check, "name">[]> {
  const { loadUws } = await import("@millrace/stream-server");
  await loadUws();
  return [{ status: "ok", found: "loads here (serves HTTP and WebSocket)" }];
}

async function checkProjection({ dataDir, namespace }: ServerConfig): Promise<Omit<Check, "name">[]> {
  const { openProjection } = await import("@millrace/projector");
  const path = projectionFile(dataDir, namespace);
  const projection = openProjection({ path });
  try {
    const { sequence } = projection.checkpoint();
    return [{ status: "ok", found: sequence === 0 ? "is installed; no projection yet" : `reads ${path}` }];
  } finally {
    projection.close();
  }
}

async function checkDataFolder({ dataDir }: ServerConfig): Promise<Omit<Check, "name">[]> {
  try {
    await stat(dataDir);
  } catch (error) {
    if (!(error instanceof Error && "code" in error && error.code === "ENOENT")) throw error;
    return [
      { status: "warn", found: `${dataDir} is not there yet`, next: "It is made by the first: millrace dev" },
    ];
  }
  try {
    await access(dataDir, constants.W_OK);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    return [
      {
        status: "fail",
        found: `${dataDir} is not writable (${reason})`,
        next: "Correct its permissions, or use another one with --data.",
      },
    ];
  }
  const record = await readServerRecord(dataDir);
  if (record === null) return [{ status: "ok", found: `${dataDir} is writable, no server uses it` }];
  if (isAlive(record.pid))
    return [
      { status: "ok", found: `${dataDir} is in use by process ${record.pid} since ${record.startedAt}` },
    ];
  return [
    {
      status: "ok",
      found: `${dataDir} is writable; the server that used it (process ${record.pid}) was killed`,
    },
  ];
}

async function checkBroker(config: ServerConfig): Promise<Omit<Check, "name">[]> {
  const { connectionOptionsFromEnvironment, findBroker, requiredBrokerVersion } =
    await import("@millrace/event-log/broker");
  const external = connectionOptionsFromEnvironment(config.environment);
  if (external !== undefined) {
    const servers = [external.servers ?? []].flat().join(", ");
    return [
      { status: "ok", found: `yours at ${servers} (MILLRACE_NATS_URL); durability as configured there` },
    ];
  }
  try {
    const { version, path, source } = await findBroker({ env: config.environment, fetch: false });
    return [
      {
        status: "ok",
        found: `nats-server ${version} at ${path} (${source}; required is ${requiredBrokerVersion})`,
      },
    ];
  } catch (error) {
    if (!isMillraceError(error, "broker_not_found")) throw error;
    const given = config.environment["MILLRACE_NATS_SERVER"];
    if (given !== undefined && given !== "") return [failure(error)];
    return [
      {
        status: "warn",
        found: `no nats-server ${requiredBrokerVersion} or newer here yet`,
        next: "The first millrace dev fetches one; or put one on PATH, or set MILLRACE_NATS_SERVER or MILLRACE_NATS_URL.",
      },
    ];
  }
}

async function checkLog(config: ServerConfig): Promise<Omit<Check, "name">[]> {
  const { connectionOptionsFromEnvironment } = await import("@millrace/event-log/broker");
  const external = connectionOptionsFromEnvironment(config.environment);
  const record = external === undefined ? await readServerRecord(config.dataDir).catch(() => null) : null;
  const servers = external?.servers ?? (record !== null && isAlive(record.pid) ? record.natsUrl : undefined);
  if (servers === undefined) {
    return [
      {
        status: "warn",
        found: "not looked at: no broker runs on the data folder",
        next: "Start one with: millrace dev",
      },
    ];
  }
  const { openEventLog } = await import("@millrace/event-log");
  const { servers: _servers, ...connection } = external ?? {};
  const log = await openEventLog({
    servers,
    connection,
    namespace: config.namespace,
    name: "millrace doctor",
  });
  try {
    const info = await log.info();
    const durability = record?.durability ?? "external";
    const { openProjection } = await import("@millrace/projector");
    const projection = openProjection({ path: projectionFile(config.dataDir, config.namespace) });
    const { sequence } = projection.checkpoint();
    projection.close();
    const lag = info.lastSequence - sequence;
    const { firstSequence, lastSequence, epoch, created } = info;
    return [
      {
        status: "ok",
        found:
          `namespace ${config.namespace}, sequences ${firstSequence} to ${lastSequence}, epoch ${epoch}, created ${created}, ` +
          `durability ${durability}`,
      },
      lag <= 0
        ? { status: "ok", found: `projection is at ${sequence}, up to date` }
        : {
            status: "warn",
            found: `projection is at ${sequence}, ${lag} behind the log`,
            next: "Run doctor again: when this does not shrink, the projector does not run or has failed (see its log).",
          },
    ];
  } finally {
    await log.close();
  }
}

/** The server that runs on the data folder, wherever it listens; else the one at the default address. */
async function serverOf({ dataDir }: ServerConfig, api: ServerApi): Promise<ServerApi> {
  const record = await readServerRecord(dataDir).catch(() => null);
  if (record === null || record.url === null || !isAlive(record.pid)) return api;
  return createServerApi(record.url);
}

async function checkServer(api: ServerApi): Promise<Omit<Check, "name">[]> {
  try {
    await api.get("/readyz");
    return [{ status: "ok", found: `${api.url} is ready` }];
  } catch (error) {
    if (!isMillraceError(error)) throw error;
    return [
      {
        status: "warn",
        found: `${api.url} is not ready: ${error.message}`,
        next: "Start one with millrace dev, or give the address of yours with --url or MILLRACE_URL.",
      },
    ];
  }
}
