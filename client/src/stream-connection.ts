/**
 * The shell of the connection: one socket for all subscriptions of a client.
 *
 * Owns: the socket, the timer, wire ids, which frame belongs to which subscription. Does not own: when to connect
 * (`connection-machine.ts`), what a frame means (`subscription-machine.ts`).
 *
 * I1 Only the present socket is listened to: what an earlier one still says is ignored.
 * I2 A frame reaches a subscription only between its `subbed` and the end of that wire id; ids are never reused.
 *    Within a connection a filter id (`f`) stands for one subscription, also when two have the same filter.
 * I3 A frame that cannot be read ends the connection, since the chain may be broken by it; all is resumed.
 * I4 One timer, armed for the earliest moment that anything waits for.
 */
import {
  closeCodes,
  MillraceError,
  streamProtocolVersion,
  streamSubprotocol,
  type ClientFrame,
  type ServerFrame,
  type SubscribeFrame,
} from "@millrace/schemas";
import {
  initialConnection,
  stepConnection,
  wakeAt,
  type ConnectionEffect,
  type ConnectionEvent,
  type ConnectionRules,
  type ConnectionState,
} from "./connection-machine.ts";
import { parseServerFrame } from "./server-frame.ts";
import type { MutableStats, StreamLink, Subscription } from "./subscription.ts";
import type { WebSocketConstructor, WebSocketLike } from "./web-socket.ts";

/** Arms one callback; what it returns disarms it. The default is `setTimeout`. */
export type Timer = (callback: () => void, delayMs: number) => () => void;

/** What the client tells about its connection, in the calling convention of pino and its like. */
export interface ClientLogger {
  debug(fields: Readonly<Record<string, unknown>>, message: string): void;
  warn(fields: Readonly<Record<string, unknown>>, message: string): void;
}

export type Token = string | (() => string | Promise<string>);

export interface StreamConnectionOptions {
  readonly url: string;
  readonly WebSocket: WebSocketConstructor;
  readonly token: Token | undefined;
  readonly client: string | undefined;
  readonly rules: ConnectionRules;
  readonly now: () => number;
  readonly random: () => number;
  readonly timer: Timer;
  readonly logger: ClientLogger | undefined;
}

interface Wire {
  readonly id: number;
  filterId: number | undefined;
}

/** A server that asks for a longer wait is wrong; one that asks for none would be asked in a tight loop. */
const refusedRetryMinMs = 100;
const refusedRetryMaxMs = 60_000;
/** `setTimeout` takes a longer delay for none at all. */
const timerDelayMaxMs = 2 ** 31 - 1;
/** Browsers refuse a longer close reason (123 bytes) by throwing. */
const closeReasonMax = 100;

export class StreamConnection implements StreamLink {
  readonly stats: MutableStats = { gaps: 0, duplicates: 0, reconnects: 0, received: 0 };
  readonly #options: StreamConnectionOptions;
  #state: ConnectionState = initialConnection;
  #socket: WebSocketLike | undefined;
  #socketError = "";
  #told: { readonly code: string; readonly msg: string } | null = null;
  #connectedOnce = false;
  readonly #subscriptions = new Set<Subscription>();
  readonly #wires = new Map<Subscription, Wire>();
  readonly #byId = new Map<number, Subscription>();
  readonly #byFilter = new Map<number, Subscription>();
  #lastId = 0;
  readonly #inbox: ConnectionEvent[] = [];
  #stepping = false;
  #disarm: (() => void) | undefined;
  #armedFor: number | null = null;
  #unlisten: (() => void) | undefined;

  constructor(options: StreamConnectionOptions) {
    this.#options = options;
  }

  get closed(): boolean {
    return this.#state.at === "closed";
  }

