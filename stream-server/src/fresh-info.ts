import type { EventLog, LogInfo } from "@millrace/event-log";

/**
 * Asks the log where it stands, for many askers at once: an answer is shared only by those who asked before the
 * question was sent, so it is never older than anybody's own question.
 */
export class FreshInfo {
  readonly #log: EventLog;
  #running: Promise<unknown> | null = null;
  #next: Promise<LogInfo> | null = null;

  constructor(log: EventLog) {
    this.#log = log;
  }

  get(): Promise<LogInfo> {
    this.#next ??= this.#ask();
    return this.#next;
  }

  async #ask(): Promise<LogInfo> {
    // Not in the turn of the first asker, so that those beside it share the question.
    await Promise.resolve();
    while (this.#running !== null) await this.#running;
    this.#next = null;
    const asked = this.#log.info();
    const settled = asked.then(
      () => undefined,
      // Each asker gets the rejection by itself; here only the end matters.
      () => undefined,
    );
    this.#running = settled;
    try {
      return await asked;
    } finally {
      this.#running = null;
    }
  }
}
