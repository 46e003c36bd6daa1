import { readFileSync } from "node:fs";
import { Command, Option } from "commander";
import {
  processEnvironment,
  readLogLevel,
  readPayloadKeys,
  readServerConfig,
  readUrl,
  type ServerOptions,
} from "./config.ts";
import { exitCodeMeanings, exitCodes, type ExitCode } from "./core/exit-code.ts";
import type { GcCommandOptions } from "./commands/gc.ts";
import type { HistoryCommandOptions } from "./commands/history.ts";
import type { ListCommandOptions } from "./commands/list.ts";
import type { StartCommandOptions } from "./commands/start.ts";
import type { WatchCommandOptions } from "./commands/watch.ts";
import type { ClientCommand, ClientOptions } from "./client-command.ts";
import { addOperatorCommands, filterOptions } from "./operator-commands.ts";
import { createOutput, type Output } from "./output.ts";
import { addQueueCommands } from "./queue-program.ts";
import { addScheduleCommands } from "./schedule-program.ts";
import { createServerApi, type ServerApi } from "./server-api.ts";

/**
 * The commands and their options. Each command loads its own code: a client command needs neither a broker's client
 * nor a native module, and starts in a fraction of the time. `finish` gets the exit code of a command that ran.
 */
export function createProgram(finish: (code: ExitCode) => void): Command {
  const program = new Command("millrace")
    .description("Event-sourced workflow engine with a live projection stream.")
    .version(packageVersion())
    .exitOverride()
    // What is wrong is in the CommanderError: whoever catches it says it in the form that was asked for.
    .configureOutput({ outputError: () => undefined })
    .addHelpText("after", helpAfter());

  serverOptions(program.command("dev"))
    .description("run broker, engine, projector and stream server here, for development")
    .option("--split", "one process per part, each restarted when it ends")
    .option("--examples", "host the example workflows hello and order")
    .action((options: ServerOptions) => runServerCommand("dev", options, finish));

  serverOptions(program.command("serve"))
    .description("run parts for production, on the broker at MILLRACE_NATS_URL or on an own one with --data")
    .option("--parts <names>", "of engine,projector,stream-server (default: all)")
    .option("--no-projection", "serve the stream from the broker alone: no snapshots, no lists")
    .addOption(new Option("--supervised").hideHelp())
    .addOption(new Option("--share-port").hideHelp())
    .action((options: ServerOptions) => runServerCommand("serve", options, finish));

  const clientCommand: ClientCommand = <Options extends object>(
    command: Command,
    run: (
      api: ServerApi,
      output: Output,
      options: Options & ClientOptions,
      args: readonly unknown[],
    ) => Promise<ExitCode | undefined>,
  ): Command =>
    command
      .option("--url <url>", "address of the stream server (MILLRACE_URL; default http://127.0.0.1:8001)")
      .option("--json", "JSON on standard output")
      .action(async (...given: unknown[]) => {
        const options = given.at(-2) as Options & ClientOptions;
        const api = createServerApi(readUrl(options.url, processEnvironment));
        const code = await run(api, createOutput(options.json === true), options, given.slice(0, -2));
        finish(code ?? exitCodes.ok);
      });

  clientCommand<StartCommandOptions>(
    program
      .command("start <type>")
      .description("start a run")
      .option("--id <id>", "workflow id: the same start again is answered again (default: a ULID)")
      .option("--input <json>", "input, JSON")
      .option("--driver <driver>", "external: a driver begins and ends its steps")
      .option("--steps <names>", "planned steps, separated by commas")
      .option("--attr <pairs...>", "search attributes, e.g. customer=7 vip=true")
      .option("--allow-unregistered", "accept a type that no worker has registered")
      .option("--wait", "wait for the end; print the final row"),
    async (api, output, options, args) =>
      (await import("./commands/start.ts")).start(api, output, String(args[0]), options),
  );
  clientCommand<ListCommandOptions>(
    filterOptions(program.command("list").description("list runs, newest first"))
      .option("--limit <count>", "at most so many")
      .option("--after <position>", "go on after a page"),
    async (api, output, options) => {
      await (await import("./commands/list.ts")).list(api, output, options);
      return undefined;
    },
  );
  clientCommand<{ readonly min?: string }>(
    program
      .command("show <id>")
      .description("show a run, its steps, and why it is not moving")
      .option("--min <sequence>", "as of this sequence or later, e.g. that of a start"),
    async (api, output, options, args) => {
      await (await import("./commands/show.ts")).show(api, output, String(args[0]), options);
      return undefined;
    },
  );
  clientCommand<HistoryCommandOptions>(
    program
      .command("history <id>")
      .description("print a run's events, oldest first")
      .option("--after <position>", "go on after a position")
      .option("--limit <count>", "at most so many"),
    async (api, output, options, args) => {
      await (await import("./commands/history.ts")).history(api, output, String(args[0]), options);
      return undefined;
    },
  );
  clientCommand<WatchCommandOptions>(
    program
      .command("watch [ids...]")
      .description("follow the live stream, resuming over every cut; Ctrl-C prints the cursor to go on from")
      .option("--type <types...>", "runs of these types")
      .option("--event <types...>", "events of these types, e.g. StepCompleted")
      .option(
        "--attr <pairs...>",
        "runs with these attributes, e.g. customer=7; a key twice: one of its values",
      )
      .option("--from <position>", "a cursor, start, now or snapshot (default: now)")
      .option("--shape <shape>", "events or state (default: events)")
      .option("--until <end>", "closed: end when the one run that is watched has closed"),
    async (api, output, options, args) => {
      await (await import("./commands/watch.ts")).watch(api, output, args[0] as string[], options);
      return undefined;
    },
  );
  addOperatorCommands(program, clientCommand);
  clientCommand<object>(
    program
      .command("fleet")
      .description("show the live workers, which shards each executes, and what they host"),
    async (api, output) => {
      await (await import("./commands/fleet.ts")).fleet(api, output);
      return undefined;
    },
  );
  addScheduleCommands(program, clientCommand);
  addQueueCommands(program, clientCommand);
  const payload = program.command("payload").description("payloads that the history shows in a stored form");
  clientCommand(
    payload
      .command("get <id> <ref>")
      .description("print one: by the key of its blob, or by the sequence of its event"),
    async (api, output, _options, args) => {
      const { getPayload } = await import("./commands/payload.ts");
      const keys = readPayloadKeys(processEnvironment);
      await getPayload(api, output, [String(args[0]), String(args[1])], keys);
      return undefined;
    },
  );
  program
    .command("gc")
    .description("delete stored payloads that no history refers to; asks the broker itself")
    .option("--dry-run", "only list them")
    .option("--older-than <minutes>", "leave younger ones alone (default 60)")
    .option("--data <dir>", "data folder of a running server (default ./.millrace)")
    .option("--namespace <name>", "event log (MILLRACE_NAMESPACE; default default)")
    .option("--json", "JSON on standard output")
    .action(async (options: ServerOptions & GcCommandOptions) => {
      const config = readServerConfig("dev", options, processEnvironment);
      await (await import("./commands/gc.ts")).gc(createOutput(config.json), config, options);
      finish(exitCodes.ok);
    });
  clientCommand<ServerOptions>(
    program
      .command("doctor")
      .description("check this machine, the broker, the data folder and the server; say what to do next")
      .option("--data <dir>", "data folder (default ./.millrace)")
      .option("--namespace <name>", "event log (MILLRACE_NAMESPACE; default default)"),
    async (api, output, options) => {
      const config = readServerConfig("dev", options, processEnvironment);
      const urlGiven = options.url !== undefined || processEnvironment["MILLRACE_URL"] !== undefined;
      return (await import("./commands/doctor.ts")).doctor(api, output, config, urlGiven);
    },
  );
  return program;
}

