/**
 * Delivers the log's commits to one call-back, across losses of the connection.
 *
 * Owns: the position, the broker's consumer of the moment. Does not own: the connection's state (it is told).
 *
 * I1 Each commit after the start is delivered once, in sequence order, by a synchronous call.
 * I2 A session (one consumer of the broker's) begins only after the log was found to go on from the position: same
 *    stream, and the last commit delivered is still there. The library makes a lost consumer anew by itself and would
 *    deliver reused sequences unseen, so a session ends at the first sign of that, and its later messages are dropped.
 * I3 After `stop` or a final status there is no further call.
 *
 * Tested by the conformance suite, with kill -9 and a cut log in `jetstream-log.nats.test.ts`.
 */
import { DeliverPolicy, type Consumer, type JetStreamClient, type JsMsg } from "@nats-io/jetstream";
import { MillraceError } from "@millrace/schemas";
import type { CheckpointVerdict, Follower, FollowOptions, FollowStatus } from "../event-log.ts";
import { LogCommit } from "../log-commit.ts";
import { toMillraceError } from "./broker-errors.ts";
import { headOf, timeOf } from "./commit-message.ts";

export interface FollowerHost {
  readonly client: JetStreamClient;
  readonly stream: string;
  readonly namespace: string;
  /** Whether the log goes on from `sequence`, where it had `commitId` (null: not known). */
  check(sequence: number, commitId: string | null): Promise<CheckpointVerdict>;
  /** Resolves after a back-off, or when the connection comes back; with false when the log was closed. */
  pause(attempt: number): Promise<boolean>;
  /** Commits that the broker sends ahead. */
  readonly aheadMax: number;
  /** Silence after which the broker is asked for a sign of life. */
  readonly heartbeatMs: number;
}

/** An error: what `onCommit` threw, or a message that is no commit. */
type SessionEnd = Error | "interrupted" | "stopped";

/** Signs that the broker's consumer is gone or about to be made anew. */
const consumerLost: ReadonlySet<string> = new Set([
  "heartbeats_missed",
  "consumer_not_found",
  "consumer_deleted",
  "stream_not_found",
  "no_responders",
  "reset",
  "ordered_consumer_recreated",
]);

/** How long one request for messages stands before it is renewed: the library's default. */
const pullExpiresMs = 30_000;
/** Silence after which the broker drops a consumer that we could not delete. */
const abandonedAfterMs = 60_000;

export class JetStreamFollower implements Follower {
  readonly #host: FollowerHost;
  readonly #options: FollowOptions;
  readonly #onEnd: () => void;
  #position: number;
  #commitId: string | null;
  #shown: FollowStatus | null = null;
  #stopped = false;
  #calling = false;
  #endSession: ((end: SessionEnd) => void) | null = null;
  #loop: Promise<void> = Promise.resolve();

  /** `commitId`: of the commit at `options.after`; null when there is none. The caller has checked the start. */
  constructor(host: FollowerHost, options: FollowOptions, commitId: string | null, onEnd: () => void) {
    this.#host = host;
    this.#options = options;
    this.#onEnd = onEnd;
    this.#position = options.after;
    this.#commitId = commitId;
  }

  get position(): number {
    return this.#position;
  }

  start(first: Consumer): void {
    this.#loop = this.#run(first).finally(this.#onEnd);
  }

