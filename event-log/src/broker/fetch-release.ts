import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { chmod, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";

const repository = "nats-io/nats-server";
const version = "2.15.0";

/**
 * SHA-256 of the archives of {@link version}. Linux: as pinned by the project's own container image; macOS: as pinned
 * alike by several independent projects. Other platforms have no pin: their archive is compared with the release's
 * own `SHA256SUMS`, fetched beside it, which proves an undamaged download and no more.
 */
const pinnedDigests: Readonly<Record<string, string>> = {
  "linux-amd64": "5d2c51caca950333aba84911df7d377f826f3a59ec36061c6539105084f65c92",
  "linux-arm64": "cdc208f5a3f42963a52b6ab06ef65626bb870315dc936e26ba571780c6351112",
  "linux-arm7": "ec5f4689d017e07cfa18442e10da051c0f3f9dd2e7f4dc7cdb55a11f1303c952",
  "darwin-amd64": "5bd8b59ca5bf93fab3da2c5843cf564cd6e2e291e22ae3b861746e7ebe259b95",
  "darwin-arm64": "e1c4e22d70bd44abfa0bcb3c16f7cf0c66f648c2e728c58924e8a1ce88913cc8",
};

/** Time to the first byte of an answer: short, since a machine behind a wall would else wait for nothing at every start. */
const answerTimeoutMs = 6_000;
const downloadTimeoutMs = 120_000;
/** The archive has 7 MB; ten times that is not it. */
const archiveBytesMax = 67_108_864;

export interface Release {
  readonly baseUrl: string;
  readonly version: string;
  /** By `os-architecture` as the project names them. */
  readonly digests: Readonly<Record<string, string>>;
}

const pinnedRelease: Release = {
  baseUrl: `https://github.com/${repository}/releases/download/v${version}`,
  version,
  digests: pinnedDigests,
};

/**
 * Downloads the release archive for this platform into `folder`, checks its SHA-256, unpacks it and returns the path
 * of the program. Needs the system's `tar` (which on Windows unpacks `.zip` too). Rejects with a plain error whose
 * message is the reason.
 */
export async function fetchRelease(
  folder: string,
  onProgress: (message: string) => void,
  release: Release = pinnedRelease,
): Promise<string> {
  const platform = platformName();
  const stem = `nats-server-v${release.version}-${platform}`;
  const windows = process.platform === "win32";
  const archiveName = `${stem}.${windows ? "zip" : "tar.gz"}`;
  const url = `${release.baseUrl}/${archiveName}`;
  onProgress(`Downloading ${url}`);
  const archive = await download(url);
  const expected = release.digests[platform] ?? (await publishedDigest(release.baseUrl, archiveName));
  const actual = createHash("sha256").update(archive).digest("hex");
  if (actual !== expected) throw new Error(`SHA-256 of ${url} is ${actual}, expected ${expected}; not used`);
  const path = join(folder, archiveName);
  await writeFile(path, archive);
  await promisify(execFile)("tar", ["-xf", archiveName], {
    cwd: folder,
    timeout: downloadTimeoutMs,
    windowsHide: true,
  });
  const program = join(folder, stem, windows ? "nats-server.exe" : "nats-server");
  await chmod(program, 0o755);
  return program;
}

function platformName(): string {
  const systems: Partial<Record<NodeJS.Platform, string>> = {
    linux: "linux",
    darwin: "darwin",
    win32: "windows",
  };
  const machines: Partial<Record<NodeJS.Architecture, string>> = {
    x64: "amd64",
    arm64: "arm64",
    arm: "arm7",
    ppc64: "ppc64le",
    s390x: "s390x",
  };
  const system = systems[process.platform];
  const machine = machines[process.arch];
  if (system === undefined || machine === undefined) {
    throw new Error(`no release archive for ${process.platform} on ${process.arch}`);
  }
  return `${system}-${machine}`;
}

async function publishedDigest(baseUrl: string, archiveName: string): Promise<string> {
  const url = `${baseUrl}/SHA256SUMS`;
  const lines = new TextDecoder().decode(await download(url)).split("\n");
  const digest = lines
    .map((line) => /^([0-9a-f]{64}) [ *](.+?)\r?$/.exec(line))
    .find((each) => each?.[2] === archiveName)?.[1];
  if (digest === undefined) throw new Error(`${url} does not list ${archiveName}`);
  return digest;
}

async function download(url: string): Promise<Uint8Array> {
  const unanswered = new AbortController();
  const timer = setTimeout(() => {
    unanswered.abort(new Error(`no answer from ${new URL(url).host} within ${answerTimeoutMs} ms`));
  }, answerTimeoutMs);
  try {
    const response = await fetch(url, {
      signal: AbortSignal.any([unanswered.signal, AbortSignal.timeout(downloadTimeoutMs)]),
    });
    clearTimeout(timer);
    if (!response.ok || response.body === null) throw new Error(`${url} answered HTTP ${response.status}`);
    const chunks: Uint8Array[] = [];
    let bytes = 0;
    for await (const chunk of response.body as AsyncIterable<Uint8Array>) {
      bytes += chunk.byteLength;
      if (bytes > archiveBytesMax)
        throw new Error(`${url} is larger than ${archiveBytesMax} bytes; not used`);
      chunks.push(chunk);
    }
    return Buffer.concat(chunks);
  } finally {
    clearTimeout(timer);
  }
}
