import { execFile } from "node:child_process";
import { access, constants, mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { processEnvironment } from "./config.ts";

/** The first Debian release whose nats-server is new enough. */
const suite = "forky";
const packageName = "nats-server";
/** Package lists are 10 MB, the package 6 MB: on a slow line that takes minutes, and a hanging mirror must end. */
const commandTimeoutMs = 240_000;
const mirrorsMax = 3;

/** A place that the machine's own package manager trusts to hold Debian. */
export interface DebianMirror {
  readonly uri: string;
  /** As it stands in the source: path of a keyring, or a key block; undefined: the machine's default keyrings. */
  readonly signedBy: string | undefined;
}

/**
 * Downloads Debian's own nats-server package with `apt-get` and unpacks it, as any user and without touching the
 * machine's package manager: all of apt's state is in `folder`. Mirror and key are those of the machine's sources, so
 * that signatures are checked as for every other package; proxies and credentials in the machine's apt settings apply.
 * Returns the path of the program. Rejects with a plain error whose message is the reason.
 */
export async function fetchDistributionPackage(
  folder: string,
  onProgress: (message: string) => void,
): Promise<string> {
  if (process.platform !== "linux") throw new Error("not a Debian system");
  const release = await readFile("/etc/os-release", "utf8").catch(() => "");
  if (!/^ID(_LIKE)?=.*\bdebian\b/m.test(release)) throw new Error("not a Debian system");
  const codename = /^VERSION_CODENAME="?([a-z]+)/m.exec(release)?.[1];
  const mirrors = debianMirrors(await configuredSources("/etc/apt"), codename);
  if (mirrors.length === 0) throw new Error("no Debian mirror in the sources of apt");
  const reasons: string[] = [];
  for (const [index, mirror] of mirrors.slice(0, mirrorsMax).entries()) {
    onProgress(`Downloading package ${packageName} of ${suite} from ${mirror.uri}`);
    try {
      return await fetchFrom(mirror, join(folder, `mirror-${index}`));
    } catch (error) {
      reasons.push(`${mirror.uri}: ${aptReason(error)}`);
    }
  }
  throw new Error(reasons.join("; "));
}

/**
 * The Debian mirrors among apt's sources (`name` ending in `.list` or `.sources`, and their text), best first. Sources
 * of other vendors and of security updates are left out: they have no such suite.
 */
export function debianMirrors(
  sources: readonly { readonly name: string; readonly text: string }[],
  codename: string | undefined,
): DebianMirror[] {
  const releases = new Set([codename, "oldstable", "stable", "testing", "unstable", "sid", suite]);
  const found = new Map<string, DebianMirror>();
  for (const { name, text } of sources) {
    for (const source of name.endsWith(".sources") ? stanzas(text) : lines(text)) {
      if (!source.suites.some((each) => releases.has(each)) || !source.components.includes("main")) continue;
      for (const uri of source.uris) {
        if (/^(https?|mirror\+https?|file):/.test(uri)) found.set(uri, { uri, signedBy: source.signedBy });
      }
    }
  }
  return [...found.values()];
}

interface Source {
  readonly uris: readonly string[];
  readonly suites: readonly string[];
  readonly components: readonly string[];
  readonly signedBy: string | undefined;
}

/** One-line style: `deb [signed-by=KEY] URI SUITE COMPONENT…`. */
function lines(text: string): Source[] {
  return text.split("\n").flatMap((line) => {
    const match = /^deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)\s+(.+?)(?:#.*)?$/.exec(line.trim());
    if (match === null) return [];
    const [, options = "", uri = "", name = "", components = ""] = match;
    const signedBy = /(?:^|\s)signed-by=(\S+)/i.exec(options)?.[1];
    return [{ uris: [uri], suites: [name], components: words(components), signedBy }];
  });
}

/** deb822 style: paragraphs of fields; a field goes on in lines that begin with a space. */
function stanzas(text: string): Source[] {
  const withoutComments = text.replaceAll(/^#.*\n?/gm, "");
  return withoutComments.split(/\n[^\S\n]*\n/).flatMap((paragraph) => {
    const fields = new Map<string, string>();
    for (const [, name = "", value = ""] of paragraph.matchAll(/^([\w-]+):[^\S\n]*(.*(?:\n[ \t].*)*)/gm)) {
      fields.set(name.toLowerCase(), value);
    }
    const field = (name: string): string => fields.get(name) ?? "";
    if (!words(field("types")).includes("deb") || /^(no|false|0)$/i.test(field("enabled").trim())) return [];
    return [
      {
        uris: words(field("uris")),
        suites: words(field("suites")),
        components: words(field("components")),
        signedBy: fields.get("signed-by"),
      },
    ];
  });
}

function words(text: string): string[] {
  return text.split(/\s+/).filter((word) => word !== "");
}

async function configuredSources(aptDir: string): Promise<{ name: string; text: string }[]> {
  const folder = join(aptDir, "sources.list.d");
  const names = await readdir(folder).catch(() => []);
  const paths = [
    join(aptDir, "sources.list"),
    ...names.filter((name) => /\.(list|sources)$/.test(name)).map((name) => join(folder, name)),
  ];
  return Promise.all(
    paths.map(async (name) => ({ name, text: await readFile(name, "utf8").catch(() => "") })),
  );
}

async function fetchFrom(mirror: DebianMirror, folder: string): Promise<string> {
  const sources = join(folder, "sources");
  await mkdir(join(folder, "state", "lists", "partial"), { recursive: true });
  await mkdir(join(folder, "cache", "archives", "partial"), { recursive: true });
  await mkdir(sources);
  await writeFile(join(folder, "state", "status"), "");
  await writeFile(
    join(sources, "debian.sources"),
    [
      "Types: deb",
      `URIs: ${mirror.uri}`,
      `Suites: ${suite}`,
      "Components: main",
      ...(mirror.signedBy === undefined ? [] : [`Signed-By: ${mirror.signedBy}`]),
      "",
    ].join("\n"),
  );
  const settings = join(folder, "apt.conf");
  await writeFile(
    settings,
    [
      // Hooks of the machine clean its real caches or refresh its desktop: nothing of this run concerns them.
      `#clear APT::Update::Pre-Invoke;`,
      `#clear APT::Update::Post-Invoke;`,
      `#clear APT::Update::Post-Invoke-Success;`,
      `Dir::Etc::sourcelist "/dev/null";`,
      `Dir::Etc::sourceparts "${sources}";`,
      `Dir::Etc::preferences "/dev/null";`,
      `Dir::Etc::preferencesparts "/dev/null";`,
      `Dir::State "${join(folder, "state")}";`,
      `Dir::State::status "${join(folder, "state", "status")}";`,
      `Dir::Cache "${join(folder, "cache")}";`,
      `Acquire::Languages "none";`,
      `Acquire::Retries "1";`,
      `Acquire::http::Timeout "15";`,
      `Acquire::https::Timeout "15";`,
      // As root apt would download as another user, who cannot enter this folder.
      ...(process.getuid?.() === 0 ? [`APT::Sandbox::User "root";`] : []),
      "",
    ].join("\n"),
  );
  const run = async (command: string, args: readonly string[]): Promise<void> => {
    const env = { ...processEnvironment, LC_ALL: "C", DEBIAN_FRONTEND: "noninteractive" };
    await promisify(execFile)(command, args, { cwd: folder, env, timeout: commandTimeoutMs });
  };
  // Without it a mirror that lacks the suite is a warning, and the next step's message hides the cause.
  await run("apt-get", ["-c", settings, "-q", "-o", "APT::Update::Error-Mode=any", "update"]);
  await run("apt-get", ["-c", settings, "-q", "download", packageName]);
  const archive = (await readdir(folder)).find((name) => name.endsWith(".deb"));
  if (archive === undefined) throw new Error(`apt-get downloaded no package ${packageName}`);
  await run("dpkg-deb", ["-x", archive, "root"]);
  for (const place of ["usr/sbin", "usr/bin"]) {
    const program = join(folder, "root", place, "nats-server");
    const usable = await access(program, constants.X_OK).then(
      () => true,
      () => false,
    );
    if (usable) return program;
  }
  throw new Error(`package ${packageName} holds no nats-server program`);
}

/** apt's own error lines when there are any: its output is long and begins with what went well. */
function aptReason(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const output = "stderr" in error && typeof error.stderr === "string" ? error.stderr : "";
  const told = output.split("\n").filter((line) => line.startsWith("E:"));
  return told.length > 0 ? told.join(" ") : (error.message.split("\n")[0] ?? error.message);
}
