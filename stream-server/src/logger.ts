/** What the stream server needs of a logger: a pino logger fits. */
export interface StreamServerLogger {
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
}

export const silentLogger: StreamServerLogger = { info: ignore, warn: ignore, error: ignore };

function ignore(): void {
  // Silence is what was asked for.
}