function serverOptions(command: Command): Command {
  return command
    .option("--data <dir>", "data folder (default ./.millrace)")
    .option("--port <number>", "port of the stream server, 0 for a free one (MILLRACE_PORT; default 8001)")
    .option("--host <address>", "address to listen on (MILLRACE_HOST; default 127.0.0.1)")
    .option(
      "--stream-processes <count>",
      "processes of the stream server on its one port (MILLRACE_STREAM_PROCESSES; default 1)",
    )
    .option("--durability <mode>", "default or fsync, for the embedded broker")
    .option("--namespace <name>", "event log (MILLRACE_NAMESPACE; default default)")
    .option("--workflows <files...>", "JavaScript modules that export workflow definitions")
    .option("--group <name>", "worker group that shares the runs (default: workers with the same types)")
    .option("--lease <seconds>", "until the runs of a killed worker are taken over (default 10)")
    .option("--task-lease <seconds>", "until a task whose worker is silent goes to another one (default 30)")
    .option("--json", "the ready line as one JSON object");
}

async function runServerCommand(
  command: "dev" | "serve",
  options: ServerOptions,
  finish: (code: ExitCode) => void,
): Promise<void> {
  const config = readServerConfig(command, options, processEnvironment);
  const { createLogger } = await import("./logger.ts");
  const { runServer } = await import("./run-server.ts");
  const logger = createLogger(readLogLevel(processEnvironment, command === "dev" ? "warn" : "info"));
  await runServer(config, createOutput(config.json), logger);
  finish(exitCodes.ok);
}

function packageVersion(): string {
  const text = readFileSync(new URL("../package.json", import.meta.url), "utf8");
  return (JSON.parse(text) as { readonly version: string }).version;
}

function helpAfter(): string {
  const width = Math.max(...exitCodeMeanings.map(([code]) => code.length));
  return [
    "",
    "Data goes to standard output, talk to standard error. Every command knows --json.",
    "",
    "Exit codes:",
    ...exitCodeMeanings.map(([code, meaning]) => `  ${code.padEnd(width)}  ${meaning}`),
    "",
    "Environment:",
    "  MILLRACE_URL           address of the stream server, for client commands",
    "  MILLRACE_HOST, _PORT   where dev and serve listen",
    "  MILLRACE_NATS_URL      broker of yours; with it no broker is started",
    "  MILLRACE_NATS_SERVER   nats-server program to run",
    "  MILLRACE_PAYLOAD_KEYS  id=base64,... to seal payloads with AES-256-GCM; the first key seals, all open",
    "  MILLRACE_LOG           trace, debug, info, warn, error or silent; debug also shows stacks of errors",
  ].join("\n");
}
