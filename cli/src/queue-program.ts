import type { Command } from "commander";
import type { ClientCommand } from "./client-command.ts";
import type { DeadCommandOptions, LimitCommandOptions, RedriveCommandOptions } from "./commands/queue.ts";

/** `millrace queues` and `millrace queue …`: tasks, their limits, and those that failed for good. */
export function addQueueCommands(program: Command, clientCommand: ClientCommand): void {
  clientCommand<object>(
    program.command("queues").description("list task queues: what waits and runs, dead letters, limits"),
    async (api, output) => {
      await (await import("./commands/queue.ts")).listQueues(api, output);
      return undefined;
    },
  );
  const group = program.command("queue").description("limits and dead letters of a task queue");
  clientCommand<DeadCommandOptions>(
    group
      .command("dead <queue>")
      .description("list tasks that failed for good, oldest first")
      .option("--limit <count>", "at most so many")
      .option("--after <position>", "go on after a page"),
    async (api, output, options, args) => {
      await (await import("./commands/queue.ts")).listDead(api, output, String(args[0]), options);
      return undefined;
    },
  );
  clientCommand<RedriveCommandOptions>(
    group
      .command("redrive <queue>")
      .description("let runs that failed with their task go on from it")
      .option("--token <tokens...>", "only these dead letters (default: the oldest)")
      .option("--limit <count>", "at most so many (default 100)")
      .option("--discard", "remove the dead letters instead")
      .option("--reason <text>", "why, for the history")
      .option("--by <name>", "who, for the history"),
    async (api, output, options, args) => {
      await (await import("./commands/queue.ts")).redrive(api, output, String(args[0]), options);
      return undefined;
    },
  );
  clientCommand<LimitCommandOptions>(
    group
      .command("limit <queue>")
      .description("set the limits of a queue over all its workers; what is left out is no limit")
      .option("--concurrency <count>", "tasks that run at the same time")
      .option("--rate <per-second>", "tasks that begin in a second")
      .option("--burst <count>", "tasks that may begin at once after a silence (default: those of a second)"),
    async (api, output, options, args) => {
      await (await import("./commands/queue.ts")).setLimits(api, output, String(args[0]), options);
      return undefined;
    },
  );
}
