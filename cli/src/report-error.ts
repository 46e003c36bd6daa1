import { isMillraceError } from "@millrace/schemas";
import { exitCodeOf, exitCodes, type ExitCode } from "./core/exit-code.ts";

export interface ReportOptions {
  readonly json: boolean;
  /** Also the stack and the causes. */
  readonly stacks: boolean;
}

/** Writes an error to standard error, as text or (with `json`) as one JSON object, and says how the process ends. */
export function reportError(error: unknown, options: ReportOptions): ExitCode {
  const known = isMillraceError(error) ? error : null;
  const code = known?.code ?? "internal";
  const message = error instanceof Error ? error.message : String(error);
  if (options.json) {
    const { retryable = false, details = {} } = known ?? {};
    process.stderr.write(`${JSON.stringify({ error: { code, message, retryable, details } })}\n`);
  } else {
    process.stderr.write(`millrace: ${code}: ${message}\n`);
  }
  // A defect of ours has no next step in its message: its stack is what a report needs.
  if (options.stacks || known === null) process.stderr.write(`${stackOf(error)}\n`);
  return known === null ? exitCodes.failed : exitCodeOf(known.code);
}

/** With the causes, of which there may be a ring. */
function stackOf(error: unknown): string {
  const stacks: string[] = [];
  for (let current = error; current instanceof Error && stacks.length < 8; current = current.cause) {
    stacks.push(current.stack ?? current.message);
  }
  return stacks.join("\ncaused by: ");
}
