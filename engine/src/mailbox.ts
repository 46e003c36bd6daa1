import type { EventData } from "@millrace/schemas";

type Signal = EventData<"SignalReceived">;

/** Signals that no wait has taken, by name, oldest first. A second one of an id is not taken in. */
export class Mailbox {
  readonly #ids = new Set<string>();
  readonly #kept = new Map<string, Signal[]>();

  /** False for an id that was here before. */
  isNew({ id }: Signal): boolean {
    if (id === undefined) return true;
    if (this.#ids.has(id)) return false;
    this.#ids.add(id);
    return true;
  }

  keep(signal: Signal): void {
    const kept = this.#kept.get(signal.name);
    if (kept === undefined) this.#kept.set(signal.name, [signal]);
    else kept.push(signal);
  }

  /** The oldest of a name; undefined for none. */
  take(name: string): Signal | undefined {
    const kept = this.#kept.get(name);
    const signal = kept?.shift();
    if (kept?.length === 0) this.#kept.delete(name);
    return signal;
  }

  all(): Signal[] {
    return [...this.#kept.values()].flat();
  }
}
