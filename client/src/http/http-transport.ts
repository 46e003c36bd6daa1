/**
 * The stream over HTTP: a request for each subscription, as event stream or as long poll.
 *
 * Owns: which subscription has a request, the limit of requests, the watch over each. Does not own: backoff and
 * resuming after a failure (the connection's): any request that fails ends the transport, and all is resumed.
 *
 * I1 At most `requestsMax` requests are open: browsers allow six connections per origin over HTTP/1.1, for all tabs,
 *    and the page needs some itself. Event streams take all but one, what is left polls in turns.
 * I2 A lane has at most one request; what an aborted one still brings is ignored.
 * I3 A request that says nothing for too long ends the transport, unless it is us who do not read.
 * I4 A first request without a cursor is a poll that does not wait: its answer has the cursor, so that whatever cuts
 *    the event stream after it, nothing is missed.
 */
import { closeCodes, parseCursor, streamDefaults, type ServerFrame } from "@millrace/schemas";
import { checkServerFrame, parseServerFrame } from "../server-frame.ts";
import type { Timer } from "../stream-connection.ts";
import type { ReceivedFrame, Transport, TransportListener } from "../transport.ts";
import { EventStreamParser } from "./event-stream-parser.ts";
import { judgeRefusal } from "./judge-refusal.ts";
import { Lane } from "./lane.ts";
import { streamQuery } from "./stream-query.ts";

export interface HttpTransportOptions {
  readonly mode: "sse" | "poll";
  /** `http:` or `https:`. */
  readonly url: string;
  readonly fetch: typeof globalThis.fetch;
  readonly requestsMax: number;
  readonly connectTimeoutMs: number;
  readonly now: () => number;
  readonly timer: Timer;
}

/** A poll that has a request for itself waits this long; below what proxies allow (60 s and up). */
const waitMs = 25_000;
/** A poll that shares its place with others. */
const sharedWaitMs = 1_000;
/** Between two polls of which the first did not wait though it was to: a server that does not know how. */
const unwaitedDelayMs = 1_000;

export function openHttpTransport(options: HttpTransportOptions, listener: TransportListener): Transport {
  return new HttpTransport(options, listener);
}

class HttpTransport implements Transport {
  readonly #options: HttpTransportOptions;
  readonly #listener: TransportListener;
  readonly #lanes = new Map<number, Lane>();
  readonly #streaming = new Set<Lane>();
  readonly #polling = new Set<Lane>();
  readonly #queue: Lane[] = [];
  readonly #disarms = new Set<() => void>();
  #token: string | undefined;
  #worked = false;
  #over = false;

  constructor(options: HttpTransportOptions, listener: TransportListener) {
    this.#options = options;
    this.#listener = listener;
    queueMicrotask(() => {
      if (!this.#over) listener.opened();
    });
  }

  send(frame: Parameters<Transport["send"]>[0]): void {
    if (this.#over) return;
    switch (frame.t) {
      case "hello":
        this.#token = frame.token;
        this.#beat();
        // Nothing was asked yet: what the server would say comes with the first subscription.
        this.#tell({
          t: "welcome",
          v: 1,
          node: "",
          e: "",
          first: 0,
          head: 0,
          hb: this.#beatMs,
          limits: { subs: Number.MAX_SAFE_INTEGER, frame: Number.MAX_SAFE_INTEGER },
        });
        return;
      case "sub":
        this.#add(new Lane(frame));
        return;
      case "unsub":
        this.#remove(frame.i);
        return;
      case "ack":
        this.#acknowledge(frame.i, frame.s);
        return;
      case "auth":
        this.#token = frame.token;
        return;
      case "ping":
        this.#renew();
        return;
      case "report":
        // Over HTTP there is no way to tell; the counter of the client has it.
        return;
    }
  }

  close(): void {
    this.#over = true;
    for (const lane of this.#lanes.values()) lane.end();
    this.#lanes.clear();
    for (const disarm of this.#disarms) disarm();
    this.#disarms.clear();
  }

  get #beatMs(): number {
    return this.#options.mode === "sse" ? streamDefaults.heartbeatMs : waitMs;
  }

  /** While we do not read, the connection must not take the silence for a dead peer. */
  #beat(): void {
    this.#after(this.#beatMs, () => {
      if ([...this.#lanes.values()].some(({ window }) => window?.full)) this.#tell({ t: "pong" });
      this.#beat();
    });
  }

