import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdir, mkdtemp, readdir, readFile, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import { isMillraceError } from "@millrace/schemas";
import type { TestContext } from "vitest";
import { beforeEach, describe, expect, test } from "vitest";
import { fetchRelease } from "./fetch-release.ts";
import { brokerCacheDir, findBroker } from "./find-broker.ts";

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "millrace-find-"));
});

const run = promisify(execFile);

function needsShell(context: TestContext): void {
  context.skip(process.platform === "win32", "the stand-in for nats-server is a shell script");
}

/** A program that answers `--version` like a nats-server of this version. */
async function fakeServer(path: string, version: string): Promise<string> {
  await mkdir(dirname(path), { recursive: true });
  await writeFile(path, `#!/bin/sh\necho "nats-server: v${version}"\n`, { mode: 0o755 });
  return path;
}

/** A cache in which nothing can be written, so that fetching fails without the network being asked. */
async function brokenCache(): Promise<string> {
  const file = join(folder, "a-file");
  await writeFile(file, "");
  return join(file, "cache");
}

describe("order", () => {
  beforeEach(needsShell);

  test("MILLRACE_NATS_SERVER comes before PATH and the cache", async () => {
    const given = await fakeServer(join(folder, "given", "nats-server"), "9.1.0");
    await fakeServer(join(folder, "bin", "nats-server"), "9.2.0");
    const env = { MILLRACE_NATS_SERVER: given, PATH: join(folder, "bin"), MILLRACE_CACHE_DIR: folder };
    expect(await findBroker({ env })).toEqual({ path: given, version: "9.1.0", source: "environment" });
  });

  test("PATH comes before the cache, when new enough", async () => {
    const onPath = await fakeServer(join(folder, "bin", "nats-server"), "9.2.0");
    await fakeServer(join(folder, `${process.platform}-${process.arch}`, "nats-server"), "9.3.0");
    const env = { PATH: `${join(folder, "empty")}:${join(folder, "bin")}`, MILLRACE_CACHE_DIR: folder };
    expect(await findBroker({ env })).toEqual({ path: onPath, version: "9.2.0", source: "path" });
  });

  test("the cached copy is taken when the one on PATH is too old", async () => {
    await fakeServer(join(folder, "bin", "nats-server"), "2.10.27");
    const cached = await fakeServer(
      join(folder, `${process.platform}-${process.arch}`, "nats-server"),
      "9.3.0",
    );
    const env = { PATH: join(folder, "bin"), MILLRACE_CACHE_DIR: folder };
    expect(await findBroker({ env })).toEqual({ path: cached, version: "9.3.0", source: "cache" });
  });

  test("the cache is the user's, and MILLRACE_CACHE_DIR overrides it", () => {
    const home =
      process.platform === "darwin" ? "/home/ann/Library/Caches/millrace" : "/home/ann/.cache/millrace";
    expect(brokerCacheDir({ HOME: "/home/ann" })).toBe(home);
    expect(brokerCacheDir({ HOME: "/home/ann", MILLRACE_CACHE_DIR: "/var/x" })).toBe("/var/x");
  });

  test("the cache honours XDG_CACHE_HOME", (context) => {
    context.skip(process.platform !== "linux", "only Linux has it");
    expect(brokerCacheDir({ HOME: "/home/ann", XDG_CACHE_HOME: "/var/ann" })).toBe("/var/ann/millrace");
  });
});

