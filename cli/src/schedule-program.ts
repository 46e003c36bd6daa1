import type { Command } from "commander";
import type { ClientCommand } from "./client-command.ts";
import type { ScheduleSpecOptions } from "./commands/schedule.ts";

/** `millrace schedule …` */
export function addScheduleCommands(program: Command, clientCommand: ClientCommand): void {
  const group = program.command("schedule").description("runs that are started by the clock");

  const specified = (command: Command): Command =>
    command
      .option("--cron <expression>", 'five or six fields, e.g. "0 3 * * *"')
      .option("--time-zone <name>", "of the cron expression, e.g. Europe/Amsterdam (default UTC)")
      .option("--every <duration>", "an interval instead, e.g. 15m")
      .option("--type <type>", "workflow type to start")
      .option("--input <json>", "input of its runs, JSON")
      .option("--attr <pairs...>", "search attributes of its runs, e.g. customer=7")
      .option("--run-timeout <duration>", "time limit of its runs")
      .option("--overlap <policy>", "skip, buffer-one, allow or cancel-previous (default skip)")
      .option("--jitter <duration>", "each tick is late by a part of this")
      .option("--catch-up <duration>", "ticks that could not be fired for longer are given up (default 1h)")
      .option("--start-at <time>", "no tick before this, ISO 8601 with a zone")
      .option("--end-at <time>", "no tick after this")
      .option("--note <text>", "for people")
      .option("--allow-unregistered", "accept a type that no worker has registered");

  clientCommand<ScheduleSpecOptions>(
    specified(group.command("create <id>")).description("create a schedule; the same again changes nothing"),
    async (api, output, options, args) => {
      await (await import("./commands/schedule.ts")).createSchedule(api, output, String(args[0]), options);
      return undefined;
    },
  );
  clientCommand<ScheduleSpecOptions>(
    specified(group.command("update <id>")).description("replace a schedule by what is given, all of it"),
    async (api, output, options, args) => {
      await (await import("./commands/schedule.ts")).updateSchedule(api, output, String(args[0]), options);
      return undefined;
    },
  );
  clientCommand<{ status?: string; type?: string; after?: string; limit?: string }>(
    group
      .command("list")
      .description("list schedules by id, with their next ticks")
      .option("--status <status>", "active or paused")
      .option("--type <type>", "that start this workflow type")
      .option("--limit <count>", "at most so many")
      .option("--after <id>", "go on after a page"),
    async (api, output, options) => {
      await (await import("./commands/schedule.ts")).listSchedules(api, output, options);
      return undefined;
    },
  );
  clientCommand<{ min?: string }>(
    group
      .command("show <id>")
      .description("show a schedule, its next tick, its runs, and why it does not fire")
      .option("--min <sequence>", "as of this sequence or later, e.g. that of a create"),
    async (api, output, options, args) => {
      await (await import("./commands/schedule.ts")).showSchedule(api, output, String(args[0]), options);
      return undefined;
    },
  );
  for (const [name, description] of [
    ["pause", "fire no tick until it is resumed"],
    ["resume", "fire again; ticks of the pause are not caught up"],
  ] as const) {
    clientCommand<{ reason?: string; by?: string }>(
      group
        .command(`${name} <id>`)
        .description(description)
        .option("--reason <text>", "why, for the history")
        .option("--by <name>", "who, for the history"),
      async (api, output, options, args) => {
        const { changeSchedule } = await import("./commands/schedule.ts");
        await changeSchedule(api, output, name, String(args[0]), options);
        return undefined;
      },
    );
  }
  clientCommand<{ key?: string; by?: string }>(
    group
      .command("trigger <id>")
      .description("start a run now, paused or not")
      .option("--key <text>", "the same key again starts nothing")
      .option("--by <name>", "who, for the history"),
    async (api, output, options, args) => {
      await (await import("./commands/schedule.ts")).triggerSchedule(api, output, String(args[0]), options);
      return undefined;
    },
  );
  clientCommand<{ from: string; to: string; by?: string }>(
    group
      .command("backfill <id>")
      .description("start the runs of the ticks in a span of the past that have none")
      .requiredOption("--from <time>", "ISO 8601 with a zone, inclusive")
      .requiredOption("--to <time>", "inclusive")
      .option("--by <name>", "who, for the history"),
    async (api, output, options, args) => {
      await (await import("./commands/schedule.ts")).backfillSchedule(api, output, String(args[0]), options);
      return undefined;
    },
  );
  clientCommand<{ reason?: string; by?: string }>(
    group
      .command("delete <id>")
      .description("delete a schedule; open runs go on")
      .option("--reason <text>", "why, for the history")
      .option("--by <name>", "who, for the history"),
    async (api, output, options, args) => {
      await (await import("./commands/schedule.ts")).deleteSchedule(api, output, String(args[0]), options);
      return undefined;
    },
  );
}
