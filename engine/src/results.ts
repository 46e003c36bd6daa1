/**
 * Who waits for which run's end, in this process.
 *
 * Owns: the waiters and one tail of commit heads that wakes them. A worker of the same connection tells it of the
 * commits that it sees and makes, so that there is no second tail.
 * I1 A waiter is registered before the log is asked, and the tail runs before that: no end falls in between.
 * I2 Pushed, never polled.
 */
import type { CommitHead, EventLog, Follower, StoredCommit } from "@millrace/event-log";
import {
  isClosingEvent,
  isMillraceError,
  MillraceError,
  scheduleType,
  type ClosingEvent,
  type WorkflowEvent,
} from "@millrace/schemas";
import type { Clock } from "./due-timers.ts";
import { fromErrorInfo } from "./failures.ts";
import { assertOpenedPayload } from "./payloads/payloads.ts";
import { storedLog } from "./payloads/sealed-log.ts";

/** Before a look into the log that the broker did not answer is made again. */
const lookAgainMs = 500;

/** A worker's tail: it sees every commit of the log and tells `observe`. */
export interface ResultsFeed {
  /** Sequence up to which `observe` was called. */
  position(): number;
  /** The run is open in the worker, which will call `settle` when it closes it. */
  isOpen(id: string): boolean;
}

interface Waiter {
  readonly resolve: (output: unknown) => void;
  readonly reject: (error: Error) => void;
}

export class Results {
  readonly #log: EventLog;
  readonly #clock: Clock;
  readonly #looksAgain = new Set<() => void>();
  readonly #waiters = new Map<string, Set<Waiter>>();
  #tail: Promise<Follower> | null = null;
  #feed: ResultsFeed | null = null;
  #closed = false;

  constructor(log: EventLog, clock: Clock) {
    this.#log = log;
    this.#clock = clock;
  }

  /** A worker's tail sees every commit, so that ours is not needed. */
  attachFeed(feed: ResultsFeed): void {
    this.#feed = feed;
  }

  /** The worker is gone: whoever still waits needs a tail of our own again. */
  detachFeed(feed: ResultsFeed): void {
    if (this.#feed !== feed) return;
    this.#feed = null;
    this.#watchAgain();
  }

  #watchAgain(): void {
    if (this.#waiters.size === 0 || this.#closed) return;
    this.#ensureTail().then(
      () => {
        for (const id of this.#waiters.keys()) this.#lookUp(id);
      },
      (error: unknown) => {
        if (isMillraceError(error) && error.retryable) this.#later(() => this.#watchAgain());
        else this.#rejectAll(error as Error);
      },
    );
  }

  /**
   * The run's output when it has closed; rejects with its failure, or with the signal's reason. `startedAt`, the
   * sequence of the run's start when it is known, spares the look into the log while the tail is still before it.
   */
  async wait(id: string, signal?: AbortSignal, startedAt?: number): Promise<unknown> {
    signal?.throwIfAborted();
    if (this.#closed) throw closedError();
    const tailPosition = await this.#ensureTail();
    // Both may have happened while the tail was begun, and nobody would tell this waiter any more.
    signal?.throwIfAborted();
    if (this.#closed) throw closedError();
    let waiter: Waiter | null = null;
    let onAbort = (): void => undefined;
    const outcome = new Promise<unknown>((resolve, reject) => {
      waiter = { resolve, reject };
      onAbort = () => reject(signal?.reason as Error);
      const waiters = this.#waiters.get(id) ?? new Set();
      this.#waiters.set(id, waiters.add(waiter));
    });
    signal?.addEventListener("abort", onAbort, { once: true });
    const endIsAhead =
      (startedAt !== undefined && tailPosition() < startedAt) || this.#feed?.isOpen(id) === true;
    if (!endIsAhead) this.#lookUp(id);
    try {
      return await outcome;
    } finally {
      signal?.removeEventListener("abort", onAbort);
      const waiters = this.#waiters.get(id);
      if (waiter !== null) waiters?.delete(waiter);
      if (waiters?.size === 0) this.#waiters.delete(id);
    }
  }

  /** Told of every commit's head by whichever tail runs, and by a worker of a run that it found closed. */
  observe(head: Pick<CommitHead, "workflowId" | "condition">): void {
    if (head.condition === "closed" && this.#waiters.has(head.workflowId)) this.#lookUp(head.workflowId);
  }

  /** Told by a worker of the commit that closed a run of its own. */
  settle(id: string, events: readonly WorkflowEvent[]): void {
    const waiters = this.#waiters.get(id);
    if (waiters === undefined) return;
    const closing = events.findLast(isClosingEvent);
    if (closing === undefined) return;
    this.#waiters.delete(id);
    for (const waiter of waiters) finish(waiter, id, closing);
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#rejectAll(closedError());
    for (const cancel of this.#looksAgain) cancel();
    // A tail that could not be begun has nothing to stop; whoever asked for it was told.
    const tail = await this.#tail?.catch(() => null);
    await tail?.stop();
  }

  #lookUp(id: string): void {
    void this.#closingOf(id).then(
      (closing) => {
        if (closing !== null) this.settle(id, closing);
      },
      (error: unknown) => {
        if (!isMillraceError(error) || !error.retryable) return this.#reject(id, error as Error);
        // The broker is away: a result may take days, so a look that failed is no reason to give up.
        this.#later(() => {
          if (this.#waiters.has(id)) this.#lookUp(id);
        });
      },
    );
  }

  #later(look: () => void): void {
    if (this.#closed) return;
    const cancel = this.#clock.wake(lookAgainMs, () => {
      this.#looksAgain.delete(cancel);
      look();
    });
    this.#looksAgain.add(cancel);
  }

