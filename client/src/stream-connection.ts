/**
 * The shell of the connection: one way to the server for all subscriptions of a client.
 *
 * Owns: the present transport, a probe for a better one, the timer, the token. Does not own: when to connect
 * (`connection-machine.ts`), by which transport (`transport-choice.ts`), which frame is whose
 * (`subscription-wires.ts`), what a frame means (`subscription-machine.ts`).
 *
 * I1 Only the present transport is listened to: what an earlier one still says is ignored.
 * I2 A frame that cannot be read ends the connection, since the chain may be broken by it; all is resumed.
 * I3 One timer, armed for the earliest moment that anything waits for.
 * I4 A probe replaces the present transport only after its `welcome`; until then nothing of the present is touched.
 */
import {
  closeCodes,
  streamProtocolVersion,
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
import { onPageNudge } from "./page-nudges.ts";
import { SubscriptionWires } from "./subscription-wires.ts";
import type { MutableStats, StreamLink, Subscription } from "./subscription.ts";
import {
  afterAttempt,
  chosenKind,
  initialChoice,
  probeFailed,
  probeWorked,
  proven,
  type TransportChoice,
} from "./transport-choice.ts";
import type { ReceivedFrame, Transport, TransportKind, TransportListener } from "./transport.ts";

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
  /** Best first; not empty. */
  readonly transports: readonly TransportKind[];
  readonly openTransport: (kind: TransportKind, listener: TransportListener) => Transport;
  readonly token: Token | undefined;
  readonly client: string | undefined;
  readonly rules: ConnectionRules;
  readonly now: () => number;
  readonly random: () => number;
  readonly timer: Timer;
  readonly logger: ClientLogger | undefined;
}

/** One use of a transport, the present one or a probe. */
interface Attempt {
  readonly kind: TransportKind;
  transport: Transport | undefined;
  /** The server was heard by it. */
  heard: boolean;
}

/** `setTimeout` takes a longer delay for none at all. */
const timerDelayMaxMs = 2 ** 31 - 1;

export class StreamConnection implements StreamLink {
  readonly stats: MutableStats = { gaps: 0, duplicates: 0, reconnects: 0, received: 0 };
  readonly #options: StreamConnectionOptions;
  readonly #wires: SubscriptionWires;
  #state: ConnectionState = initialConnection;
  #choice: TransportChoice;
  #present: Attempt | undefined;
  /** The last attempt reached the server, which says that its transport works. */
  #worked = false;
  #probe: (Attempt & { readonly until: number }) | undefined;
  #told: { readonly code: string; readonly msg: string } | null = null;
  #connectedOnce = false;
  readonly #subscriptions = new Set<Subscription>();
  readonly #inbox: ConnectionEvent[] = [];
  #stepping = false;
  #disarm: (() => void) | undefined;
  #armedFor: number | null = null;
  #unlisten: (() => void) | undefined;
  #stopRefresh: (() => void) | undefined;

  constructor(options: StreamConnectionOptions) {
    this.#options = options;
    this.#choice = initialChoice(options.transports);
    this.#wires = new SubscriptionWires((frame) => this.#send(frame), options.now);
  }

  get closed(): boolean {
    return this.#state.at === "closed";
  }

  /** The transport over which the server was heard; `null` while there is none. */
  get transport(): TransportKind | null {
    return this.#present?.heard === true ? this.#present.kind : null;
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
    this.#wires.subscribe(subscription, frame);
  }

  unsubscribe(subscription: Subscription): void {
    this.#wires.unsubscribe(subscription);
  }

  forget(subscription: Subscription): void {
    this.#wires.forget(subscription);
  }

  report(subscription: Subscription, breaks: number, duplicates: number): void {
    this.#wires.report(subscription, breaks, duplicates);
  }