describe("refusals", () => {
  beforeEach(needsShell);

  test("an old version given explicitly is broker_version_unsupported, with found and required", async () => {
    const given = await fakeServer(join(folder, "nats-server"), "2.10.27");
    await expect(findBroker({ env: { MILLRACE_NATS_SERVER: given } })).rejects.toMatchObject({
      code: "broker_version_unsupported",
      message: expect.stringMatching(/2\.10\.27; Millrace requires 2\.14\.0 or newer/),
      details: { found: "2.10.27", required: "2.14.0" },
    });
  });

  test("a path given explicitly that is no nats-server is not passed over", async () => {
    await fakeServer(join(folder, "bin", "nats-server"), "9.2.0");
    const given = join(folder, "missing");
    await expect(
      findBroker({ env: { MILLRACE_NATS_SERVER: given, PATH: join(folder, "bin") } }),
    ).rejects.toMatchObject({ code: "broker_not_found", message: expect.stringContaining(given) });
  });

  test("when nothing works the message lists all that was tried, why not, and three ways out", async () => {
    await fakeServer(join(folder, "bin", "nats-server"), "2.10.27");
    const progress: string[] = [];
    const env = { PATH: join(folder, "bin"), MILLRACE_CACHE_DIR: await brokenCache() };
    const error: unknown = await findBroker({ env, onProgress: (message) => progress.push(message) }).catch(
      (reason: unknown) => reason,
    );
    if (!isMillraceError(error, "broker_not_found")) throw error;
    expect(error.details["tried"]).toEqual([
      expect.stringMatching(/^MILLRACE_NATS_SERVER: not set/),
      expect.stringMatching(/^nats-server on PATH: .*2\.10\.27, required is 2\.14\.0/),
      expect.stringMatching(/^cached copy: none at/),
      expect.stringMatching(/^release archive of the nats-server project: .*ENOTDIR/),
      expect.stringMatching(/^package of Debian's next release: .*ENOTDIR/),
    ]);
    expect(error.message).toMatch(
      /1\. install.*\n.*2\. set MILLRACE_NATS_SERVER.*\n.*3\. set MILLRACE_NATS_URL/,
    );
    expect(progress).toHaveLength(2);
  });
});

describe("release archive", () => {
  beforeEach(needsShell);

  const machine = { x64: "amd64", arm64: "arm64" }[process.arch as "x64" | "arm64"];
  const platform = `${process.platform}-${machine}`;
  const stem = `nats-server-v9.9.9-${platform}`;

  /** A real archive behind a real server; `sums` is its SHA256SUMS, with DIGEST standing for the right one. */
  async function served<Result>(
    sums: string,
    use: (baseUrl: string, digest: string) => Promise<Result>,
  ): Promise<Result> {
    await fakeServer(join(folder, "made", stem, "nats-server"), "9.9.9");
    await run("tar", ["-czf", `${stem}.tar.gz`, stem], { cwd: join(folder, "made") });
    const archive = await readFile(join(folder, "made", `${stem}.tar.gz`));
    const digest = createHash("sha256").update(archive).digest("hex");
    const server = createServer((request, response) => {
      if (request.url === `/${stem}.tar.gz`) response.end(archive);
      else if (request.url === "/SHA256SUMS") response.end(sums.replace("DIGEST", digest));
      else response.writeHead(404).end();
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    try {
      return await use(`http://127.0.0.1:${(server.address() as AddressInfo).port}`, digest);
    } finally {
      server.close();
    }
  }
  const fetchInto = async (baseUrl: string, digests: Record<string, string>): Promise<string> =>
    fetchRelease(await mkdtemp(join(folder, "fetch-")), () => undefined, {
      baseUrl,
      version: "9.9.9",
      digests,
    });

  test("with the pinned SHA-256 it is unpacked", async () => {
    const program = await served("", (baseUrl, digest) => fetchInto(baseUrl, { [platform]: digest }));
    expect((await run(program, ["--version"])).stdout).toContain("v9.9.9");
  });

  test("with another SHA-256 than the pinned one it is not used, whatever the published sums say", async () => {
    const fetched = served(`DIGEST  ${stem}.tar.gz\n`, (baseUrl) =>
      fetchInto(baseUrl, { [platform]: "0".repeat(64) }),
    );
    await expect(fetched).rejects.toThrow(/SHA-256 of .* is [0-9a-f]{64}, expected 0{64}; not used/);
  });

  test("on a platform without a pin the release's own SHA256SUMS decide", async () => {
    const good = await served(`${"1".repeat(64)}  other\nDIGEST  ${stem}.tar.gz\n`, (url) =>
      fetchInto(url, {}),
    );
    expect((await run(good, ["--version"])).stdout).toContain("v9.9.9");
    const bad = served(`${"1".repeat(64)}  ${stem}.tar.gz\n`, (url) => fetchInto(url, {}));
    await expect(bad).rejects.toThrow(/not used/);
    await expect(served("", (url) => fetchInto(url, {}))).rejects.toThrow(/does not list/);
  });
});

/** Reasons of a machine that cannot reach any of the places, as opposed to a fault of ours. */
const unreachable =
  /not a Debian|no Debian mirror|fetch failed|no answer|resolve|connect|timed out|404|ENOENT/i;

test(
  "on an empty cache one is fetched; two at once do not disturb each other",
  { timeout: 300_000 },
  async (context) => {
    const env = { HOME: folder, PATH: "", MILLRACE_CACHE_DIR: join(folder, "cache") };
    let found;
    try {
      found = await Promise.all([findBroker({ env }), findBroker({ env })]);
    } catch (error) {
      if (!isMillraceError(error, "broker_not_found")) throw error;
      const tried = (error.details["tried"] as string[]).slice(3);
      if (tried.every((line) => unreachable.test(line)))
        return context.skip(`nothing to fetch from: ${tried.join("; ")}`);
      throw error;
    }
    const program = join(folder, "cache", `${process.platform}-${process.arch}`, "nats-server");
    for (const each of found) expect(each).toMatchObject({ source: "fetched", path: program });
    expect(await readdir(join(folder, "cache"))).toEqual([`${process.platform}-${process.arch}`]);
    await run(program, ["--help"]);
    expect(await findBroker({ env })).toMatchObject({ source: "cache", path: program });
  },
);