  #after(delayMs: number, callback: () => void): () => void {
    const disarm = this.#options.timer(() => {
      this.#disarms.delete(disarm);
      if (!this.#over) callback();
    }, delayMs);
    this.#disarms.add(disarm);
    return () => {
      this.#disarms.delete(disarm);
      disarm();
    };
  }

  #tell(frame: ReceivedFrame): void {
    if (!this.#over) this.#listener.frame(frame);
  }

  #lose(code: number, reason: string): void {
    if (this.#over) return;
    this.close();
    this.#listener.closed(code, reason);
  }

  #add(lane: Lane): void {
    this.#lanes.set(lane.id, lane);
    const { mode, requestsMax } = this.#options;
    if (mode === "sse" && this.#streaming.size < Math.max(1, requestsMax - 1)) {
      this.#streaming.add(lane);
      this.#run(lane, (signal) => this.#follow(lane, signal));
    } else this.#enqueue(lane);
  }

  #remove(id: number): void {
    const lane = this.#lanes.get(id);
    if (lane === undefined) return;
    lane.end();
    this.#forget(lane);
  }

  #forget(lane: Lane): void {
    this.#lanes.delete(lane.id);
    this.#streaming.delete(lane);
    this.#polling.delete(lane);
    const at = this.#queue.indexOf(lane);
    if (at !== -1) this.#queue.splice(at, 1);
    this.#pump();
  }

  #acknowledge(id: number, sequence: number): void {
    const lane = this.#lanes.get(id);
    if (lane?.window === undefined) return;
    lane.window.acknowledge(sequence);
    this.#pump();
  }

  /** The network may be another one: every request is made anew, from where it is. */
  #renew(): void {
    if (this.#lanes.size === 0) this.#tell({ t: "pong" });
    for (const lane of this.#lanes.values()) {
      // Without a cursor the request is young, and half a snapshot cannot be gone on with.
      if (lane.cursor === null) continue;
      lane.hurried = true;
      lane.abort();
    }
  }

  /** Runs one request of a lane, and what follows from its end. */
  #run(lane: Lane, request: (signal: AbortSignal) => Promise<void>): void {
    const signal = lane.begin();
    request(signal)
      .catch((error: unknown) => {
        if (signal.aborted || lane.done) return;
        const cause =
          error instanceof Error && error.cause instanceof Error ? `: ${error.cause.message}` : "";
        this.#lose(1006, `${String(error)}${cause}`);
      })
      .finally(() => {
        this.#polling.delete(lane);
        if (this.#over) return;
        if (lane.done) this.#forget(lane);
        else if (this.#streaming.has(lane)) this.#run(lane, (next) => this.#follow(lane, next));
        else this.#enqueue(lane);
      });
  }

  #enqueue(lane: Lane): void {
    if (!this.#queue.includes(lane)) this.#queue.push(lane);
    this.#pump();
  }

  /** Gives the free places to the lanes that wait longest. */
  #pump(): void {
    const places = Math.max(1, this.#options.requestsMax - this.#streaming.size);
    for (let index = 0; this.#polling.size < places && index < this.#queue.length;) {
      const lane = this.#queue[index];
      if (lane === undefined) return;
      if (lane.window?.full === true) {
        index += 1;
        continue;
      }
      this.#queue.splice(index, 1);
      this.#polling.add(lane);
      const shared = this.#queue.length + this.#polling.size > places;
      this.#run(lane, (signal) => this.#poll(lane, signal, shared ? sharedWaitMs : waitMs));
    }
    // Whoever waits for long in a place that is now shared gives it up, and loses nothing by it.
    const waiting = this.#queue.some(({ window }) => window?.full !== true);
    if (waiting) for (const lane of this.#polling) if (lane.live && !lane.hurried) this.#giveUpPlace(lane);
  }

  readonly #longWaits = new Set<Lane>();

  #giveUpPlace(lane: Lane): void {
    if (this.#longWaits.delete(lane)) lane.abort();
  }

  async #request(lane: Lane, query: URLSearchParams, accept: string, signal: AbortSignal): Promise<Response> {
    const { url, fetch } = this.#options;
    const address = new URL(url);
    for (const [name, value] of query) address.searchParams.append(name, value);
    const response = await fetch(address.href, {
      headers: { accept, ...(this.#token === undefined ? {} : { authorization: `Bearer ${this.#token}` }) },
      cache: "no-store",
      signal,
    });
    if (!response.ok) await this.#refused(lane, response, signal);
    else this.#worked = true;
    return response;
  }

  async #refused(lane: Lane, response: Response, signal: AbortSignal): Promise<void> {
    const isProblem = response.headers.get("content-type")?.includes("json") === true;
    const body: unknown = isProblem ? await response.json() : null;
    if (signal.aborted) return;
    await response.body?.cancel().catch(() => undefined);
    const problem = typeof body === "object" ? (body as Readonly<Record<string, unknown>> | null) : null;
    const refusal = { status: response.status, retryAfter: response.headers.get("retry-after"), problem };
    const verdict = judgeRefusal(lane.id, refusal, this.#worked);
    if (verdict.do === "close") this.#lose(verdict.code, verdict.reason);
    else this.#hand(lane, verdict.frame, null);
  }

  /** Hands a frame of a lane's request on. */
  #hand(lane: Lane, frame: ServerFrame, cursor: string | null): void {
    const translated = lane.translate(frame, cursor);
    if (translated !== undefined) this.#tell(translated);
  }

  async #poll(lane: Lane, signal: AbortSignal, longestMs: number): Promise<void> {
    const wait = lane.accepted && lane.live && !lane.hurried ? longestMs : 0;
    lane.hurried = false;
    const query = streamQuery(lane.sub, lane.cursor);
    query.set("mode", "poll");
    query.set("waitMs", String(wait));
    if (lane.window !== undefined) query.set("limit", String(Math.min(lane.sub.window ?? 1, 1_000)));
    const asked = this.#options.now();
    const disarm = this.#after(wait + this.#options.connectTimeoutMs, () =>
      this.#lose(closeCodes.heartbeatLost, `no answer to a poll of ${wait} ms`),
    );
    if (wait === waitMs) this.#longWaits.add(lane);
    try {
      const response = await this.#request(lane, query, "application/json", signal);
      if (!response.ok || signal.aborted) return;
      const page: unknown = await response.json();
      if (signal.aborted) return;
      const empty = this.#takePage(lane, page);
      if (empty && wait > 0 && this.#options.now() - asked < Math.min(wait, unwaitedDelayMs) / 2) {
        await new Promise<void>((resolve) => this.#after(unwaitedDelayMs, resolve));
      }
    } finally {
      this.#longWaits.delete(lane);
      disarm();
    }
  }

  /** Answers whether there was nothing in it. */
  #takePage(lane: Lane, page: unknown): boolean {
    const { p, s, d, live, end, cursor } = (page ?? {}) as Readonly<Record<string, unknown>>;
    const f = lane.id;
    const empty = Array.isArray(d) && d.length === 0;
    const frame = checkServerFrame(empty ? { t: "bm", f, p, s } : { t: "ev", f, p, s, d });
    if (frame === "malformed" || frame === "unknown" || typeof cursor !== "string") {
      this.#listener.malformed(JSON.stringify(page));
      return true;
    }
    const { p: previous, s: last } = frame as Extract<ServerFrame, { t: "bm" }>;
    if (!lane.accepted) {
      const { epoch } = parseCursor(cursor);
      lane.cursor = `${epoch}.${previous}`;
      this.#hand(
        lane,
        { t: "subbed", i: f, f, mode: "catchup", s: previous, head: last, resumed: true },
        null,
      );
    }
    // An answer without news still says that the server is there.
    if (empty && last === previous) this.#tell({ t: "pong" });
    else this.#hand(lane, frame, cursor);
    if (lane.done || this.#over) return empty;
    if (live === true && !lane.live) this.#hand(lane, { t: "live", i: f, s: last }, null);
    if (end === true) this.#hand(lane, { t: "end", i: f, s: last }, null);
    return empty;
  }

  async #follow(lane: Lane, signal: AbortSignal): Promise<void> {
    if (lane.cursor === null && lane.sub.from !== "snapshot") {
      await this.#poll(lane, signal, 0);
      if (lane.done || signal.aborted || this.#over) return;
    }
    let heardAt = this.#options.now();
    let limitMs = this.#options.connectTimeoutMs;
    let disarm: () => void;
    const watch = (): void => {
      const quietMs = this.#options.now() - heardAt;
      if (lane.window?.full !== true && quietMs >= limitMs) {
        this.#lose(closeCodes.heartbeatLost, `the event stream was silent for ${limitMs} ms`);
      } else disarm = this.#after(Math.max(1, limitMs - quietMs), watch);
    };
    disarm = this.#after(limitMs, watch);
    lane.hurried = false;
    const query = streamQuery(lane.sub, lane.cursor);
    if (lane.sub.batch !== undefined) {
      query.set("batchMax", String(lane.sub.batch.max));
      query.set("batchMs", String(lane.sub.batch.ms));
    }
    try {
      const response = await this.#request(lane, query, "text/event-stream", signal);
      if (!response.ok || signal.aborted) return;
      if (response.body === null || !response.headers.get("content-type")?.startsWith("text/event-stream")) {
        throw new Error(`the answer is ${response.headers.get("content-type") ?? "empty"}, no event stream`);
      }
      const reader = response.body.getReader();
      const decoder = new TextDecoder();
      const parser = new EventStreamParser();
      for (;;) {
        const { done, value } = await reader.read();
        if (signal.aborted) return;
        if (done) throw new Error("the event stream ended");
        heardAt = this.#options.now();
        limitMs = 2 * this.#beatMs;
        for (const { data, id } of parser.push(decoder.decode(value, { stream: true }))) {
          if (!this.#takeEvent(lane, data, id)) return;
        }
        await lane.window?.room();
        heardAt = this.#options.now();
      }
    } finally {
      disarm();
    }
  }

  /** Answers whether the stream goes on. */
  #takeEvent(lane: Lane, data: string, id: string): boolean {
    const frame = parseServerFrame(data);
    if (frame === "unknown") return true;
    if (frame === "malformed") {
      this.#listener.malformed(data);
      return false;
    }
    this.#hand(lane, frame, id.includes(".") ? id : null);
    if (lane.done) lane.abort();
    return !lane.done && !this.#over;
  }
}