  async #closingOf(id: string): Promise<readonly WorkflowEvent[] | null> {
    const last = await this.#log.last(id);
    if (last === null || last.type === scheduleType) {
      throw new MillraceError("workflow_not_found", `There is no run ${id}. Start it, or check its id.`);
    }
    return this.#closingEvents(last);
  }

  /** A fact from outside may stand behind the commit that closed the run, which a reset may have opened again since. */
  async #closingEvents(last: StoredCommit): Promise<readonly WorkflowEvent[] | null> {
    if (last.condition === "closed") return last.events;
    if (last.condition !== null) return null;
    const history = await storedLog(this.#log).load(last.workflowId);
    const own = history.findLast(({ condition }) => condition !== null);
    if (own?.condition !== "closed") return null;
    return (await this.#log.read(own.sequence))?.events ?? own.events;
  }

  /** Gives how far the tail has come. */
  async #ensureTail(): Promise<() => number> {
    const feed = this.#feed;
    if (feed !== null) return () => feed.position();
    this.#tail ??= this.#startTail();
    try {
      const tail = await this.#tail;
      return () => tail.position;
    } catch (error) {
      this.#tail = null;
      throw error;
    }
  }

  async #startTail(): Promise<Follower> {
    const { lastSequence } = await this.#log.info();
    return this.#log.follow({
      after: lastSequence,
      headersOnly: true,
      onCommit: (commit) => this.observe(commit),
      onStatus: (status, error) => {
        if (status === "live" || status === "interrupted") return;
        this.#tail = null;
        this.#rejectAll(
          error ??
            new MillraceError(
              "log_recreated",
              `The event log was replaced (${status}) while a result was awaited.`,
            ),
        );
      },
    });
  }

  #reject(id: string, error: Error): void {
    for (const waiter of this.#waiters.get(id) ?? []) waiter.reject(error);
    this.#waiters.delete(id);
  }

  #rejectAll(error: Error): void {
    for (const id of [...this.#waiters.keys()]) this.#reject(id, error);
  }
}

function closedError(): MillraceError {
  return new MillraceError(
    "draining",
    "The connection was closed while a result was awaited. Connect again and wait for it.",
  );
}

function finish(waiter: Waiter, id: string, closing: ClosingEvent): void {
  switch (closing.type) {
    case "WorkflowCompleted":
      try {
        assertOpenedPayload(closing.data.output);
      } catch (error) {
        return waiter.reject(error as Error);
      }
      return waiter.resolve(closing.data.output ?? null);
    case "WorkflowFailed": {
      const { error } = closing.data;
      const cause = fromErrorInfo(error);
      return waiter.reject(
        new MillraceError("workflow_failed", `Run ${id} failed: ${error.message}`, {
          cause,
          details: { error },
        }),
      );
    }
    case "WorkflowTimedOut":
      return waiter.reject(
        new MillraceError(
          "workflow_timed_out",
          `Run ${id} ran into its time limit of ${closing.data.timeoutMs} ms.`,
        ),
      );
    case "WorkflowCancelled":
      return waiter.reject(
        new MillraceError("cancelled", `Run ${id} was cancelled${because(closing.data.reason)}.`),
      );
    case "WorkflowTerminated":
      return waiter.reject(
        new MillraceError("terminated", `Run ${id} was terminated${because(closing.data.reason)}.`),
      );
  }
}

function because(reason: string | undefined): string {
  // Reasons of our own are sentences, and so is what this stands in.
  return reason === undefined ? "" : `: ${reason.replace(/\.$/, "")}`;
}
