import type { EventLog, LogInfo } from "@millrace/event-log";
import { FreshInfo } from "./fresh-info.ts";

/** The log that this process serves, and where it stood when the broker last said so. */
export class KnownLog {
  readonly #fresh: FreshInfo;
  #info: LogInfo;

  constructor(log: EventLog, info: LogInfo) {
    this.#fresh = new FreshInfo(log);
    this.#info = info;
  }

  get info(): LogInfo {
    return this.#info;
  }

  /** Where the log under this name stands now, be it this one or one made anew. `unavailable` without a broker. */
  async ask(): Promise<LogInfo> {
    const info = await this.#fresh.get();
    // Another log under the same name is the follower's to find: it ends the subscriptions of this one.
    if (info.epoch === this.#info.epoch) this.#info = info;
    return info;
  }
}
