/** `default`: the broker flushes to disk every 2 minutes, an ack survives a killed process. `fsync`: every write is on disk before its ack. `external`: a server of the user's, whose mode we do not know. */
export type Durability = "default" | "fsync" | "external";

export interface BrokerOptions {
  /** Folder of the broker's store, lock and log file; created when missing. */
  readonly dataDir: string;
  readonly durability?: "default" | "fsync";
  /** Progress text for people (finding, fetching). Default: silent. */
  readonly onProgress?: (message: string) => void;
  /** Called when the broker process ended by itself and is being restarted. */
  readonly onRestart?: (detail: string) => void;
  readonly env?: Readonly<Record<string, string | undefined>>;
}

export interface Broker {
  /** `nats://127.0.0.1:PORT` */
  readonly url: string;
  /** The broker's own process (changes after a restart). */
  readonly pid: number;
  readonly version: string;
  readonly durability: Durability;
  /** Stops broker and guard, releases the data folder. Idempotent. */
  stop(): Promise<void>;
}
