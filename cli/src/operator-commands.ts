import type { Command } from "commander";
import type { ClientCommand } from "./client-command.ts";
import type { BulkCommandOptions } from "./commands/bulk.ts";
import type { MigrateCommandOptions, OperatorOptions, ResetCommandOptions } from "./commands/operate.ts";
import { processEnvironment } from "./config.ts";

/** What operators do to runs: one at a time, or many by a filter. */
export function addOperatorCommands(program: Command, clientCommand: ClientCommand): void {
  const operator = (command: Command): Command =>
    command
      .option("--reason <text>", "why, for the history")
      .option("--by <name>", "who, for the history (MILLRACE_BY; default: the user's name)");
  const whereFrom = (command: Command): Command =>
    command.option("--to-version <version>", "go on with this version of its code (default: the run's own)");

  for (const [kind, description] of [
    ["cancel", "ask a run to end; its code may clean up"],
    ["terminate", "end a run at once, without asking its code"],
    ["pause", "hold a run: what runs is recorded, nothing new begins"],
    ["resume", "let a held run go on"],
  ] as const) {
    clientCommand<OperatorOptions>(
      operator(program.command(`${kind} <id>`).description(description)),
      async (api, output, options, args) => {
        await (
          await import("./commands/operate.ts")
        ).operate(api, output, kind, String(args[0]), withName(options));
        return undefined;
      },
    );
  }
  clientCommand<ResetCommandOptions>(
    whereFrom(
      operator(program.command("retry <id>").description("let a failed run go on from its failed step")),
    ).option("--force", "also when compensations ran since"),
    async (api, output, options, args) => {
      const { retryOrReset } = await import("./commands/operate.ts");
      await retryOrReset(api, output, "retry", String(args[0]), withName(options));
      return undefined;
    },
  );
  clientCommand<ResetCommandOptions>(
    whereFrom(operator(program.command("reset <id>").description("take a run back to before a step")))
      .option("--step <step>", "name or name#occurrence (default: everything but the start is done anew)")
      .option("--force", "also when compensations ran for what is kept"),
    async (api, output, options, args) => {
      const { retryOrReset } = await import("./commands/operate.ts");
      await retryOrReset(api, output, "reset", String(args[0]), withName(options));
      return undefined;
    },
  );
  clientCommand<ResetCommandOptions & { readonly id?: string }>(
    whereFrom(
      operator(
        program.command("fork <id>").description("start a new run with a run's history before a step"),
      ),
    )
      .option("--step <step>", "name or name#occurrence (default: only the start is taken over)")
      .option("--id <id>", "workflow id of the new run (default: a ULID)"),
    async (api, output, options, args) => {
      await (await import("./commands/operate.ts")).fork(api, output, String(args[0]), withName(options));
      return undefined;
    },
  );
  clientCommand<MigrateCommandOptions>(
    operator(
      program.command("migrate [ids...]").description("let runs go on with another version of their code"),
    )
      .requiredOption("--to-version <version>", "the version")
      .option("--dry-run", "only replay their histories on the new code here, and say where they diverge")
      .option("--workflows <files...>", "for --dry-run: JavaScript modules that export the new code")
      .option("--type <type>", "for --dry-run: also all open runs of this type"),
    async (api, output, options, args) =>
      (await import("./commands/operate.ts")).migrate(api, output, args[0] as string[], withName(options)),
  );
  clientCommand<{ readonly payload?: string; readonly key?: string; readonly by?: string }>(
    program
      .command("signal <id> <name>")
      .description("tell a run something; it is kept until its code waits for it")
      .option("--payload <json>", "what, JSON")
      .option("--key <key>", "idempotency key: a second signal with it is not another one")
      .option("--by <name>", "who, for the history (MILLRACE_BY; default: the user's name)"),
    async (api, output, options, args) => {
      const { signal } = await import("./commands/operate.ts");
      await signal(api, output, String(args[0]), String(args[1]), withName(options));
      return undefined;
    },
  );
  for (const [kind, description] of [
    ["query", "ask the code of a run; nothing is recorded"],
    ["update", "change a run through its code, and wait for the answer"],
  ] as const) {
    const command = program
      .command(`${kind} <id> <name>`)
      .description(description)
      .option("--input <json>", "input, JSON");
    clientCommand<{ readonly input?: string; readonly key?: string }>(
      kind === "query"
        ? command
        : command.option("--key <key>", "idempotency key: the same update again is answered again"),
      async (api, output, options, args) => {
        const { queryOrUpdate } = await import("./commands/operate.ts");
        await queryOrUpdate(api, output, kind, String(args[0]), String(args[1]), options);
        return undefined;
      },
    );
  }
  clientCommand<BulkCommandOptions>(
    whereFrom(
      operator(
        filterOptions(
          program
            .command("bulk <command>")
            .description(
              "cancel, terminate, pause, resume, retry, reset, migrate or signal all runs of a filter",
            )
            .option("--ids <ids...>", "of these ids"),
        ),
      ),
    )
      .option("--dry-run", "only count them, and show the first")
      .option("--step <step>", "for reset")
      .option("--force", "for retry and reset: also when compensations ran")
      .option("--name <name>", "for signal")
      .option("--payload <json>", "for signal")
      .option("--key <key>", "for signal: idempotency key")
      .option("--limit <count>", "runs per request (default 100)")
      .option("--after <position>", "go on after a position that was told"),
    async (api, output, options, args) =>
      (await import("./commands/bulk.ts")).bulk(api, output, String(args[0]), withName(options)),
  );
}

/** Which runs a list or a bulk command is about. */
export function filterOptions(command: Command): Command {
  return command
    .option("--type <type>", "of this workflow type")
    .option("--status <status>", "in this status")
    .option("--waits <kind[:name]>", "that wait for this, e.g. signal:approve, task, timer")
    .option("--attr <pairs...>", "with these attributes, e.g. customer=7; a key twice: one of its values")
    .option("--attr-min <pairs...>", "with at least this much, numbers or ISO dates, e.g. amount=100")
    .option("--attr-max <pairs...>", "with at most this much");
}

function withName<Options extends { readonly by?: string }>(options: Options): Options {
  const by = options.by ?? processEnvironment["MILLRACE_BY"] ?? processEnvironment["USER"];
  return by === undefined || by === "" ? options : { ...options, by };
}
