import type { Logger } from "./logger.ts";

/** As pino's: `log.info("charged")` or `log.info({ orderId }, "charged")`. */
interface Write {
  (message: string): void;
  (fields: object, message: string): void;
}

/** What workflow code and step functions write with; every line has the fields of its run (and step). */
export interface RunLogger {
  readonly debug: Write;
  readonly info: Write;
  readonly warn: Write;
  readonly error: Write;
}

export type LogLevel = "debug" | "info" | "warn" | "error";

export function createRunLogger(
  write: (level: LogLevel, fields: object, message: string) => void,
): RunLogger {
  const at =
    (level: LogLevel): Write =>
    (first: string | object, message?: string) => {
      if (typeof first === "string") write(level, {}, first);
      else write(level, first, message ?? "");
    };
  return { debug: at("debug"), info: at("info"), warn: at("warn"), error: at("error") };
}

/** Lines of one turn: more are a loop, and are counted, not kept. */
const turnLinesMax = 1_000;

/**
 * Lines of workflow code, held until the turn that wrote them is in the log: a turn that is decided again after a
 * conflict writes its lines once. They are lost when the process dies in the instant between.
 */
export class TurnLines {
  #lines: { readonly level: LogLevel; readonly fields: object; readonly message: string }[] = [];
  #dropped = 0;

  add(level: LogLevel, fields: object, message: string): void {
    if (this.#lines.length < turnLinesMax) this.#lines.push({ level, fields, message });
    else this.#dropped++;
  }

  discard(): void {
    this.#lines = [];
    this.#dropped = 0;
  }

  flush(logger: Logger): void {
    if (this.#lines.length === 0) return;
    const lines = this.#lines;
    const dropped = this.#dropped;
    this.discard();
    for (const { level, fields, message } of lines) logger[level](fields, message);
    if (dropped > 0)
      logger.warn(
        { ...lines[0]?.fields, dropped },
        `${dropped} more lines of one turn were dropped; is it a loop?`,
      );
  }
}
