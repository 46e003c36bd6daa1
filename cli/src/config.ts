/** The one place that reads the environment and turns options into settings. An option wins over its variable. */
import { resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { assertGroup, assertNamespace, MillraceError } from "@millrace/schemas";
import { parseParts, partNames, type PartName } from "./parts/part-name.ts";

export type Environment = Readonly<Record<string, string | undefined>>;

export const processEnvironment: Environment = process.env;

/** This program, for starting it again as a part. */
export const programFile = fileURLToPath(new URL("./main.js", import.meta.url));
/** The example workflows of a checkout, built. They are not part of the published package. */
const examplesFile = fileURLToPath(new URL("../../examples/dist/workflows.js", import.meta.url));

const defaults = {
  host: "127.0.0.1",
  port: 8001,
  data: "./.millrace",
  url: "http://127.0.0.1:8001",
} as const;

/** Options of `dev` and `serve` as they are given. */
export interface ServerOptions {
  readonly data?: string;
  readonly port?: string;
  readonly host?: string;
  readonly durability?: string;
  readonly namespace?: string;
  readonly workflows?: readonly string[];
  readonly group?: string;
  readonly lease?: string;
  readonly taskLease?: string;
  readonly examples?: boolean;
  readonly split?: boolean;
  readonly streamProcesses?: string;
  readonly sharePort?: boolean;
  /** False with `--no-projection`. */
  readonly projection?: boolean;
  readonly parts?: string;
  readonly supervised?: boolean;
  readonly json?: boolean;
}

export interface ServerConfig {
  readonly parts: readonly PartName[];
  readonly split: boolean;
  /** Processes of the stream server, which share its port; more than one only with `split`. */
  readonly streamProcesses: number;
  /** The stream server reads rows. False: it has only the broker. */
  readonly projection: boolean;
  /** This process is one of several on its port. */
  readonly sharePort: boolean;
  /** This process is a part of a `--split` server and ends with its supervisor. */
  readonly supervised: boolean;
  readonly dataDir: string;
  readonly host: string;
  /** 0: a free one. */
  readonly port: number;
  /** Of the embedded broker; null: a broker of the user's (`MILLRACE_NATS_URL`). */
  readonly durability: "default" | "fsync" | null;
  readonly namespace: string;
  /** Absolute paths of modules that export definitions. */
  readonly workflowFiles: readonly string[];
  /** Undefined: the engine's own choice. */
  readonly group: string | undefined;
  /** Undefined: the engine's own default. */
  readonly leaseMs: number | undefined;
  /** Undefined: the event log's own default. */
  readonly taskLeaseMs: number | undefined;
  readonly examples: boolean;
  /** Refuse clocks, randomness, timers and the network to workflow code: on while it is being written. */
  readonly guard: boolean;
  readonly json: boolean;
  /** The engine seals payloads with these; null: it does not. */
  readonly payloadKeys: PayloadKeys | null;
  readonly environment: Environment;
}

/** For `aesGcmCodec`. */
export interface PayloadKeys {
  readonly keys: Readonly<Record<string, string>>;
  readonly current: string;
}

/** Throws `invalid_request` or `invalid_id`, which name the option. */
export function readServerConfig(
  command: "dev" | "serve",
  options: ServerOptions,
  env: Environment,
): ServerConfig {
  const external = given(env["MILLRACE_NATS_URL"]) !== undefined;
  if (command === "serve" && !external && options.data === undefined) {
    throw new MillraceError(
      "invalid_request",
      "serve does not know its broker: set MILLRACE_NATS_URL to a running NATS server with JetStream, " +
        "or give --data DIR to run an embedded broker on that folder.",
    );
  }
  const parts = options.parts === undefined ? partNames : parseParts(options.parts);
  const hostsNothing = options.workflows === undefined && options.examples !== true;
  if (command === "serve" && options.parts !== undefined && parts.includes("engine") && hostsNothing) {
    throw new MillraceError(
      "invalid_request",
      "serve --parts engine has nothing to host: give the modules that export its workflows with --workflows FILE...",
    );
  }
  if (options.projection === false && parts.includes("projector")) {
    throw new MillraceError(
      "invalid_request",
      "--no-projection refused: this process runs the projector, so it has a projection. Give --parts stream-server with it, or leave it out.",
    );
  }
  const namespace = options.namespace ?? given(env["MILLRACE_NAMESPACE"]) ?? "default";
  assertNamespace(namespace);
  if (options.group !== undefined) assertGroup(options.group);
  const examples = options.examples === true;
  const supervised = options.supervised === true;
  // A part inherits the variable, and is one process itself.
  const streamProcesses = supervised ? 1 : readStreamProcesses(options.streamProcesses, env);
  return {
    parts,
    split: options.split === true || streamProcesses > 1,
    streamProcesses,
    sharePort: options.sharePort === true,
    projection: options.projection !== false,
    supervised,
    dataDir: resolve(options.data ?? defaults.data),
    host: options.host ?? given(env["MILLRACE_HOST"]) ?? defaults.host,
    port: readPort(options.port, env),
    durability: external ? null : readDurability(options.durability),
    namespace,
    workflowFiles: [
      ...(examples ? [examplesFile] : []),
      ...(options.workflows ?? []).map((file) => resolve(file)),
    ],
    group: options.group,
    leaseMs: readLease("--lease", options.lease),
    taskLeaseMs: readLease("--task-lease", options.taskLease),
    examples,
    guard: command === "dev",
    json: options.json === true,
    payloadKeys: readPayloadKeys(env),
    environment: env,
  };
}

/** Address of the stream server for client commands: `--url`, `MILLRACE_URL`, the default. Without a slash at its end. */
export function readUrl(option: string | undefined, env: Environment): string {
  const text = option ?? given(env["MILLRACE_URL"]) ?? defaults.url;
  const url = URL.canParse(text) ? new URL(text) : null;
  if (url === null || (url.protocol !== "http:" && url.protocol !== "https:")) {
    throw new MillraceError(
      "invalid_request",
      `${option === undefined ? "MILLRACE_URL" : "--url"} ${JSON.stringify(text)} is not the address of a stream server: ` +
        `expected http://HOST:PORT or https://HOST:PORT.`,
    );
  }
  return url.href.replace(/\/+$/, "");
}

/** `MILLRACE_PAYLOAD_KEYS`: `id=base64`, separated by commas; the first one seals, all open. Null when it is not set. */
export function readPayloadKeys(env: Environment): PayloadKeys | null {
  const text = given(env["MILLRACE_PAYLOAD_KEYS"]);
  if (text === undefined) return null;
  const keys: Record<string, string> = {};
  for (const pair of text.split(",")) {
    const [, id, key] = /^\s*([A-Za-z0-9_.-]{1,64})=([A-Za-z0-9+/]+=*)\s*$/.exec(pair) ?? [];
    if (id === undefined || key === undefined || Object.hasOwn(keys, id)) {
      // Never shown: it may be a key.
      throw new MillraceError(
        "invalid_request",
        `MILLRACE_PAYLOAD_KEYS is not a list of keys: expected id=base64,id=base64 with ids [A-Za-z0-9_.-]{1,64}, each once. ` +
          "Make a key with: openssl rand -base64 32",
      );
    }
    keys[id] = key;
  }
  return { keys, current: Object.keys(keys)[0] ?? "" };
}

const logLevels = ["trace", "debug", "info", "warn", "error", "fatal", "silent"] as const;
export type LogLevel = (typeof logLevels)[number];

/** `MILLRACE_LOG`, else `fallback`. */
export function readLogLevel(env: Environment, fallback: LogLevel): LogLevel {
  const text = given(env["MILLRACE_LOG"]);
  if (text === undefined) return fallback;
  const level = logLevels.find((known) => known === text.toLowerCase());
  if (level !== undefined) return level;
  throw new MillraceError(
    "invalid_request",
    `MILLRACE_LOG=${text} is not a level: expected one of ${logLevels.join(", ")}.`,
  );
}

function readPort(option: string | undefined, env: Environment): number {
  const text = option ?? given(env["MILLRACE_PORT"]) ?? String(defaults.port);
  if (/^[0-9]{1,5}$/.test(text) && Number(text) <= 65_535) return Number(text);
  throw new MillraceError(
    "invalid_request",
    `${option === undefined ? "MILLRACE_PORT" : "--port"} ${JSON.stringify(text)} is not a port: expected 0 to 65535 (0 takes a free one).`,
  );
}

/** More than this would not make a machine's cores faster, and each has a ring and a tail of its own. */
const streamProcessesMax = 64;

function readStreamProcesses(option: string | undefined, env: Environment): number {
  const text = option ?? given(env["MILLRACE_STREAM_PROCESSES"]) ?? "1";
  const count = Number(text);
  if (/^[0-9]{1,2}$/.test(text) && count >= 1 && count <= streamProcessesMax) return count;
  throw new MillraceError(
    "invalid_request",
    `${option === undefined ? "MILLRACE_STREAM_PROCESSES" : "--stream-processes"} ${JSON.stringify(text)} is not a number of ` +
      `processes: expected 1 to ${streamProcessesMax}, about one for each core that the stream may use.`,
  );
}

/** At least two: the broker counts in seconds, and a pause of the process must not cost a lease. */
function readLease(name: string, option: string | undefined): number | undefined {
  if (option === undefined) return undefined;
  const seconds = Number(option);
  if (/^[0-9]{1,5}$/.test(option) && seconds >= 2) return seconds * 1_000;
  throw new MillraceError(
    "invalid_request",
    `${name} ${JSON.stringify(option)} is not a lease: expected whole seconds, 2 at least.`,
  );
}

function readDurability(option: string | undefined): "default" | "fsync" {
  if (option === undefined || option === "default") return "default";
  if (option === "fsync") return "fsync";
  throw new MillraceError(
    "invalid_request",
    `--durability ${JSON.stringify(option)} is not a mode: expected "default" (an answered write survives a killed process) ` +
      `or "fsync" (it survives a power cut).`,
  );
}

/** A variable that is set to nothing counts as not set, as in most programs. */
function given(value: string | undefined): string | undefined {
  return value === undefined || value.trim() === "" ? undefined : value.trim();
}