  add(subscription: Subscription): void {
    this.#subscriptions.add(subscription);
    this.#step({ type: "want" });
    if (this.#state.at === "ready") subscription.step({ type: "ready", epoch: this.#state.epoch });
    subscription.refreshStatus();
    this.#arm();
  }

  close(): void {
    for (const subscription of [...this.#subscriptions]) subscription.step({ type: "close" });
    this.#step({ type: "close" });
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

  reconnect(reason: string): void {
    this.#step({ type: "abandon", code: closeCodes.internal, reason });
  }

  connectionStatus(): "connecting" | "ready" | "stale" | "offline" {
    switch (this.#state.at) {
      case "idle":
      case "opening":
      case "greeting":
        return "connecting";
      case "ready":
        return this.#state.quiet ? "stale" : "ready";
      case "backoff":
      case "closed":
        return "offline";
    }
  }

  release(subscription: Subscription): void {
    this.#subscriptions.delete(subscription);
    if (this.#subscriptions.size === 0) this.#step({ type: "unwant" });
  }

  #step(event: ConnectionEvent): void {
    this.#inbox.push(event);
    if (this.#stepping) return;
    this.#stepping = true;
    const before = this.connectionStatus();
    try {
      for (let next = this.#inbox.shift(); next !== undefined; next = this.#inbox.shift()) {
        const { now, random, rules } = this.#options;
        const input = { now: now(), random: random(), rules };
        const { state, effects } = stepConnection(this.#state, next, input);
        this.#state = state;
        for (const effect of effects) this.#carryOut(effect);
      }
    } finally {
      this.#stepping = false;
    }
    this.#listen();
    this.#arm();
    if (this.connectionStatus() === before) return;
    for (const subscription of this.#subscriptions) subscription.refreshStatus();
  }

  #carryOut(effect: ConnectionEffect): void {
    switch (effect.do) {
      case "open":
        this.#open();
        return;
      case "hello":
        this.#hello();
        return;
      case "ping":
        this.#send({ t: "ping" });
        return;
      case "shut": {
        const socket = this.#socket;
        this.#socket = undefined;
        socket?.close(effect.code, effect.reason.slice(0, closeReasonMax));
        return;
      }
      case "attached":
        if (this.#connectedOnce) this.stats.reconnects += 1;
        this.#connectedOnce = true;
        this.#options.logger?.debug({ url: this.#options.url, epoch: effect.epoch }, "stream connected");
        for (const subscription of [...this.#subscriptions]) {
          subscription.step({ type: "ready", epoch: effect.epoch });
        }
        return;
      case "detached":
        this.#socket = undefined;
        this.#options.logger?.warn(
          { url: this.#options.url, reason: effect.reason, retryInMs: effect.retryInMs },
          "stream connection lost",
        );
        for (const subscription of [...this.#subscriptions]) subscription.step({ type: "lost" });
        return;
      case "fail":
        this.#socket = undefined;
        for (const subscription of [...this.#subscriptions]) {
          subscription.step({ type: "lost" });
          subscription.step({ type: "fail", error: effect.error });
        }
        return;
    }
  }

  #open(): void {
    const { WebSocket, url } = this.#options;
    this.#told = null;
    this.#socketError = "";
    let socket: WebSocketLike;
    try {
      socket = new WebSocket(url, streamSubprotocol);
    } catch (cause) {
      const error = new MillraceError(
        "invalid_request",
        `Opening a WebSocket to ${url} is not possible: ${String(cause)}`,
        { cause },
      );
      this.#inbox.push({ type: "refuse", error });
      return;
    }
    this.#socket = socket;
    const whenPresent = (listener: () => void): void => {
      if (this.#socket === socket) listener();
    };
    socket.addEventListener("open", () => whenPresent(() => this.#opened(socket)));
    socket.addEventListener("message", ({ data }) => whenPresent(() => this.#take(data)));
    // The close event follows and decides; only Node's WebSockets say here what went wrong.
    socket.addEventListener("error", (event) =>
      whenPresent(() => {
        if ("message" in event) this.#socketError = String(event.message);
      }),
    );
    socket.addEventListener("close", ({ code, reason }) =>
      whenPresent(() => {
        this.#socket = undefined;
        this.#step({
          type: "lost",
          code,
          reason: reason === "" ? this.#socketError : reason,
          told: this.#told,
        });
      }),
    );
  }

  #opened(socket: WebSocketLike): void {
    if (socket.protocol === streamSubprotocol) {
      this.#step({ type: "opened" });
      return;
    }
    const error = new MillraceError(
      "subprotocol_missing",
      `${this.#options.url} accepted the WebSocket without the subprotocol ${streamSubprotocol} ` +
        `(it chose ${JSON.stringify(socket.protocol)}). Is this the address of a Millrace stream (/v1/stream)?`,
      { details: { expected: streamSubprotocol, actual: socket.protocol } },
    );
    this.#step({ type: "refuse", error });
  }

  #hello(): void {
    const socket = this.#socket;
    const { token: given, client, logger } = this.#options;
    const asked = Promise.resolve().then(() => (typeof given === "function" ? given() : given));
    asked.then(
      (token) => {
        if (this.#socket !== socket) return;
        this.#send({
          t: "hello",
          v: streamProtocolVersion,
          ...(token === undefined ? {} : { token }),
          ...(client === undefined ? {} : { client }),
        });
      },
      (error: unknown) => {
        const reason = `the token function failed: ${String(error)}`;
        logger?.warn({ error }, reason);
        if (this.#socket === socket) this.#step({ type: "abandon", code: 1000, reason });
      },
    );
  }

  #take(data: unknown): void {
    const frame = parseServerFrame(data);
    if (frame === "unknown") return;
    if (frame === "malformed") {
      const shown = typeof data === "string" ? data.slice(0, 200) : typeof data;
      this.#options.logger?.warn({ frame: shown }, "malformed stream frame");
      this.#step({ type: "abandon", code: closeCodes.badFrame, reason: "malformed frame" });
      return;
    }
    this.#step({ type: "heard" });
    this.#route(frame);
    this.#arm();
  }

  #route(frame: ServerFrame): void {
    switch (frame.t) {
      case "welcome":
        this.#step({ type: "welcome", epoch: frame.e, heartbeatMs: frame.hb });
        return;
      case "bye":
        this.#step({ type: "bye", code: frame.code, minMs: frame.min, maxMs: frame.max });
        return;
      case "ev":
      case "bm": {
        const { p, s } = frame;
        const entries = frame.t === "ev" ? frame.d : null;
        this.#byFilter.get(frame.f)?.step({ type: "chain", p, s, entries });
        return;
      }
      case "hb": {
        const last = new Map(frame.l);
        for (const [filterId, subscription] of [...this.#byFilter]) {
          subscription.step({ type: "heartbeat", s: frame.s, last: last.get(filterId) });
        }
        for (const [filterId, sent] of frame.w ?? [])
          this.#byFilter.get(filterId)?.step({ type: "awaited", sent });
        return;
      }
      case "err":
        if (frame.i === undefined) {
          this.#told = frame;
          this.#options.logger?.warn({ code: frame.code }, frame.msg);
          return;
        }
        this.#refused(frame.i, frame);
        return;
      case "subbed":
        this.#subbed(frame);
        return;
      case "snap":
        this.#byId.get(frame.i)?.step({ type: "rows", rows: frame.rows });
        return;
      case "snapend":
        this.#byId.get(frame.i)?.step({ type: "snapped", epoch: frame.e, s: frame.s });
        return;
      case "live":
        this.#byId.get(frame.i)?.step({ type: "live", s: frame.s });
        return;
      case "behind":
        this.#byId.get(frame.i)?.step({ type: "behind", why: frame.why });
        return;
      case "end":
        this.#byId.get(frame.i)?.step({ type: "end", s: frame.s });
        return;
      case "gone": {
        const { why, e: epoch, first, head } = frame;
        this.#byId.get(frame.i)?.step({ type: "gone", why, epoch, first, head });
        return;
      }
      case "pong":
        return;
    }
  }

  #subbed(frame: Extract<ServerFrame, { t: "subbed" }>): void {
    const subscription = this.#byId.get(frame.i);
    const wire = subscription === undefined ? undefined : this.#wires.get(subscription);
    if (subscription === undefined || wire === undefined) return;
    if (this.#byFilter.has(frame.f)) {
      const reason = `two subscriptions of one connection share the filter id ${frame.f}`;
      this.#step({ type: "abandon", code: closeCodes.badFrame, reason });
      return;
    }
    wire.filterId = frame.f;
    this.#byFilter.set(frame.f, subscription);
    subscription.step({ type: "subbed", mode: frame.mode, s: frame.s });
  }

  #refused(id: number, frame: Extract<ServerFrame, { t: "err" }>): void {
    const after = Math.min(Math.max(refusedRetryMinMs, Number(frame.after) || 0), refusedRetryMaxMs);
    const retryAt = this.#options.now() + after;
    this.#byId
      .get(id)
      ?.step({ type: "refused", code: frame.code, message: frame.msg, retry: frame.retry, retryAt });
  }

  #send(frame: ClientFrame): void {
    this.#socket?.send(JSON.stringify(frame));
  }

  #arm(): void {
    let at = wakeAt(this.#state, this.#options.rules);
    for (const { wakeAt: wanted } of this.#subscriptions) {
      if (wanted !== null && (at === null || wanted < at)) at = wanted;
    }
    // An alarm that comes early is harmless, and saves arming anew with every frame.
    if (this.#armedFor !== null && at !== null && this.#armedFor <= at) return;
    this.#disarm?.();
    this.#disarm = undefined;
    this.#armedFor = at;
    if (at === null) return;
    const delayMs = Math.min(Math.max(0, at - this.#options.now()), timerDelayMaxMs);
    this.#disarm = this.#options.timer(() => this.#tick(), delayMs);
  }

  #tick(): void {
    this.#armedFor = null;
    this.#disarm = undefined;
    const now = this.#options.now();
    for (const subscription of [...this.#subscriptions]) subscription.step({ type: "tick", now });
    this.#step({ type: "tick" });
  }

  /** A page that comes back, or a network that does, should not wait for the backoff. */
  #listen(): void {
    const active = this.#state.at !== "idle" && this.#state.at !== "closed";
    if (!active) {
      this.#unlisten?.();
      this.#unlisten = undefined;
      return;
    }
    if (this.#unlisten !== undefined) return;
    const page = globalThis as Partial<Pick<Window, "addEventListener" | "removeEventListener" | "document">>;
    const online = (): void => this.#step({ type: "nudge" });
    const visible = (): void => {
      if (page.document?.visibilityState === "visible") this.#step({ type: "nudge" });
    };
    page.addEventListener?.("online", online);
    page.document?.addEventListener("visibilitychange", visible);
    this.#unlisten = () => {
      page.removeEventListener?.("online", online);
      page.document?.removeEventListener("visibilitychange", visible);
    };
  }
}
