import type { ClientFrame, EventEntry, Filter, ServerFrame } from "@millrace/schemas";
import { matchesEvent, streamSubprotocol } from "@millrace/schemas";
import type { WebSocketConstructor, WebSocketLike } from "../web-socket.ts";
import { entry } from "./scripted-server.ts";
import type { SeededRandom } from "./seeded-random.ts";

/** What a network or a faulty server may do to the frames with events on their way. */
export interface FrameFaults {
  readonly lose: number;
  readonly repeat: number;
}

interface ModelSubscription {
  readonly i: number;
  readonly f: number;
  readonly filter: Filter;
  /** Everything up to here that matches was sent. */
  sent: number;
  live: boolean;
}

interface SocketEvent {
  readonly data: unknown;
  readonly code: number;
  readonly reason: string;
}
type Listener = (event: SocketEvent) => void;

/** One socket of the model: the frames wait in `outgoing` until the schedule lets one through. */
export class ModelSocket implements WebSocketLike {
  readonly protocol = streamSubprotocol;
  readonly outgoing: ServerFrame[] = [];
  readonly subscriptions = new Map<number, ModelSubscription>();
  readonly #server: ModelServer;
  readonly #listeners = new Map<string, Listener[]>();
  opened = false;
  /** The client has read `welcome`: before that it may say nothing but `hello`. */
  welcomed = false;
  closed = false;
  /** One answer, whole or not at all: nothing can be lost within it. */
  whole = false;

  constructor(server: ModelServer) {
    this.#server = server;
  }

  addEventListener(type: string, listener: Listener): void {
    this.#listeners.set(type, [...(this.#listeners.get(type) ?? []), listener]);
  }

  emit(type: string, event: Partial<SocketEvent>): void {
    const full = { data: undefined, code: 1006, reason: "", ...event };
    for (const listener of this.#listeners.get(type) ?? []) listener(full);
  }

  send(data: string): void {
    if (!this.closed) this.#server.receive(this, JSON.parse(data) as ClientFrame);
  }

  close(): void {
    this.closed = true;
  }
}

/**
 * The server side of `millrace.v1` over a log in memory, in one turn per call: a schedule decides what happens
 * next. It keeps the protocol's promises; `faults` break them on the way.
 */
export class ModelServer {
  readonly epoch = "9f3a";
  readonly log: EventEntry[] = [];
  readonly #random: SeededRandom;
  readonly #sockets: ModelSocket[] = [];
  readonly #filters: string[] = [];
  head = 0;
  faults: FrameFaults = { lose: 0, repeat: 0 };
  /** Breaks reported by clients. */
  reported = 0;
  lost = 0;
  repeated = 0;
  /** What clients said that the protocol does not allow. */
  readonly violations: string[] = [];

  constructor(random: SeededRandom) {
    this.#random = random;
  }

  get WebSocket(): WebSocketConstructor {
    const create = (): ModelSocket => this.connect();
    // `new` on a function that returns an object gives that object.
    return function ModelWebSocket() {
      return create();
    } as unknown as WebSocketConstructor;
  }

  connect(): ModelSocket {
    const socket = new ModelSocket(this);
    this.#sockets.push(socket);
    return socket;
  }

  get open(): readonly ModelSocket[] {
    return this.#sockets.filter((socket) => !socket.closed);
  }

  matching(filter: Filter, after: number, upTo: number): EventEntry[] {
    return this.log.filter(
      ([sequence, type, workflowId]) =>
        sequence > after &&
        sequence <= upTo &&
        (filter.workflow === undefined || filter.workflow.includes(workflowId)) &&
        matchesEvent(filter, type),
    );
  }

