import type { Timer } from "../stream-connection.ts";

/** A clock that moves only when told to. */
export class ManualTimer {
  now = 1_000_000;
  readonly #alarms = new Set<{ readonly at: number; readonly callback: () => void }>();

  readonly timer: Timer = (callback, delayMs) => {
    const alarm = { at: this.now + delayMs, callback };
    this.#alarms.add(alarm);
    return () => this.#alarms.delete(alarm);
  };

  pass(ms: number): void {
    const end = this.now + ms;
    for (;;) {
      const due = [...this.#alarms].filter(({ at }) => at <= end).sort((a, b) => a.at - b.at)[0];
      if (due === undefined) break;
      this.#alarms.delete(due);
      this.now = Math.max(this.now, due.at);
      due.callback();
    }
    this.now = end;
  }
}
