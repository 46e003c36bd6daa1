import type { Command } from "commander";
import type { ExitCode } from "./core/exit-code.ts";
import type { Output } from "./output.ts";
import type { ServerApi } from "./server-api.ts";

export interface ClientOptions {
  readonly url?: string;
  readonly json?: boolean;
}

/** Adds what every command has that asks a server: its address, `--json`, the exit code. */
export type ClientCommand = <Options extends object>(
  command: Command,
  run: (
    api: ServerApi,
    output: Output,
    options: Options & ClientOptions,
    args: readonly unknown[],
  ) => Promise<ExitCode | undefined>,
) => Command;
