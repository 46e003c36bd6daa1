/** The commands in docs/guides run as they stand there, in order, and print what stands below them. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { millrace, Server, temporaryFolder, type Finished } from "./testing/cli-process.ts";

const guides = fileURLToPath(new URL("../../docs/guides/", import.meta.url));

interface Example {
  readonly command: string;
  /** Ends with `&` in the guide: goes on while the next ones run. */
  readonly background: boolean;
  /** Lines in order; `…` stands for anything. */
  readonly output: readonly string[];
}

function examplesOf(guide: string): Example[] {
  const examples: (Example & { output: string[] })[] = [];
  for (const [, block = ""] of readFileSync(join(guides, guide), "utf8").matchAll(
    /```console\n([\s\S]*?)```/g,
  )) {
    for (const line of block.split("\n")) {
      const command = /^\$ (millrace .*?)( &)?$/.exec(line);
      if (command !== null) {
        examples.push({ command: command[1] ?? "", background: command[2] !== undefined, output: [] });
      } else if (line !== "") examples.at(-1)?.output.push(line);
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

function check({ command, output }: Example, { code, stdout, stderr }: Finished): void {
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
  expect(code, `${command}: ${stderr}`).toBe(0);
}

function escaped(character: string): string {
  return /[\w\s]/.test(character) ? character : `\\${character}`;
}

describe.each(["attributes.md", "fleet.md", "schedules.md"])("docs/guides/%s", (guide) => {
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
    const { url } = await server.ready();
    const examples = examplesOf(guide);
    expect(examples.length).toBeGreaterThan(3);
    const background: Promise<void>[] = [];
    for (const example of examples) {
      const finished = millrace(argumentsOf(example.command), { MILLRACE_URL: url });
      if (example.background) background.push(finished.then((each) => check(example, each)));
      else check(example, await finished);
    }
    await Promise.all(background);
  });
});
