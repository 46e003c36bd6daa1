/**
 * Which frame belongs to which subscription, on the present connection.
 *
 * I1 A frame reaches a subscription only between its `subbed` and the end of that wire id; ids are never reused.
 * I2 Within a connection a filter id (`f`) stands for one subscription, also when two have the same filter.
 */
import type { ClientFrame, SubscribeFrame } from "@millrace/schemas";
import type { Subscription } from "./subscription.ts";
import type { ReceivedFrame } from "./transport.ts";

interface Wire {
  readonly id: number;
  filterId: number | undefined;
}

/** A server that asks for a longer wait is wrong; one that asks for none would be asked in a tight loop. */
const refusedRetryMinMs = 100;
const refusedRetryMaxMs = 60_000;

/** Frames about the connection itself. */
type ConnectionFrame = Extract<ReceivedFrame, { readonly t: "welcome" | "bye" | "pong" }>;

export class SubscriptionWires {
  readonly #send: (frame: ClientFrame) => void;
  readonly #now: () => number;
  readonly #wires = new Map<Subscription, Wire>();
  readonly #byId = new Map<number, Subscription>();
  readonly #byFilter = new Map<number, Subscription>();
  #lastId = 0;

  constructor(send: (frame: ClientFrame) => void, now: () => number) {
    this.#send = send;
    this.#now = now;
  }

  subscribe(subscription: Subscription, frame: Omit<SubscribeFrame, "t" | "i">): void {
    this.forget(subscription);
    this.#lastId += 1;
    const id = this.#lastId;
    this.#wires.set(subscription, { id, filterId: undefined });
    this.#byId.set(id, subscription);
    this.#send({ t: "sub", i: id, ...frame });
  }

  unsubscribe(subscription: Subscription): void {
    const wire = this.#wires.get(subscription);
    if (wire === undefined) return;
    this.forget(subscription);
    this.#send({ t: "unsub", i: wire.id });
  }

  forget(subscription: Subscription): void {
    const wire = this.#wires.get(subscription);
    if (wire === undefined) return;
    this.#wires.delete(subscription);
    this.#byId.delete(wire.id);
    if (wire.filterId !== undefined) this.#byFilter.delete(wire.filterId);
  }

  report(subscription: Subscription, breaks: number, duplicates: number): void {
    const wire = this.#wires.get(subscription);
    if (wire !== undefined) this.#send({ t: "report", i: wire.id, breaks, duplicates });
  }

  /** Only for what the present wire brought: an ack for another would be refused. */
  acknowledge(subscription: Subscription, sequence: number): void {
    const wire = this.#wires.get(subscription);
    if (wire?.filterId !== undefined) this.#send({ t: "ack", i: wire.id, s: sequence });
  }

  /** Answers what is wrong with the frame, so that the connection must end. */
  route(frame: Exclude<ReceivedFrame, ConnectionFrame>): string | undefined {
    switch (frame.t) {
      case "ev":
      case "bm": {
        const { p, s } = frame;
        const entries = frame.t === "ev" ? frame.d : null;
        this.#byFilter.get(frame.f)?.step({ type: "chain", p, s, entries });
        return undefined;
      }
      case "hb": {
        const last = new Map(frame.l);
        for (const [filterId, subscription] of [...this.#byFilter]) {
          subscription.step({ type: "heartbeat", s: frame.s, last: last.get(filterId) });
        }
        for (const [filterId, sent] of frame.w ?? []) {
          this.#byFilter.get(filterId)?.step({ type: "awaited", sent });
        }
        return undefined;
      }
      case "subbed":
        return this.#subbed(frame);
      case "err":
        if (frame.i !== undefined) this.#refused(frame.i, frame);
        return undefined;
      case "snap":
        this.#byId.get(frame.i)?.step({ type: "rows", rows: frame.rows });
        return undefined;
      case "snapend":
        this.#byId.get(frame.i)?.step({ type: "snapped", epoch: frame.e, s: frame.s });
        return undefined;
      case "live":
        this.#byId.get(frame.i)?.step({ type: "live", s: frame.s });
        return undefined;
      case "behind":
        this.#byId.get(frame.i)?.step({ type: "behind", why: frame.why });
        return undefined;
      case "end":
        this.#byId.get(frame.i)?.step({ type: "end", s: frame.s });
        return undefined;
      case "gone": {
        const { why, e: epoch, first, head } = frame;
        this.#byId.get(frame.i)?.step({ type: "gone", why, epoch, first, head });
        return undefined;
      }
    }
  }

  #subbed(frame: Extract<ReceivedFrame, { t: "subbed" }>): string | undefined {
    const subscription = this.#byId.get(frame.i);
    const wire = subscription === undefined ? undefined : this.#wires.get(subscription);
    if (subscription === undefined || wire === undefined) return undefined;
    if (this.#byFilter.has(frame.f)) {
      return `two subscriptions of one connection share the filter id ${frame.f}`;
    }
    wire.filterId = frame.f;
    this.#byFilter.set(frame.f, subscription);
    subscription.step({ type: "subbed", mode: frame.mode, s: frame.s, epoch: frame.e });
    return undefined;
  }

  #refused(id: number, frame: Extract<ReceivedFrame, { t: "err" }>): void {
    const after = Math.min(Math.max(refusedRetryMinMs, Number(frame.after) || 0), refusedRetryMaxMs);
    const retryAt = this.#now() + after;
    this.#byId
      .get(id)
      ?.step({ type: "refused", code: frame.code, message: frame.msg, retry: frame.retry, retryAt });
  }
}
