import { destination, pino, type Logger } from "pino";
import type { LogLevel } from "./config.ts";

/** JSON lines on standard error; synchronous, so that the last line before an end is not lost. */
export function createLogger(level: LogLevel): Logger {
  return pino({ level, base: { pid: process.pid } }, destination({ fd: 2, sync: true }));
}
