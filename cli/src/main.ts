#!/usr/bin/env node
import { MillraceError } from "@millrace/schemas";
import { CommanderError } from "commander";
import { processEnvironment, readLogLevel } from "./config.ts";
import { exitCodes, type ExitCode } from "./core/exit-code.ts";
import { createProgram } from "./program.ts";
import { reportError } from "./report-error.ts";

// The reader of a pipe may have what it wants (`millrace list | head`): that is no failure.
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code === "EPIPE") process.exit(exitCodes.ok);
  throw error;
});

async function run(argv: readonly string[]): Promise<ExitCode> {
  let exitCode: ExitCode = exitCodes.ok;
  try {
    await createProgram((code) => {
      exitCode = code;
    }).parseAsync(argv);
    return exitCode;
  } catch (error) {
    if (error instanceof CommanderError && isHelp(error)) {
      return error.exitCode === 0 ? exitCodes.ok : exitCodes.usage;
    }
    const reported = error instanceof CommanderError ? usageError(error) : error;
    return reportError(reported, { json: argv.includes("--json"), stacks: stacksWanted() });
  }
}

/** Help or version: printed already, asked for or not. */
function isHelp({ code }: CommanderError): boolean {
  return ["commander.help", "commander.helpDisplayed", "commander.version"].includes(code);
}

function usageError(cause: CommanderError): MillraceError {
  const message = cause.message.replace(/^error: /, "").replaceAll("\n", " ");
  return new MillraceError("invalid_request", `${message}. Add --help for the options.`, { cause });
}

function stacksWanted(): boolean {
  try {
    return ["debug", "trace"].includes(readLogLevel(processEnvironment, "info"));
  } catch {
    // The error to report is just that: MILLRACE_LOG is no level.
    return false;
  }
}

const exitCode = await run(process.argv);
// What is still on its way to the reader of a pipe would be lost with the process.
await new Promise((resolve) => process.stdout.write("", resolve));
// A command is over when it says so: an idle connection of the runtime's own must not keep it.
process.exit(exitCode);
