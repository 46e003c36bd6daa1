/**
 * The `console` blocks in docs run as they stand there, in order, and print what stands below them. Commands
 * are `millrace …` and `node examples/dist/…`, both against one server, which hosts `hello` and `order`.
 */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { millrace, run, Server, temporaryFolder, type Finished } from "./testing/cli-process.ts";

const checkout = fileURLToPath(new URL("../../", import.meta.url));
const docs = join(checkout, "docs");
const withCommands = readdirSync(docs, { recursive: true, encoding: "utf8" }).filter(
  (path) => path.endsWith(".md") && examplesOf(path).length > 0,
);

interface Example {
  readonly program: "millrace" | "node";
  readonly args: readonly string[];
  readonly command: string;
  /** Ends with `&` in the guide: goes on while the next ones run. */
  readonly background: boolean;
  /** Lines in order; `…` stands for anything. */
  readonly output: readonly string[];
  /** From a line `# exit code 4` below it. */
  code: number;
}

function examplesOf(guide: string): Example[] {
  const examples: (Example & { output: string[] })[] = [];
  for (const [, block = ""] of readFileSync(join(docs, guide), "utf8").matchAll(
    /```console\n([\s\S]*?)```/g,
  )) {
    for (const line of block.split("\n")) {
      const [, command, program, background] = /^\$ ((millrace|node) .*?)( &)?$/.exec(line) ?? [];
      if (command !== undefined) {
        examples.push({
          program: program === "node" ? "node" : "millrace",
          args: argumentsOf(command),
          command,
          background: background !== undefined,
          output: [],
          code: 0,
        });
        continue;
      }
      const example = examples.at(-1);
      const code = /^# exit code (\d)$/.exec(line);
      if (code !== null && example !== undefined) example.code = Number(code[1]);
      else if (line !== "") example?.output.push(line);
    }
  }
  return examples;
}

/** Splits as a shell does, as far as the guides go: blanks, and quotes of both kinds. */
function argumentsOf(command: string): string[] {
  return [...command.matchAll(/(?:'[^']*'|"[^"]*"|[^\s'"]+)+/g)]
    .slice(1)
    .map(([word]) => word.replaceAll(/'([^']*)'|"([^"]*)"/g, (_all, single, double) => single ?? double));
}

function check({ command, output, code: expected }: Example, { code, stdout, stderr }: Finished): void {
  const plain = (text: string) => text.replaceAll(/ +/g, " ").trim();
  const lines = stdout.split("\n").map(plain);
  let from = 0;
  for (const wanted of output) {
    const pattern = new RegExp(
      plain(wanted)
        .split("…")
        .map((part) => part.replaceAll(/[\s\S]/g, escaped))
        .join(".*"),
    );
    const at = lines.findIndex((line, n) => n >= from && pattern.test(line));
    expect(at, `${command} (exit ${code}) prints ${wanted}\n${stdout}\n${stderr}`).toBeGreaterThanOrEqual(0);
    from = at + 1;
  }
  expect(code, `${command}: ${stderr}`).toBe(expected);
}

function escaped(character: string): string {
  return /[\w\s]/.test(character) ? character : `\\${character}`;
}

function start({ program, args }: Example, url: string, natsUrl: string): Promise<Finished> {
  if (program === "millrace") return millrace(args, { MILLRACE_URL: url });
  const [file = "", ...rest] = args;
  return run(process.execPath, [join(checkout, file), ...rest], {
    MILLRACE_URL: url,
    MILLRACE_NATS_URL: natsUrl,
  });
}

/** A look shows what has become of a command a moment later: it is looked at again until that is there. */
const looks = /^millrace (?:show|list|history) /;

async function perform(example: Example, url: string, natsUrl: string): Promise<void> {
  const once = async () => check(example, await start(example, url, natsUrl));
  if (looks.test(example.command)) await vi.waitFor(once, { timeout: 15_000, interval: 20 });
  else await once();
}

it("finds the guides", () => expect(withCommands).toContain(join("guides", "attributes.md")));

describe.each(withCommands)("docs/%s", (guide) => {
  let folder: Awaited<ReturnType<typeof temporaryFolder>>;
  let server: Server;
  beforeAll(async () => {
    folder = await temporaryFolder();
    server = new Server(["dev", "--data", join(folder.path, "data"), "--port", "0", "--examples"]);
  });
  afterAll(async () => {
    await server.kill();
    await folder.remove();
  });

  it("shows commands that do what it says", async () => {
    const { url, natsUrl } = await server.ready();
    const examples = examplesOf(guide);
    const background: Promise<void>[] = [];
    for (const example of examples) {
      const performed = perform(example, url, natsUrl);
      if (example.background) background.push(performed);
      else await performed;
    }
    await Promise.all(background);
    expect(examples.length).toBeGreaterThan(0);
  });
});
