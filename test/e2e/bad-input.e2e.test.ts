/**
 * What is wrong is said so by the running system, with a code, the id or limit, and the next step: one line here for
 * each kind of bad input. The parts' own tests go deeper; here it goes through the command, real sockets and a broker.
 */
import { readFileSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { WebSocket } from "ws";
import { openEventLog, type EventLog } from "@millrace/event-log";
import { startBroker, type Broker } from "@millrace/event-log/broker";
import { limits, type ServerFrame } from "@millrace/schemas";
import { eventually, within } from "./deadline.ts";
import { HttpApi, type Answer } from "./http-api.ts";
import { failingMillrace, MillraceProcess } from "./millrace-process.ts";
import { Signal } from "./signal.ts";
import { temporaryFolder, type TemporaryFolder } from "./temporary-folder.ts";

let folder: TemporaryFolder;
let broker: Broker;
let server: MillraceProcess;
let api: HttpApi;
let log: EventLog;

beforeAll(async () => {
  folder = await temporaryFolder();
  broker = await startBroker({ dataDir: join(folder.path, "broker") });
  server = await MillraceProcess.start(["dev", "--data", join(folder.path, "data"), "--port", "0"], {
    MILLRACE_NATS_URL: broker.url,
  });
  api = new HttpApi(server.ready.url);
  log = await openEventLog({ servers: broker.url, namespace: server.ready.namespace });
});

afterAll(async () => {
  await log?.close();
  await server?.stop();
  await broker?.stop();
  await folder?.remove();
});

const external = { type: "permit", driver: "external", steps: ["check"] };

describe("over HTTP", () => {
  interface Case {
    readonly name: string;
    readonly send: () => Promise<Answer>;
    readonly status: number;
    readonly code: string;
    /** What the message must hold: the subject, and the next step. */
    readonly says: readonly RegExp[];
    readonly fields?: Readonly<Record<string, unknown>>;
  }

  const start = (body: unknown) => api.send("POST", "/v1/workflows", body);

  it.each<Case>([
    {
      name: "malformed JSON",
      send: () => start('{"type":'),
      status: 400,
      code: "invalid_json",
      says: [/POST \/v1\/workflows/, /Send UTF-8 JSON/],
    },
    {
      name: "an unknown workflow type",
      send: () => start({ type: "unheard-of", id: "of-unknown-type" }),
      status: 404,
      code: "workflow_type_unknown",
      says: [/unheard-of/, /allowUnregistered|worker|external/],
    },
    {
      name: "an invalid id",
      send: () => start({ ...external, id: "no.dots" }),
      status: 400,
      code: "invalid_id",
      says: [/"no\.dots"/, /\[A-Za-z0-9_-\]\{1,128\}/, /Choose/],
      fields: { limit: limits.workflowIdChars },
    },
    {
      name: "an id over the limit",
      send: () => start({ ...external, id: "x".repeat(129) }),
      status: 400,
      code: "invalid_id",
      says: [/129 characters/],
      fields: { limit: limits.workflowIdChars, actual: 129 },
    },
    {
      name: "a body over the limit",
      send: () => start({ ...external, input: "x".repeat(limits.httpBodyBytes) }),
      status: 413,
      code: "body_too_large",
      says: [/1048576/],
      fields: { limit: limits.httpBodyBytes },
    },
    {
      name: "a token of an attempt that is over",
      send: async () => {
        await api.mustPost("/v1/workflows", { ...external, id: "stale" });
        const path = "/v1/workflows/stale/steps/check";
        const { token } = await api.mustPost(`${path}/begin`, {});
        await api.mustPost(`${path}/begin`, {});
        return await api.send("POST", `${path}/complete`, { token, output: null });
      },
      status: 409,
      code: "attempt_superseded",
      says: [/stale/, /check/, /begin/i],
    },
    {
      name: "a run that does not exist",
      send: () => api.send("GET", "/v1/workflows/nobody"),
      status: 404,
      code: "workflow_not_found",
      says: [/nobody/, /min=/],
    },
  ])("$name: $status $code", async ({ send, status, code, says, fields = {} }) => {
    const answer = await send();
    expect(answer.headers["content-type"]).toContain("application/problem+json");
    expect({ status: answer.status, ...answer.body }).toMatchObject({ status, code, ...fields });
    for (const part of says) expect(answer.body["detail"]).toMatch(part);
  });
});

describe("over the stream", () => {
  class RawStream {
    readonly frames: ServerFrame[] = [];
    closed: { readonly code: number; readonly reason: string } | null = null;
    readonly socket: WebSocket;
    readonly #changed = new Signal();

    constructor(protocol: string | undefined = "millrace.v1") {
      this.socket = new WebSocket(server.ready.streamUrl, protocol === "" ? [] : protocol);
      this.socket.on("message", (data: Buffer) => {
        this.frames.push(JSON.parse(data.toString()) as ServerFrame);
        this.#changed.fire();
      });
      this.socket.on("close", (code, reason) => {
        this.closed = { code, reason: reason.toString() };
        this.#changed.fire();
      });
    }

    async until(what: string, holds: (stream: this) => boolean): Promise<void> {
      const shown = () =>
        `${what}; frames ${JSON.stringify(this.frames)}; closed ${JSON.stringify(this.closed)}`;
      await within(
        shown,
        20_000,
        this.#changed.until(() => holds(this)),
      );
    }

    async opened(): Promise<void> {
      await within(
        "the stream opens",
        20_000,
        new Promise<void>((resolve, reject) => {
          this.socket.once("open", resolve);
          this.socket.once("error", reject);
        }),
      );
    }

    send(frame: object | string): void {
      this.socket.send(typeof frame === "string" ? frame : JSON.stringify(frame));
    }
  }

  async function welcomed(): Promise<{ stream: RawStream; welcome: Extract<ServerFrame, { t: "welcome" }> }> {
    const stream = new RawStream();
    await stream.opened();
    stream.send({ t: "hello", v: 1 });
    await stream.until("welcome", ({ frames }) => frames[0]?.t === "welcome");
    const [welcome] = stream.frames;
    if (welcome?.t !== "welcome") throw new Error("The first frame is not welcome.");
    return { stream, welcome };
  }

  it.each([
    ["none", ""],
    ["an unknown one", "graphql-ws"],
  ])("a wrong subprotocol, %s: 400 subprotocol_missing", async (_, protocol) => {
    const { socket } = new RawStream(protocol);
    const refusal = await within(
      "the refusal",
      20_000,
      new Promise<string>((resolve) => {
        socket.on("unexpected-response", (_request, response) => {
          let body = "";
          response.on("data", (chunk: Buffer) => (body += chunk.toString()));
          response.on("end", () => resolve(`${response.statusCode} ${body}`));
        });
      }),
    );
    expect(refusal).toMatch(/^400 /);
    expect(refusal).toContain('"subprotocol_missing"');
    expect(refusal).toContain("Pass it as the second argument");
  });

  it("no hello: 4502", async () => {
    const stream = new RawStream();
    await stream.opened();
    stream.send({ t: "sub", i: 1 });
    await stream.until("the close", ({ closed }) => closed !== null);
    expect(stream.closed).toEqual({ code: 4502, reason: '"sub" before "hello": send hello first' });
  });

  it("a frame over the limit: 4513 with actual, limit and next step", async () => {
    const { stream } = await welcomed();
    stream.send({ t: "ping", pad: "x".repeat(limits.clientFrameBytes) });
    await stream.until("the close", ({ closed }) => closed !== null);
    expect(stream.closed).toMatchObject({
      code: 4513,
      reason: expect.stringMatching(
        new RegExp(`^frame of \\d+ bytes, the limit is ${limits.clientFrameBytes}: list fewer values`),
      ),
    });
  });

  it.each([
    {
      name: "a subscription that there is not",
      frame: { t: "unsub", i: 7 },
      code: "subscription_unknown",
      says: /Unsub of 7 .* Send sub to begin anew/,
    },
    {
      name: "a malformed cursor",
      frame: { t: "sub", i: 7, from: "yesterday" },
      code: "cursor_malformed",
      says: /"yesterday" .* Use a cursor that a frame gave you/,
    },
    {
      name: "an unknown filter field",
      frame: { t: "sub", i: 7, filter: { colour: ["red"] } },
      code: "filter_invalid",
      says: /colour.* Fields are workflow, type/,
    },
  ])("$name: err $code, and the socket lives", async ({ frame, code, says }) => {
    const { stream } = await welcomed();
    stream.send(frame);
    await stream.until("err", ({ frames }) => frames.some(({ t }) => t === "err"));
    expect(stream.frames.at(-1)).toMatchObject({
      t: "err",
      i: 7,
      code,
      msg: expect.stringMatching(says),
      retry: false,
    });
    stream.send({ t: "ping", n: 1 });
    await stream.until("pong", ({ frames }) => frames.at(-1)?.t === "pong");
    stream.socket.close();
  });

  it.each([
    { name: "of another epoch", cursor: () => "00000000.1", why: "epoch" },
    { name: "from the future", cursor: (epoch: string) => `${epoch}.1000000`, why: "future" },
  ])("a cursor $name: gone, with where the log is now", async ({ cursor, why }) => {
    const { stream, welcome } = await welcomed();
    stream.send({ t: "sub", i: 3, from: cursor(welcome.e) });
    await stream.until("gone", ({ frames }) => frames.at(-1)?.t === "gone");
    expect(stream.frames.at(-1)).toMatchObject({
      t: "gone",
      i: 3,
      why,
      e: welcome.e,
      head: expect.any(Number),
    });
    stream.socket.close();
  });

  it("a filter that matches nothing: live, and the cursor moves without events", async () => {
    const { stream } = await welcomed();
    stream.send({ t: "sub", i: 1, filter: { type: ["nobody-has-this"] }, from: "start" });
    await stream.until("live", ({ frames }) => frames.some(({ t }) => t === "live"));
    const { sequence } = await api.mustPost("/v1/workflows", { ...external, id: "beside-the-filter" });
    const again = await welcomed();
    again.stream.send({ t: "sub", i: 1, filter: { type: ["nobody-has-this"] }, from: "start" });
    await again.stream.until("live", ({ frames }) => frames.some(({ t }) => t === "live"));
    const live = again.stream.frames.find((frame) => frame.t === "live");
    expect(live?.s).toBeGreaterThanOrEqual(Number(sequence));
    for (const { frames } of [stream, again.stream]) expect(frames.filter(({ t }) => t === "ev")).toEqual([]);
    stream.socket.close();
    again.stream.socket.close();
  });
});

describe("at the start", () => {
  it("a port in use: exit code 6, and which port", async () => {
    const taken = createServer();
    await new Promise<void>((resolve) => {
      taken.listen(0, "127.0.0.1", resolve);
    });
    const address = taken.address();
    const port = address !== null && typeof address === "object" ? String(address.port) : "";
    const { code, error } = await failingMillrace([
      "dev",
      "--data",
      join(folder.path, "port"),
      "--port",
      port,
    ]);
    taken.close();
    expect({ code, error }).toMatchObject({ code: 6, error: { code: "port_in_use" } });
    expect(error.message).toContain(port);
    expect(error.message).toContain("--port");
  });

  it("a data folder that cannot be written: exit code 6, which folder, and what to do", async () => {
    const file = join(folder.path, "a-file");
    await writeFile(file, "");
    const dataDir = join(file, "data");
    const { code, error } = await failingMillrace(["dev", "--data", dataDir, "--port", "0"]);
    expect({ code, error }).toMatchObject({ code: 6, error: { code: "data_folder_not_writable" } });
    expect(error.message).toContain(dataDir);
    expect(error.message).toContain("--data");
  });

  it("a platform on which uWebSockets.js does not load: exit code 6, and which combinations work", async () => {
    // What the dynamic linker says on an older glibc, said in its place: this machine has a newer one.
    const linker = join(folder.path, "old-glibc.cjs");
    await writeFile(
      linker,
      `const real = process.dlopen;
       process.dlopen = (module, file, ...rest) => {
         if (/uws_/.test(file)) throw new Error("/lib/libc.so.6: version 'GLIBC_2.38' not found (required by " + file + ")");
         return real.call(process, module, file, ...rest);
       };`,
    );
    const { code, error } = await failingMillrace(
      ["dev", "--data", join(folder.path, "glibc"), "--port", "0"],
      {
        NODE_OPTIONS: `--require ${linker}`,
      },
    );
    expect({ code, error }).toMatchObject({ code: 6, error: { code: "native_module_unsupported" } });
    for (const part of [
      /GLIBC_2\.38/,
      /musl/,
      /Node 20 needs glibc 2\.27/,
      /Node 22, 24 and 25 need glibc 2\.38/,
      /Use Node 20/,
    ]) {
      expect(error.message).toMatch(part);
    }
  });
});

describe("the broker gone in the middle of a request", () => {
  async function startedTimes(id: string): Promise<number> {
    const commits = await log.load(id);
    return commits.flatMap(({ events }) => events).filter(({ type }) => type === "WorkflowStarted").length;
  }

  /** The signal is only asked for: on another core the broker may still answer what comes right behind it. */
  async function stopProcess(pid: number): Promise<void> {
    process.kill(pid, "SIGSTOP");
    if (process.platform !== "linux") return;
    const state = (): string => /\) (\S)/.exec(readFileSync(`/proc/${pid}/stat`, "utf8"))?.[1] ?? "";
    await eventually("the broker stands still", 10_000, () => state() === "T");
  }

  async function brokerBack(pid: number): Promise<void> {
    await eventually("the broker is back", 60_000, () => broker.pid !== pid && broker.status === "running");
  }

  it("killed with the request in its hands: answered when it is back, and nothing half-done", async () => {
    const { pid } = broker;
    // Stopped, the broker takes the request and does not answer: from here on it is in doubt.
    await stopProcess(pid);
    const asked = Array.from({ length: 20 }, (_, number) =>
      api.send("POST", "/v1/workflows", { ...external, id: `in-doubt-${number}` }),
    );
    await delay(300);
    process.kill(pid, "SIGKILL");
    const answers = await Promise.all(asked);
    await brokerBack(pid);
    for (const { status, headers, body } of answers) {
      if (status === 201) continue;
      expect({ status, retryable: body["retryable"] }).toEqual({ status: 503, retryable: true });
      expect(headers["retry-after"]).toMatch(/^\d+$/);
      expect(["unavailable", "append_in_doubt"]).toContain(body["code"]);
    }
    for (const number of asked.keys()) {
      const again = await api.post("/v1/workflows", { ...external, id: `in-doubt-${number}` });
      expect([200, 201]).toContain(again.status);
      expect(await startedTimes(`in-doubt-${number}`)).toBe(1);
    }
  });

  it("away for longer than a request may take: 503 with code, Retry-After and the next step", async () => {
    // A proxy in the broker's place would be another address; a stopped process is away without being gone.
    const { pid } = broker;
    await stopProcess(pid);
    const begun = api.send("POST", "/v1/workflows", { ...external, id: "patient" });
    const answer = await within("an answer although the broker is away", 60_000, begun);
    process.kill(pid, "SIGCONT");
    expect(answer).toMatchObject({ status: 503, body: { retryable: true } });
    expect(["unavailable", "append_in_doubt"]).toContain(answer.body["code"]);
    expect(answer.headers["retry-after"]).toMatch(/^\d+$/);
    expect(String(answer.body["detail"])).toMatch(/patient/);
    expect((await api.post("/v1/workflows", { ...external, id: "patient" })).status).toBeLessThan(300);
    expect(await startedTimes("patient")).toBe(1);
  });
});
