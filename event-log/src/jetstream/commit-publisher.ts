/**
 * Sends commits and pairs them with the broker's answers.
 *
 * Owns: the reply inbox, the window of sends under way, the queue before it, time-outs.
 * Does not own: what an answer means for the append (`settle-append.ts`).
 *
 * I1 Every send gets exactly one outcome: answer, time-out, loss of the connection, or close.
 * I2 At most `inFlightMax` sends are under way and `queuedMax` wait; one more is refused as `overloaded`.
 * I3 Nothing is sent while the connection is away: the library would keep it and send it at a time of its own.
 *
 * Why not `js.publish`: it makes a promise chain, a timer and a request object for each message, five times our cost.
 */
import type { MsgHdrs, NatsConnection, Subscription } from "nats";
import { createInbox } from "nats";
import { MillraceError } from "@millrace/schemas";
import type { SendOutcome } from "../settle-append.ts";
import { codeOf } from "./broker-errors.ts";

export interface CommitPublisherOptions {
  readonly inFlightMax: number;
  readonly queuedMax: number;
  readonly timeoutMs: number;
}

interface Send {
  readonly subject: string;
  readonly payload: Uint8Array;
  /** As they are sent. */
  readonly headers: Uint8Array;
  readonly resolve: (outcome: SendOutcome) => void;
  readonly reject: (error: Error) => void;
  expiresAt: number;
}

/** Times a time-out is looked for within its duration: the precision that a time-out has. */
const ticksPerTimeout = 8;

export class CommitPublisher {
  readonly #connection: NatsConnection;
  readonly #options: CommitPublisherOptions;
  readonly #inbox: string;
  readonly #subscription: Subscription;
  /** In the order in which they were sent, and so of their time-outs, since all have the same. */
  readonly #inFlight = new Map<string, Send>();
  #queue: Send[] = [];
  #queueHead = 0;
  #nextToken = 0;
  #connected = true;
  #closed: Error | null = null;
  #ticker: NodeJS.Timeout | null = null;

