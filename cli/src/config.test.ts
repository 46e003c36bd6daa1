import { resolve } from "node:path";
import { describe, expect, it } from "vitest";
import { isMillraceError } from "@millrace/schemas";
import {
  readLogLevel,
  readPayloadKeys,
  readServerConfig,
  readUrl,
  type Environment,
  type ServerOptions,
} from "./config.ts";

const dev = (options: ServerOptions = {}, env: Environment = {}) => readServerConfig("dev", options, env);
const serve = (options: ServerOptions = {}, env: Environment = {}) => readServerConfig("serve", options, env);
const external = { MILLRACE_NATS_URL: "nats://127.0.0.1:4222" };

/** The code of what is thrown. */
function refusal(act: () => unknown): string {
  try {
    act();
  } catch (error) {
    return isMillraceError(error) ? `${error.code}: ${error.message}` : String(error);
  }
  return "accepted";
}

describe("readServerConfig", () => {
  it("has the documented defaults", () => {
    expect(dev()).toMatchObject({
      parts: ["engine", "projector", "stream-server"],
      split: false,
      supervised: false,
      dataDir: resolve(".millrace"),
      host: "127.0.0.1",
      port: 8001,
      durability: "default",
      namespace: "default",
      workflowFiles: [],
      json: false,
    });
  });

  it("takes an option before its variable, and a variable before the default; an empty variable is none", () => {
    const env = { MILLRACE_PORT: "9000", MILLRACE_HOST: "0.0.0.0" };
    expect(dev({}, env)).toMatchObject({ port: 9000, host: "0.0.0.0" });
    expect(dev({ port: "0", host: "::1" }, env)).toMatchObject({ port: 0, host: "::1" });
    expect(dev({}, { MILLRACE_PORT: " ", MILLRACE_HOST: "", MILLRACE_NATS_URL: "" })).toMatchObject({
      port: 8001,
      host: "127.0.0.1",
      durability: "default",
    });
  });

  it("knows no durability of a broker of the user's", () => {
    expect(dev({}, external).durability).toBeNull();
    expect(dev({ durability: "fsync" }).durability).toBe("fsync");
  });

  it("takes a worker group, and a lease in whole seconds; the defaults are the engine's", () => {
    expect(dev()).toMatchObject({ group: undefined, leaseMs: undefined });
    expect(dev({ group: "orders", lease: "3" })).toMatchObject({ group: "orders", leaseMs: 3_000 });
    expect(refusal(() => dev({ group: "a.b" }))).toMatch(/^invalid_id: Worker group "a.b"/);
    for (const lease of ["1", "2.5", "x", ""])
      expect(refusal(() => dev({ lease }))).toMatch(/^invalid_request: --lease .* whole seconds, 2 at least/);
    expect(dev({ taskLease: "60" })).toMatchObject({ taskLeaseMs: 60_000 });
    expect(refusal(() => dev({ taskLease: "1" }))).toMatch(/^invalid_request: --task-lease /);
  });

  it("puts the examples before the workflows given, all as absolute paths", () => {
    const files = dev({ examples: true, workflows: ["mine.js"] }).workflowFiles;
    expect(files[0]).toMatch(/examples[\\/]dist[\\/]workflows\.js$/);
    expect(files[1]).toBe(resolve("mine.js"));
  });

  it("gives parts in start order", () => {
    expect(serve({ parts: "stream-server, projector", data: "d" }).parts).toEqual([
      "projector",
      "stream-server",
    ]);
  });

  it.each<[string, () => unknown, RegExp]>([
    ["a port with letters", () => dev({ port: "80x" }), /^invalid_request: --port "80x"/],
    [
      "a port beyond 65535",
      () => dev({}, { MILLRACE_PORT: "65536" }),
      /^invalid_request: MILLRACE_PORT "65536"/,
    ],
    ["a negative port", () => dev({ port: "-1" }), /^invalid_request: --port/],
    ["an unknown durability", () => dev({ durability: "maybe" }), /^invalid_request: --durability "maybe"/],
    ["a namespace with a dot", () => dev({ namespace: "a.b" }), /^invalid_id: Namespace/],
    ["an unknown part", () => serve({ parts: "engine,web", data: "d" }), /^invalid_request: .*no part "web"/],
    ["a part given twice", () => serve({ parts: "projector,projector", data: "d" }), /names projector twice/],
    ["no part at all", () => serve({ parts: ",", data: "d" }), /names no part/],
    ["serve without a broker", () => serve(), /^invalid_request: .*MILLRACE_NATS_URL.*--data/],
    [
      "an engine that is asked for and hosts nothing",
      () => serve({ parts: "engine" }, external),
      /^invalid_request: .*--workflows/,
    ],
  ])("refuses %s", (_title, act, expected) => {
    expect(refusal(act)).toMatch(expected);
  });

  it("lets serve reach a broker of the user's without a data folder", () => {
    expect(refusal(() => serve({ parts: "stream-server" }, external))).toBe("accepted");
  });
});

describe("readUrl", () => {
  it("takes the option, the variable, the default, without a slash at the end", () => {
    expect(readUrl(undefined, {})).toBe("http://127.0.0.1:8001");
    expect(readUrl(undefined, { MILLRACE_URL: "https://example.test/" })).toBe("https://example.test");
    expect(readUrl("http://h:1/base/", { MILLRACE_URL: "http://other" })).toBe("http://h:1/base");
  });

  it.each(["127.0.0.1:8001", "ws://127.0.0.1:8001", "", "nonsense"])("refuses %j", (url) => {
    expect(refusal(() => readUrl(url, {}))).toMatch(/^invalid_request: --url/);
  });
});

describe("readLogLevel", () => {
  it("reads a level of any case, else falls back, and refuses what is none", () => {
    expect(readLogLevel({ MILLRACE_LOG: "DEBUG" }, "warn")).toBe("debug");
    expect(readLogLevel({}, "warn")).toBe("warn");
    expect(refusal(() => readLogLevel({ MILLRACE_LOG: "loud" }, "warn"))).toMatch(
      /^invalid_request: MILLRACE_LOG=loud/,
    );
  });
});

describe("readPayloadKeys", () => {
  it("takes the first key as the one that seals", () => {
    expect(readPayloadKeys({})).toBeNull();
    expect(readPayloadKeys({ MILLRACE_PAYLOAD_KEYS: "b=AAEC, a=BAUG/w==" })).toEqual({
      keys: { b: "AAEC", a: "BAUG/w==" },
      current: "b",
    });
  });

  it("refuses what is no list of keys without showing it", () => {
    for (const text of ["topsecret", "a=", "a=topsecret!", "a=AAEC,a=BAUG", "a=AAEC,"]) {
      const told = refusal(() => readPayloadKeys({ MILLRACE_PAYLOAD_KEYS: text }));
      expect(told).toMatch(/^invalid_request: MILLRACE_PAYLOAD_KEYS /);
      expect(told).not.toContain("topsecret");
    }
  });
});