  /** A consumer of the broker's from the position on. Rejects with the library's errors. */
  async createConsumer(): Promise<Consumer> {
    const { types, headersOnly } = this.#options;
    return await this.#host.client.consumers.get(this.#host.stream, {
      deliver_policy: DeliverPolicy.StartSequence,
      opt_start_seq: this.#position + 1,
      inactive_threshold: abandonedAfterMs,
      headers_only: headersOnly === true,
      ...(types === undefined
        ? {}
        : { filter_subjects: types.map((type) => `mr.${this.#host.namespace}.*.${type}.*`) }),
    });
  }

  /** The connection is lost: what its consumer still has for us is void. */
  disconnected(): void {
    this.#endSession?.("interrupted");
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    this.#endSession?.("stopped");
    // From within a call-back the loop cannot be awaited: it waits for the call-back.
    if (!this.#calling) await this.#loop;
  }

  async #run(first: Consumer): Promise<void> {
    let consumer: Consumer | null = first;
    let attempt = 0;
    while (!this.#stopped) {
      const before = this.#position;
      try {
        if (consumer === null) {
          const verdict = await this.#host.check(this.#position, this.#commitId);
          if (verdict !== "ok") return this.#finish(verdict);
          consumer = await this.createConsumer();
        }
        const end: SessionEnd = await this.#session(consumer);
        if (end === "stopped") return;
        if (end !== "interrupted") return this.#show("failed", end);
      } catch (error) {
        const known = toMillraceError(error, `Following the event log of namespace ${this.#host.namespace}`);
        if (!known.retryable) return this.#show("failed", known);
      }
      consumer = null;
      if (this.#stopped) return;
      this.#show("interrupted");
      if (this.#position > before) attempt = 0;
      if (!(await this.#host.pause(attempt++))) return;
    }
  }

  /** Delivers from one consumer until something ends that. */
  async #session(consumer: Consumer): Promise<SessionEnd> {
    const { name } = await consumer.info(true);
    const { aheadMax, heartbeatMs } = this.#host;
    let ended = false;
    let resolve: (end: SessionEnd) => void;
    const session = new Promise<SessionEnd>((settle) => (resolve = settle));
    const end = (how: SessionEnd): void => {
      if (ended) return;
      ended = true;
      this.#endSession = null;
      resolve(how);
    };
    if (this.#stopped) return "stopped";
    this.#endSession = end;
    this.#show("live");
    const messages = await consumer.consume({
      max_messages: aheadMax,
      expires: pullExpiresMs,
      idle_heartbeat: heartbeatMs,
      callback: (message) => {
        if (ended) return;
        if (message.info.consumer !== name) return end("interrupted");
        const failure = this.#deliver(message);
        if (failure !== null) end(failure);
      },
    });
    const watch = async (): Promise<void> => {
      for await (const { type } of messages.status()) if (consumerLost.has(type)) end("interrupted");
    };
    void watch().then(
      () => end("interrupted"),
      () => end("interrupted"),
    );
    const how = await session;
    await messages.close();
    if (how !== "interrupted") {
      // Best effort: without it the broker drops the consumer by itself, after `abandonedAfterMs`.
      void consumer.delete().catch(() => false);
    }
    return how;
  }

  /** Null, or what ends the session. */
  #deliver(message: JsMsg): Error | null {
    const { streamSequence: sequence, pending } = message.info;
    if (sequence <= this.#position) return null;
    this.#calling = true;
    try {
      const head = headOf(message.subject, sequence, timeOf(message), message.headers);
      this.#position = sequence;
      this.#commitId = head.commitId;
      this.#options.onCommit(
        new LogCommit(head, this.#options.headersOnly === true ? null : message.data),
        pending,
      );
      return null;
    } catch (error) {
      return error instanceof Error ? error : new Error(String(error));
    } finally {
      this.#calling = false;
    }
  }

  #finish(verdict: Exclude<CheckpointVerdict, "ok">): void {
    const error = lost(this.#host.namespace, verdict, this.#position);
    // Commits that were archived before this follower saw them are lost to it: no other final status says so.
    this.#show(verdict === "expired" ? "failed" : verdict, error);
  }

  #show(status: FollowStatus, error?: Error): void {
    if (this.#shown === status || (this.#stopped && status !== "failed")) return;
    this.#shown = status;
    this.#calling = true;
    try {
      this.#options.onStatus?.(status, error);
    } finally {
      this.#calling = false;
    }
  }
}

function lost(namespace: string, verdict: CheckpointVerdict, position: number): MillraceError {
  return verdict === "recreated"
    ? new MillraceError(
        "log_recreated",
        `The event log of namespace ${namespace} was created anew. Rebuild from it.`,
      )
    : new MillraceError(
        verdict === "expired" ? "cursor_expired" : "checkpoint_mismatch",
        `The event log of namespace ${namespace} does not go on from sequence ${position}: ${verdict}. Rebuild from it.`,
        { details: { sequence: position, verdict } },
      );
}
