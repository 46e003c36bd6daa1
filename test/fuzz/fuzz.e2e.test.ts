/**
 * Frames, requests and bytes that no client of ours would send, to a real server: it answers each with a code, never
 * hangs, and lives. `npm run fuzz -- --cases 100000` runs any number.
 */
import { Agent } from "node:http";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { HttpApi } from "../e2e/http-api.ts";
import { MillraceProcess } from "../e2e/millrace-process.ts";
import { temporaryFolder, type TemporaryFolder } from "../e2e/temporary-folder.ts";
import { httpCase } from "./http-cases.ts";
import { seen, sendBytes, sendFrames, sendHttp } from "./send-case.ts";
import { rawCase, socketCase } from "./socket-cases.ts";

const cases = Number(process.env["MILLRACE_FUZZ_CASES"] ?? 10_000);
const seed = Number(process.env["MILLRACE_FUZZ_SEED"] ?? Math.floor(Math.random() * 2 ** 31));
/** So many at a time, so that what waits two seconds for a projector does not hold up the rest. */
const lanes = 8;
const timeoutMs = 60_000 + cases * 20;
const why = `npm run fuzz -- --cases ${cases} --seed ${seed}`;

describe(`fuzz (${why})`, () => {
  let folder: TemporaryFolder;
  let server: MillraceProcess;
  let api: HttpApi;
  const agent = new Agent({ keepAlive: true, maxSockets: 2 * lanes });

  beforeAll(async () => {
    folder = await temporaryFolder();
    server = await MillraceProcess.start(["dev", "--data", join(folder.path, "data"), "--port", "0"]);
    api = new HttpApi(server.ready.url);
    for (const id of ["fuzz-1", "fuzz-2", "fuzz-3"])
      await api.mustPost("/v1/workflows", { id, type: "order", driver: "external", steps: ["work", "pay"] });
  });
  afterAll(async () => {
    agent.destroy();
    await server?.stop();
    await folder?.remove();
  });

  /** A share of the cases in several lanes, each with a seed of its own; a failing case is shrunk and shown. */
  async function run<T>(
    share: number,
    arbitrary: fc.Arbitrary<T>,
    send: (each: T) => Promise<string | null>,
  ) {
    const numRuns = Math.ceil((cases * share) / lanes);
    const property = fc.asyncProperty(arbitrary, async (each) => {
      const wrong = await send(each);
      if (wrong !== null) throw new Error(wrong);
      if (server.child.exitCode !== null) throw new Error(`the server has ended: ${server.errors}`);
    });
    const options = { numRuns, interruptAfterTimeLimit: timeoutMs, markInterruptAsFailure: true };
    await Promise.all(
      Array.from({ length: lanes }, (_, lane) => fc.assert(property, { ...options, seed: seed + lane })),
    );
    return numRuns * lanes;
  }

  it("answers every request with a result or a code", { timeout: timeoutMs }, async () => {
    const done = await run(0.55, httpCase, (each) => sendHttp(server.ready.url, agent, each));
    expect(done).toBeGreaterThan(0);
    process.stdout.write(`fuzz: ${done} requests (${why})\n`);
  });

  it("answers frames, or closes with a code", { timeout: timeoutMs }, async () => {
    const done = await run(0.4, socketCase, (each) => sendFrames(server.ready.url, each));
    expect(done).toBeGreaterThan(0);
    process.stdout.write(`fuzz: ${done} connections with frames (${why})\n`);
  });

  it("lets go of connections that speak nothing known", { timeout: timeoutMs }, async () => {
    const done = await run(0.05, rawCase, (each) => sendBytes(server.ready.url, each));
    expect(done).toBeGreaterThan(0);
    process.stdout.write(`fuzz: ${done} connections with bytes (${why})\n`);
  });

  it("met most of what the server can say", () => {
    const shown = [...seen]
      .toSorted(([, a], [, b]) => b - a)
      .map(([code, times]) => `${code.trim()}: ${times}`);
    process.stdout.write(`fuzz: ${shown.join(", ")}\n`);
    for (const code of [
      "http 200",
      "http 201",
      "400 invalid_json",
      "400 invalid_request",
      "404 route_unknown",
    ])
      expect(seen.get(code), `${code} (${why})`).toBeGreaterThan(0);
    for (const code of [
      "subbed",
      "err filter_invalid",
      "err cursor_malformed",
      "close 4500",
      "close 4502",
      "close 4513",
    ])
      expect(
        [...seen.keys()].map((key) => key.trim()),
        why,
      ).toContain(code);
  });

  it("is the same process afterwards, ready, and has no connection left over", async () => {
    expect(server.child.exitCode, server.errors).toBeNull();
    expect((await api.send("GET", "/readyz")).status).toBe(200);
    const type = "after-fuzz";
    await api.mustPost("/v1/workflows", { id: type, type, driver: "external", steps: ["work"] });
    const { token } = await api.mustPost(`/v1/workflows/${type}/steps/work/begin`, {});
    await api.mustPost(`/v1/workflows/${type}/steps/work/complete`, { token, output: 1 });
    await api.mustPost(`/v1/workflows/${type}/complete`, { output: null });
  });
});