  acknowledge(subscription: Subscription, sequence: number): void {
    this.#wires.acknowledge(subscription, sequence);
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
    const { url, logger } = this.#options;
    switch (effect.do) {
      case "open":
        this.#told = null;
        this.#worked = false;
        this.#present = { kind: chosenKind(this.#choice), transport: undefined, heard: false };
        this.#open(this.#present);
        return;
      case "hello":
        if (this.#present !== undefined) this.#greet(this.#present);
        return;
      case "ping":
        this.#send({ t: "ping" });
        return;
      case "shut": {
        const transport = this.#present?.transport;
        this.#leave();
        transport?.close(effect.code, effect.reason);
        return;
      }
      case "attached":
        logger?.debug({ url, epoch: effect.epoch, transport: this.#present?.kind }, "stream connected");
        for (const subscription of [...this.#subscriptions]) {
          subscription.step({ type: "ready", epoch: effect.epoch });
        }
        return;
      case "detached": {
        const transport = chosenKind(this.#choice);
        this.#leave();
        this.#choice = afterAttempt(this.#choice, this.#worked);
        const { reason, retryInMs } = effect;
        logger?.warn({ url, transport, reason, retryInMs }, "stream connection lost");
        for (const subscription of [...this.#subscriptions]) subscription.step({ type: "lost" });
        return;
      }
      case "fail":
        this.#leave();
        for (const subscription of [...this.#subscriptions]) {
          subscription.step({ type: "lost" });
          subscription.step({ type: "fail", error: effect.error });
        }
        return;
    }
  }

  /** The present transport is over. A probe beside it would find nobody to take over from. */
  #leave(): void {
    this.#present = undefined;
    this.#stopRefresh?.();
    this.#stopRefresh = undefined;
    this.#probe?.transport?.close(1000, "");
    this.#probe = undefined;
  }

  #open(attempt: Attempt): void {
    const whenPresent = (listener: () => void): void => {
      if (this.#present === attempt) listener();
    };
    attempt.transport = this.#options.openTransport(attempt.kind, {
      opened: () => {
        if (this.#probe === attempt) this.#greet(attempt);
        else whenPresent(() => this.#step({ type: "opened" }));
      },
      frame: (frame) => {
        if (this.#probe === attempt) this.#takeProbed(attempt, frame);
        else whenPresent(() => this.#take(attempt, frame));
      },
      malformed: (shown) =>
        whenPresent(() => {
          this.#options.logger?.warn({ frame: shown.slice(0, 200) }, "malformed stream frame");
          this.#step({ type: "abandon", code: closeCodes.badFrame, reason: "malformed frame" });
        }),
      closed: (code, reason) => {
        if (this.#probe === attempt) this.#endProbe();
        whenPresent(() => {
          this.#present = undefined;
          this.#step({ type: "lost", code, reason, told: this.#told });
        });
      },
      failed: (error) => {
        if (this.#probe === attempt) this.#endProbe();
        whenPresent(() => this.#step({ type: "refuse", error }));
      },
    });
  }

  #greet(attempt: Attempt): void {
    const { token: given, client, logger } = this.#options;
    const isWanted = (): boolean => this.#present === attempt || this.#probe === attempt;
    const asked = Promise.resolve().then(() => (typeof given === "function" ? given() : given));
    asked.then(
      (token) => {
        if (!isWanted()) return;
        attempt.transport?.send({
          t: "hello",
          v: streamProtocolVersion,
          ...(token === undefined ? {} : { token }),
          ...(client === undefined ? {} : { client }),
        });
      },
      (error: unknown) => {
        const reason = `the token function failed: ${String(error)}`;
        logger?.warn({ error }, reason);
        if (this.#probe === attempt) this.#endProbe();
        if (this.#present === attempt) {
          // It says nothing about the transport.
          this.#worked = true;
          this.#step({ type: "abandon", code: 1000, reason });
        }
      },
    );
  }

  #take(attempt: Attempt, frame: ReceivedFrame): void {
    this.#note(attempt, frame);
    this.#step({ type: "heard" });
    this.#route(frame);
    this.#arm();
  }

  /** Over HTTP `welcome` is our own: the server is heard with the first answer. */
  #note(attempt: Attempt, frame: ReceivedFrame): void {
    if (attempt.heard || (frame.t === "welcome" && attempt.kind !== "websocket")) return;
    this.#worked = true;
    // What a socket says before its `welcome` is why there will be none.
    if (attempt.kind === "websocket" && frame.t !== "welcome") return;
    attempt.heard = true;
    if (this.#connectedOnce) this.stats.reconnects += 1;
    this.#connectedOnce = true;
    this.#choice = proven(this.#choice, this.#options.now());
  }

  #route(frame: ReceivedFrame): void {
    switch (frame.t) {
      case "welcome":
        this.#renewToken(frame);
        this.#step({ type: "welcome", epoch: frame.e, heartbeatMs: frame.hb });
        return;
      case "bye":
        this.#step({ type: "bye", code: frame.code, minMs: frame.min, maxMs: frame.max });
        return;
      case "pong":
        return;
      default: {
        if (frame.t === "err" && frame.i === undefined) {
          this.#told = frame;
          this.#options.logger?.warn({ code: frame.code }, frame.msg);
        }
        const wrong = this.#wires.route(frame);
        if (wrong !== undefined) this.#step({ type: "abandon", code: closeCodes.badFrame, reason: wrong });
      }
    }
  }

  #renewToken({ ttl }: Extract<ServerFrame, { t: "welcome" }>): void {
    this.#stopRefresh?.();
    this.#stopRefresh = undefined;
    const { token, timer, logger } = this.#options;
    if (ttl === undefined || typeof token !== "function") return;
    let stop = (): void => {
      stopped = true;
    };
    let stopped = false;
    this.#stopRefresh = () => stop();
    const failed = (error: unknown): void =>
      logger?.warn({ error }, "no new token; the present one is used until it expires");
    import("./token-refresh.ts").then(({ refreshToken }) => {
      if (stopped) return;
      const send = (fresh: string): void => this.#send({ t: "auth", token: fresh });
      stop = refreshToken({ token, lifetimeMs: ttl * 1_000, timer, send, failed });
    }, failed);
  }

  #startProbe(): void {
    const kind = this.#options.transports[0];
    if (kind === undefined) return;
    const until = this.#options.now() + this.#options.rules.connectTimeoutMs;
    const probe = { kind, transport: undefined, heard: false, until };
    this.#probe = probe;
    this.#open(probe);
  }

  #takeProbed(probe: Attempt, frame: ReceivedFrame): void {
    if (frame.t !== "welcome") return;
    const before = this.#present;
    this.#probe = undefined;
    probe.heard = true;
    this.#present = probe;
    this.#choice = probeWorked(this.#choice);
    this.#options.logger?.debug(
      { url: this.#options.url, transport: probe.kind },
      "stream transport improved",
    );
    before?.transport?.close(1000, "");
    this.#renewToken(frame);
    this.#step({ type: "switched", epoch: frame.e, heartbeatMs: frame.hb });
  }

  #endProbe(): void {
    const { now, random } = this.#options;
    const transport = this.#probe?.transport;
    this.#probe = undefined;
    this.#choice = probeFailed(this.#choice, now(), random());
    transport?.close(1000, "");
    this.#arm();
  }

  #send(frame: ClientFrame): void {
    this.#present?.transport?.send(frame);
  }

  /** When the first transport is to be tried, or the present try is over. */
  get #probeAt(): number | null {
    if (this.#state.at !== "ready") return null;
    return this.#probe?.until ?? this.#choice.probeAt;
  }

  #arm(): void {
    let at = wakeAt(this.#state, this.#options.rules);
    const probeAt = this.#probeAt;
    if (probeAt !== null && (at === null || probeAt < at)) at = probeAt;
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
    const probeAt = this.#probeAt;
    if (probeAt !== null && now >= probeAt) {
      if (this.#probe === undefined) this.#startProbe();
      else this.#endProbe();
    }
    this.#step({ type: "tick" });
  }

  /** A page that comes back, or a network that does, should not wait for the backoff. */
  #listen(): void {
    const active = this.#state.at !== "idle" && this.#state.at !== "closed";
    if (active) this.#unlisten ??= onPageNudge(() => this.#step({ type: "nudge" }));
    else {
      this.#unlisten?.();
      this.#unlisten = undefined;
    }
  }
}