  constructor(connection: NatsConnection, options: CommitPublisherOptions) {
    this.#connection = connection;
    this.#options = options;
    this.#inbox = `${createInbox()}.`;
    this.#subscription = connection.subscribe(`${this.#inbox}*`, {
      callback: (error, message) => {
        if (error !== null) {
          this.#settleAll("unanswered", error);
          return;
        }
        const token = message.subject.slice(this.#inbox.length);
        const send = this.#inFlight.get(token);
        // Late answers to sends that timed out end here: the log was asked in the meantime.
        if (send === undefined) return;
        this.#inFlight.delete(token);
        settle(send, message.data, message.headers?.code ?? 0);
        this.#fill();
      },
    });
  }

  /** How many sends are under way or wait. */
  get pending(): number {
    return this.#inFlight.size + this.#queue.length - this.#queueHead;
  }

  /** Sends once. Rejects with `overloaded`, or with what no repetition mends. */
  send(subject: string, payload: Uint8Array, headers: Uint8Array): Promise<SendOutcome> {
    if (this.#closed !== null) return Promise.resolve({ kind: "unsent", error: this.#closed });
    if (!this.#connected) return Promise.resolve({ kind: "unsent", error: away() });
    const queued = this.#queue.length - this.#queueHead;
    if (queued >= this.#options.queuedMax) {
      const { inFlightMax, queuedMax } = this.#options;
      return Promise.reject(
        new MillraceError(
          "overloaded",
          `Append refused: ${inFlightMax} appends are under way and ${queued} wait, the limits are ${inFlightMax} and ` +
            `${queuedMax}. Append slower, or try again.`,
          { details: { limit: queuedMax, actual: queued + 1 } },
        ),
      );
    }
    return new Promise((resolve, reject) => {
      this.#queue.push({ subject, payload, headers, resolve, reject, expiresAt: 0 });
      this.#fill();
    });
  }

  disconnected(): void {
    this.#connected = false;
    this.#settleAll("unanswered", away());
  }

  reconnected(): void {
    this.#connected = true;
  }

  close(error: Error): void {
    if (this.#closed !== null) return;
    this.#closed = error;
    this.#settleAll("unanswered", error);
    this.#subscription.unsubscribe();
  }

  #fill(): void {
    while (this.#inFlight.size < this.#options.inFlightMax && this.#queueHead < this.#queue.length) {
      const send = this.#queue[this.#queueHead++];
      if (send === undefined) break;
      const token = (this.#nextToken++).toString(36);
      send.expiresAt = performance.now() + this.#options.timeoutMs;
      try {
        this.#connection.publish(send.subject, send.payload, {
          reply: this.#inbox + token,
          headers: encoded(send.headers),
        });
      } catch (cause) {
        const error = cause instanceof Error ? cause : new Error(String(cause));
        send.resolve({ kind: "unsent", error });
        continue;
      }
      this.#inFlight.set(token, send);
    }
    if (this.#queueHead === this.#queue.length || this.#queueHead > 1_024) {
      this.#queue = this.#queue.slice(this.#queueHead);
      this.#queueHead = 0;
    }
    if (this.#ticker === null && this.#inFlight.size > 0) {
      this.#ticker = setInterval(
        () => this.#expire(),
        Math.max(1, this.#options.timeoutMs / ticksPerTimeout),
      );
    }
  }

  #expire(): void {
    const now = performance.now();
    for (const [token, send] of this.#inFlight) {
      if (send.expiresAt > now) break;
      this.#inFlight.delete(token);
      const error = new MillraceError(
        "timeout",
        `The broker did not answer within ${this.#options.timeoutMs} ms.`,
      );
      send.resolve({ kind: "unanswered", error });
    }
    this.#fill();
    this.#stopTicker();
  }

  #settleAll(sent: "unanswered", error: Error): void {
    const inFlight = [...this.#inFlight.values()];
    const queued = this.#queue.slice(this.#queueHead);
    this.#inFlight.clear();
    this.#queue = [];
    this.#queueHead = 0;
    this.#stopTicker();
    for (const send of inFlight) send.resolve({ kind: sent, error });
    for (const send of queued) send.resolve({ kind: "unsent", error });
  }

  #stopTicker(): void {
    if (this.#ticker === null || this.#inFlight.size > 0) return;
    clearInterval(this.#ticker);
    this.#ticker = null;
  }
}

function away(): MillraceError {
  return new MillraceError("unavailable", "The connection to the broker is lost.");
}

interface Answer {
  readonly seq?: number;
  readonly error?: { readonly err_code?: number; readonly code?: number; readonly description?: string };
}

const utf8 = new TextDecoder();

function settle(send: Send, data: Uint8Array, status: number): void {
  // No responders: nobody took the message, so nothing was stored.
  if (status === 503) {
    const error = new MillraceError(
      "unavailable",
      "Nobody serves the event log now: the broker starts, or the stream is gone.",
    );
    return send.resolve({ kind: "busy", error });
  }
  let answer: Answer;
  try {
    answer = JSON.parse(utf8.decode(data)) as Answer;
  } catch (cause) {
    return send.resolve({
      kind: "unanswered",
      error: new Error("The broker's answer is not JSON.", { cause }),
    });
  }
  if (answer.error === undefined) {
    if (typeof answer.seq === "number" && answer.seq > 0)
      return send.resolve({ kind: "stored", sequence: answer.seq });
    return send.resolve({ kind: "unanswered", error: new Error("The broker's answer has no sequence.") });
  }
  const { err_code: errCode = 0, code: httpStatus = 0, description = "no description" } = answer.error;
  const code = codeOf(errCode, httpStatus, description);
  const error = new MillraceError(code, `The broker refused the commit: ${description} (${errCode}).`, {
    details: { brokerCode: errCode },
  });
  switch (code) {
    case "conflict":
      return send.resolve({ kind: "refused", error });
    case "unavailable":
    case "overloaded":
      return send.resolve({ kind: "busy", error });
    default:
      return send.reject(error);
  }
}

/** All that the library's `publish` asks of headers is their bytes. */
function encoded(headers: Uint8Array): MsgHdrs {
  return { encode: () => headers } as unknown as MsgHdrs;
}
