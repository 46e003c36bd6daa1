/**
 * The one follower of the log in this process.
 *
 * Owns: the follower, commits delivered and not yet dispatched. Does not own: the ring, subscriptions.
 *
 * I1 Commits are dispatched in order, in batches: what arrives in one turn of the event loop goes out together.
 * I2 A commit that cannot be decoded is counted and told, and matches no filter: its run is quarantined by the
 *    projector too, and one bad commit must not stop the other runs.
 * I3 When the follower ends for a reason that it cannot mend (`failed`), a new one goes on from the same position.
 *
 * Tested by `tail.test.ts`.
 */
import type { EventLog, Follower, FollowStatus, StoredCommit } from "@millrace/event-log";
import { isMillraceError } from "@millrace/schemas";
import type { RunCommit } from "./core/run-commit.ts";
import type { StreamServerLogger } from "./logger.ts";
import { toRunCommit } from "./to-run-commit.ts";

/** Bounds one turn: when the tail has much to catch up, others get their turns between. */
const batchMax = 1_000;
/** Between two attempts to follow. */
const retryMs = 1_000;

export interface TailOptions {
  readonly log: EventLog;
  readonly logger: StreamServerLogger;
  readonly onBatch: (commits: readonly RunCommit[]) => void;
  /** `lost`: the broker is away. `live`: it delivers (again). `changed`: this is another log now. */
  readonly onState: (state: "lost" | "live" | "changed") => void;
  readonly onUndecodable: () => void;
}

export class Tail {
  readonly #options: TailOptions;
  #pending: RunCommit[] = [];
  #scheduled = false;
  #follower: Follower | null = null;
  #position = 0;
  #stopped = false;
  #retry: NodeJS.Timeout | undefined;

  constructor(options: TailOptions) {
    this.#options = options;
  }

  /** Follows the log from after a sequence. Rejects when the log cannot be followed now. */
  async start(after: number): Promise<void> {
    this.#position = after;
    await this.#follow();
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    clearTimeout(this.#retry);
    this.#pending = [];
    await this.#follower?.stop();
  }

  async #follow(): Promise<void> {
    const follower = await this.#options.log.follow({
      after: this.#position,
      onCommit: (commit) => this.#take(commit),
      onStatus: (status, error) => this.#onStatus(status, error),
    });
    this.#follower = follower;
    if (this.#stopped) await follower.stop();
  }

  #take(commit: StoredCommit): void {
    this.#position = commit.sequence;
    const decoded = toRunCommit(commit, this.#options.logger, this.#options.onUndecodable);
    if (decoded === null) return;
    this.#pending.push(decoded);
    this.#schedule();
  }

  #schedule(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    setImmediate(() => {
      this.#scheduled = false;
      if (this.#stopped) return;
      const batch = this.#pending.length <= batchMax ? this.#pending : this.#pending.slice(0, batchMax);
      this.#pending = this.#pending.slice(batch.length);
      if (this.#pending.length > 0) this.#schedule();
      if (batch.length > 0) this.#options.onBatch(batch);
    });
  }

  #onStatus(status: FollowStatus, error?: Error): void {
    if (this.#stopped) return;
    switch (status) {
      case "live":
        this.#options.onState("live");
        return;
      case "interrupted":
        this.#options.onState("lost");
        return;
      case "recreated":
      case "diverged":
        this.#pending = [];
        this.#options.onState("changed");
        return;
      case "failed":
        this.#options.logger.error(
          { err: error, position: this.#position },
          "The tail failed, it is begun anew",
        );
        this.#options.onState("lost");
        this.#again();
        return;
    }
  }

  #again(): void {
    if (this.#stopped) return;
    this.#retry = setTimeout(() => {
      this.#follow().then(
        () => this.#options.onState("live"),
        (error: unknown) => {
          if (isMillraceError(error, "log_recreated") || isMillraceError(error, "cursor_future")) {
            this.#options.onState("changed");
            return;
          }
          this.#options.logger.warn(
            { err: error, position: this.#position },
            "The log cannot be followed yet",
          );
          this.#again();
        },
      );
    }, retryMs);
  }
}
