import { describe, expect, it } from "vitest";
import { exitCodeMeanings } from "./core/exit-code.ts";
import { createProgram } from "./program.ts";

const program = createProgram(() => undefined);

describe("the millrace command", () => {
  it("has the commands, and --json on each", () => {
    const commands = program.commands.flatMap((each) => (each.commands.length > 0 ? each.commands : [each]));
    const withJson = commands.filter(({ options }) => options.some(({ long }) => long === "--json"));
    expect(withJson.map((command) => command.name())).toEqual([
      ...["dev", "serve", "start", "list", "show", "history", "watch"],
      ...["cancel", "terminate", "pause", "resume", "retry", "reset", "fork", "migrate"],
      ...["signal", "query", "update", "bulk", "fleet"],
      ...["create", "update", "list", "show", "pause", "resume", "trigger", "backfill", "delete"],
      ...["queues", "dead", "redrive", "limit"],
      ...["get", "gc", "doctor"],
    ]);
    expect(commands).toHaveLength(withJson.length);
  });

  it("documents its exit codes in --help and hides what is for its own parts", () => {
    let help = "";
    program.configureOutput({ writeOut: (text) => (help += text) });
    program.outputHelp();
    for (const [code, meaning] of exitCodeMeanings)
      expect(help).toMatch(new RegExp(`${code} +${meaning.slice(0, 20).replace("(", "\\(")}`));
    const serve = program.commands.find((command) => command.name() === "serve");
    expect(serve?.helpInformation()).not.toContain("--supervised");
  });
});