  /** Appends a commit, with a hole before it now and then, and feeds the live subscriptions. */
  publish(workflowId: string, events: number): void {
    this.head += 1 + (this.#random.chance(0.3) ? this.#random.below(4) : 0);
    for (let index = 0; index < events; index += 1)
      this.log.push(entry(this.head, workflowId, `step-${index}`));
    for (const socket of this.open) {
      for (const subscription of socket.subscriptions.values())
        if (subscription.live) this.#page(socket, subscription);
    }
  }

  /** A step of every kind that can be made on a socket; true when there was something to do. */
  advance(socket: ModelSocket): boolean {
    if (socket.closed) return false;
    if (!socket.opened) {
      socket.opened = true;
      socket.emit("open", {});
      return true;
    }
    const frame = socket.outgoing.shift();
    if (frame !== undefined) {
      if (frame.t === "welcome") socket.welcomed = true;
      socket.emit("message", { data: JSON.stringify(frame) });
      return true;
    }
    for (const subscription of socket.subscriptions.values()) {
      if (subscription.live) continue;
      this.#catchUp(socket, subscription);
      return true;
    }
    return false;
  }

  heartbeat(socket: ModelSocket): void {
    if (!socket.opened) return;
    const live = [...socket.subscriptions.values()].filter((subscription) => subscription.live);
    const l = live.map(({ f, filter }) => [f, this.matching(filter, 0, this.head).at(-1)?.[0] ?? 0] as const);
    socket.outgoing.push({ t: "hb", s: this.head, l });
    // The client's cursor will be there: a later frame that begins before it would look like a repeat.
    for (const subscription of live) subscription.sent = this.head;
  }

  /** Ends a socket in the midst of what it was sending. */
  cut(socket: ModelSocket, code = 1006): void {
    socket.closed = true;
    socket.outgoing.length = 0;
    socket.emit("close", { code });
  }

  receive(socket: ModelSocket, frame: ClientFrame): void {
    const unknown = (frame.t === "unsub" || frame.t === "report") && !socket.subscriptions.has(frame.i);
    if (unknown || socket.welcomed === (frame.t === "hello")) this.violations.push(JSON.stringify(frame));
    switch (frame.t) {
      case "hello":
        socket.outgoing.push({
          t: "welcome",
          v: 1,
          node: "model",
          e: this.epoch,
          first: 1,
          head: this.head,
          hb: 20_000,
          limits: { subs: 64, frame: 65_536 },
        });
        return;
      case "sub": {
        const from = frame.from ?? "now";
        const cursor = Number(from.split(".")[1] ?? "NaN");
        const sent = from === "start" ? 0 : from === "now" ? this.head : cursor;
        const filter = (frame.filter ?? {}) as Filter;
        const f = this.#filterId(socket, filter);
        socket.subscriptions.set(frame.i, { i: frame.i, f, filter, sent, live: false });
        const resumed = from.includes(".");
        socket.outgoing.push({
          t: "subbed",
          i: frame.i,
          f,
          mode: "catchup",
          s: sent,
          head: this.head,
          resumed,
        });
        return;
      }
      case "unsub":
        socket.subscriptions.delete(frame.i);
        return;
      case "report":
        this.reported += frame.breaks;
        return;
      case "ack":
      case "auth":
        return;
      case "ping":
        socket.outgoing.push({ t: "pong" });
        return;
    }
  }

  /** The same for the same filter, but unique among the subscriptions of a socket. */
  #filterId(socket: ModelSocket, filter: Filter): number {
    const text = JSON.stringify(filter);
    const taken = new Set([...socket.subscriptions.values()].map(({ f }) => f));
    const known = this.#filters.findIndex((other, f) => other === text && !taken.has(f));
    return known === -1 ? this.#filters.push(text) - 1 : known;
  }

  #catchUp(socket: ModelSocket, subscription: ModelSubscription): void {
    if (subscription.sent < this.head) {
      this.#page(socket, subscription, subscription.sent + 1 + this.#random.below(10));
      return;
    }
    subscription.live = true;
    socket.outgoing.push({ t: "live", i: subscription.i, s: subscription.sent });
  }

  /** Sends what matches in `(sent, upTo]`. */
  #page(socket: ModelSocket, subscription: ModelSubscription, upTo = this.head): void {
    const { f, filter, sent: p } = subscription;
    const s = Math.min(upTo, this.head);
    const entries = this.matching(filter, p, s);
    if (entries.length === 0 && subscription.live) return;
    subscription.sent = s;
    const frame: ServerFrame = entries.length === 0 ? { t: "bm", f, p, s } : { t: "ev", f, p, s, d: entries };
    if (!socket.whole && this.#random.chance(this.faults.lose)) {
      if (entries.length > 0) this.lost += 1;
      return;
    }
    socket.outgoing.push(frame);
    if (frame.t === "ev" && this.#random.chance(this.faults.repeat)) {
      this.repeated += 1;
      socket.outgoing.push(frame);
    }
  }
}
