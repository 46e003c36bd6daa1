import type { MillraceError } from "@millrace/schemas";

/**
 * `default`: the broker flushes to disk every 2 minutes, an ack survives a killed process. `fsync`: every write is on
 * disk before its ack. `external`: a server of the user's, whose mode we do not know.
 */
export type Durability = "default" | "fsync" | "external";

/**
 * `running`: it answers. `restarting`: its process ended by itself, a new one is being started on the same port and
 * store. `failed`: given up after too many failures, nothing more happens by itself. `stopped`: by `stop()`.
 */
export type BrokerStatus = "running" | "restarting" | "failed" | "stopped";

export interface BrokerOptions {
  /** Folder of the broker's store, lock and log file; created when missing. */
  readonly dataDir: string;
  /** Default: `"default"`. */
  readonly durability?: "default" | "fsync";
  /** Progress text for people (finding, fetching). Default: silent. */
  readonly onProgress?: (message: string) => void;
  /** Called when the broker process ended by itself and is being restarted. */
  readonly onRestart?: (detail: string) => void;
  /** Called once when restarting was given up: `broker_start_failed`. The data folder is free again by then. */
  readonly onFailed?: (error: MillraceError) => void;
  /** Default: `process.env`. */
  readonly env?: Readonly<Record<string, string | undefined>>;
}

export interface Broker {
  /** `nats://127.0.0.1:PORT`; the same for the whole life of this object, also over restarts. */
  readonly url: string;
  /** The broker's own process (changes after a restart). */
  readonly pid: number;
  readonly version: string;
  readonly durability: Durability;
  readonly status: BrokerStatus;
  /** Stops broker and guard, releases the data folder. Idempotent. */
  stop(): Promise<void>;
}
