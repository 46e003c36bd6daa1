/**
 * One connection that speaks `millrace.v1`.
 *
 * Owns: the handshake, the ids of the client's subscriptions, snapshots on their way. Does not own: positions and
 * modes (`core/seam.ts`), the socket.
 *
 * S1 Nothing but `hello` is heard before `hello`; without one in time the socket is closed (4502).
 * S2 An id names one subscription from `sub` until `unsub`, `end`, `gone` or `err`.
 * S3 A frame that cannot be understood closes the socket (4500); one that cannot be granted is answered by `err`.
 */
import {
  ClientFrame,
  closeCodes,
  isMillraceError,
  limits,
  MillraceError,
  parseFilter,
  streamProtocolVersion,
  type Filter,
  type ServerFrame,
  type SubscribeFrame,
} from "@millrace/schemas";
import * as v from "valibot";
import type { Connection } from "./connection.ts";
import type { Outlet, Payload, Subscription } from "./core/subscription.ts";
import type { Session } from "./session.ts";
import type { Snapshot, SnapshotPage } from "./snapshots.ts";
import type { StreamHub } from "./stream-hub.ts";

interface Entry {
  readonly i: number;
  subscription: Subscription | null;
  /** While its rows are being sent. */
  snapshot: Snapshot | null;
}

/** Bounds of the client's backoff after `bye`. */
const byeBackoff = { min: 500, max: 15_000 } as const;
/** The client asks again after so long when the server could not answer now. */
const retryAfterMs = 1_000;

export class StreamSession implements Session, Outlet {
  readonly kind = "millrace.v1";
  readonly connection: Connection;
  readonly outlet: Outlet = this;
  readonly #hub: StreamHub;
  readonly #entries = new Map<number, Entry>();
  readonly #openedAt: number;
  #greeted = false;
  #heartbeatAt: number;

  constructor(hub: StreamHub, connection: Connection, now: number) {
    this.#hub = hub;
    this.connection = connection;
    this.#openedAt = now;
    this.#heartbeatAt = now + hub.settings.heartbeatMs;
    hub.sessions.add(this);
  }

  bufferedBytes(): number {
    return this.connection.bufferedBytes();
  }

  send(payload: Payload): void {
    this.connection.send(payload);
  }

  control(frame: ServerFrame): void {
    if (frame.t === "end" || frame.t === "gone") {
      this.#entries.get(frame.i)?.snapshot?.close();
      this.#entries.delete(frame.i);
    }
    this.connection.send(JSON.stringify(frame));
  }

  /** A message of the client. `text` is null for a binary one. */
  receive(text: string | null, bytes: number): void {
    if (!this.connection.open) return;
    if (bytes > limits.clientFrameBytes) {
      const sizes = `frame of ${bytes} bytes, the limit is ${limits.clientFrameBytes}`;
      this.#close("frameTooBig", `${sizes}: list fewer values, or in several subs`);
      return;
    }
    const raw = text === null ? null : parseJson(text);
    if (raw === null) {
      this.#close(
        "badFrame",
        text === null ? "binary frame: send JSON text" : "frame is no JSON: send one object each",
      );
      return;
    }
    if (raw["t"] === "sub") {
      this.#receiveSubscribe(raw);
      return;
    }
    const parsed = v.safeParse(ClientFrame, raw);
    if (!parsed.success) {
      this.#close(
        "badFrame",
        `frame refused at ${v.getDotPath(parsed.issues[0]) ?? "t"}: ${parsed.issues[0].message}`,
      );
      return;
    }
    const frame = parsed.output;
    if (frame.t === "hello") this.#hello(frame.v);
    else if (!this.#greeted) this.#close("noHello", `"${frame.t}" before "hello": send hello first`);
    else if (frame.t === "unsub") this.#unsubscribe(frame.i);
    else if (frame.t === "ack") this.#acknowledge(frame.i, frame.s);
    else if (frame.t === "ping")
      this.control({ t: "pong", ...(frame.n === undefined ? {} : { n: frame.n }) });
    else if (frame.t === "report") {
      this.#hub.metrics.chainBreaks.inc(frame.breaks);
      this.#hub.metrics.duplicates.inc(frame.duplicates);
      if (frame.breaks > 0) {
        this.#hub.logger.warn(
          { subscription: frame.i, breaks: frame.breaks },
          "A client reports a break in its chain",
        );
      }
    }
  }

  /** The filter is looked at by itself, since a bad one is answered and closes nothing. */
  #receiveSubscribe({ filter: rawFilter, ...raw }: Record<string, unknown>): void {
    const parsed = v.safeParse(ClientFrame, raw);
    if (!parsed.success || parsed.output.t !== "sub") {
      const issue = parsed.issues?.[0];
      const where = issue === undefined ? "t" : (v.getDotPath(issue) ?? "t");
      this.#close("badFrame", `sub refused at ${where}: ${issue?.message ?? "not a sub"}`);
      return;
    }
    const frame = parsed.output;
    if (!this.#greeted) {
      this.#close("noHello", '"sub" before "hello": send hello first');
      return;
    }
    try {
      this.#admissible(frame.i);
      const filter = parseFilter(rawFilter);
      const untilClosed = frame.until === "closed" ? onlyWorkflow(filter) : null;
      const entry: Entry = { i: frame.i, subscription: null, snapshot: null };
      this.#entries.set(frame.i, entry);
      this.#subscribe(entry, frame, filter, untilClosed).catch((error: unknown) => {
        if (this.#entries.get(frame.i) === entry) this.#entries.delete(frame.i);
        this.#refuse(frame.i, error);
      });
    } catch (error) {
      this.#refuse(frame.i, error);
    }
  }

  #admissible(i: number): void {
    const { settings, draining, overloaded, changed } = this.#hub;
    if (this.#entries.has(i)) {
      throw new MillraceError(
        "subscription_exists",
        `Subscription ${i} exists on this socket. Use another id, or send unsub for it first.`,
      );
    }
    if (this.#entries.size >= settings.subscriptionsPerSocket) {
      throw new MillraceError(
        "subscription_limit",
        `Subscription ${i} refused: this socket has ${this.#entries.size}, the limit is ${settings.subscriptionsPerSocket}. ` +
          "Send unsub for one, or list several workflows in one filter.",
        { details: { limit: settings.subscriptionsPerSocket, actual: this.#entries.size } },
      );
    }
    if (draining) throw new MillraceError("draining", "This server is going away. Connect again.");
    if (changed) {
      throw new MillraceError("log_recreated", "The event log was made anew. Connect again.", {
        retryable: true,
      });
    }
    if (overloaded) {
      this.#bye(closeCodes.overloaded);
      throw new MillraceError("overloaded", "Too many bytes wait for slow clients. Connect again later.");
    }
  }

  async #subscribe(
    entry: Entry,
    frame: SubscribeFrame,
    filter: Filter,
    untilClosed: string | null,
  ): Promise<void> {
    const hub = this.#hub;
    const { i } = entry;
    hub.assertServable(filter, frame.shape ?? "events", frame.from);
    const admission = await hub.admit(frame.from, frame.min);
    // Unsubscribed, or disconnected, in the meantime.
    if (this.#entries.get(i) !== entry || !this.connection.open) return;
    if (admission.kind === "gone") {
      const { why, epoch, first, head } = admission;
      this.control({ t: "gone", i, why, e: epoch, first, head });
      return;
    }
    const { shape = "events", window, batch } = frame;
    const options = { untilClosed, window, batch };
    const { seam } = hub;
    if (frame.from === "snapshot") {
      const wanted = () => this.#entries.get(i) === entry && this.connection.open;
      const snapshot = await hub.snapshots.open(filter, wanted);
      if (snapshot === null) return;
      if (!wanted()) {
        snapshot.close();
        return;
      }
      const { sequence } = snapshot;
      const subscription = seam.subscribe(this, i, filter, shape, sequence, { ...options, snapshot: true });
      entry.subscription = subscription;
      entry.snapshot = snapshot;
      this.control({
        t: "subbed",
        i,
        f: subscription.topic.f,
        mode: "snapshot",
        s: sequence,
        // The projector may be ahead of the tail.
        head: Math.max(seam.head, sequence),
        resumed: false,
      });
      this.#sendSnapshot(entry);
      return;
    }
    const { position, resumed } = admission;
    const subscription = seam.subscribe(this, i, filter, shape, position, options);
    entry.subscription = subscription;
    const mode = position >= seam.head && hub.following ? "live" : "catchup";
    const head = Math.max(seam.head, position);
    this.control({ t: "subbed", i, f: subscription.topic.f, mode, s: position, head, resumed });
    seam.pump(subscription);
  }

  #sendSnapshot(entry: Entry): void {
    const { snapshot, subscription, i } = entry;
    const { lowBytes, pageBytesMax, pagesPerTurn } = this.#hub.settings;
    if (snapshot === null || subscription === null) return;
    for (let pages = 0; !snapshot.done; pages++) {
      if (this.bufferedBytes() > lowBytes || !this.connection.open) return;
      if (pages >= pagesPerTurn) {
        this.#hub.later(snapshot, () => this.#sendSnapshot(entry));
        return;
      }
      let page: SnapshotPage;
      try {
        page = snapshot.page(pageBytesMax);
      } catch (error) {
        this.#giveUp(entry, error);
        return;
      }
      this.connection.send(
        `{"t":"snap","i":${i},"rows":[${page.rows.join(",")}],"more":${String(page.more)}}`,
      );
    }
    entry.snapshot = null;
    this.control({ t: "snapend", i, e: this.#hub.epoch, s: snapshot.sequence });
    this.#hub.seam.onReady(subscription);
  }

  /** The snapshot cannot be brought to its end, and without it the subscription is none. */
  #giveUp(entry: Entry, error: unknown): void {
    this.#forget(entry);
    this.#refuse(entry.i, error);
  }

  #forget(entry: Entry): void {
    this.#entries.delete(entry.i);
    entry.snapshot?.close();
    entry.snapshot = null;
    if (entry.subscription !== null) this.#hub.seam.unsubscribe(entry.subscription);
  }

  #unsubscribe(i: number): void {
    const entry = this.#entryOf("Unsub of", i);
    if (entry === null) return;
    this.#forget(entry);
  }

  #acknowledge(i: number, sequence: number): void {
    const entry = this.#entryOf("Ack for", i);
    if (entry === null) return;
    const { subscription } = entry;
    let why = "nothing was sent yet";
    if (subscription !== null) {
      if (subscription.window === null) why = "it has no window";
      else if (this.#hub.seam.acknowledge(subscription, sequence)) return;
      else why = `only everything up to ${subscription.pos} was sent`;
    }
    this.#refuse(
      i,
      new MillraceError(
        "invalid_request",
        `Ack of ${sequence} for ${i} refused: ${why}. The subscription goes on. Acknowledge the s of frames, and only with a window.`,
        { details: { sequence, sent: subscription?.pos ?? null } },
      ),
    );
  }

  #entryOf(what: string, i: number): Entry | null {
    const entry = this.#entries.get(i);
    if (entry !== undefined) return entry;
    this.#refuse(
      i,
      new MillraceError(
        "subscription_unknown",
        `${what} ${i} refused: this socket has no such subscription. It may have ended (end, gone or err): then there is nothing to undo. Send sub to begin anew.`,
      ),
    );
    return null;
  }

  #hello(version: number): void {
    if (this.#greeted) {
      this.#close("badFrame", "hello was said before");
      return;
    }
    if (version !== streamProtocolVersion) {
      const message = `Protocol version ${version} is not spoken here: this server speaks ${streamProtocolVersion}. Update the client or the server.`;
      this.control({ t: "err", code: "protocol_version", msg: message, retry: false, after: 0 });
      this.#close("version", message);
      return;
    }
    this.#greeted = true;
    const { settings, seam, epoch, firstSequence } = this.#hub;
    this.control({
      t: "welcome",
      v: streamProtocolVersion,
      node: settings.node,
      e: epoch,
      first: firstSequence,
      head: seam.head,
      hb: settings.heartbeatMs,
      limits: { subs: settings.subscriptionsPerSocket, frame: limits.clientFrameBytes },
    });
  }

  #refuse(i: number, error: unknown): void {
    const known = isMillraceError(error);
    if (!known) this.#hub.logger.error({ err: error, subscription: i }, "A subscription failed");
    const retry = !known || error.retryable;
    this.control({
      t: "err",
      i,
      code: known ? error.code : "internal",
      msg: known ? error.message : "The server failed on this subscription; its log says why. Try again.",
      retry,
      after: retry ? afterMs(error) : 0,
    });
  }

  /** Called when the network has taken bytes, and by the timer. */
  pump(): void {
    if (this.bufferedBytes() > this.#hub.settings.lowBytes) return;
    for (const entry of this.#entries.values()) if (entry.snapshot !== null) this.#sendSnapshot(entry);
    this.#hub.seam.pumpAll(this);
  }

  tick(now: number): void {
    const { settings, seam } = this.#hub;
    if (!this.#greeted) {
      if (now - this.#openedAt >= settings.helloTimeoutMs) {
        this.#close("noHello", `no hello within ${settings.helloTimeoutMs} ms`);
      }
      return;
    }
    for (const entry of [...this.#entries.values()]) {
      if (entry.snapshot?.late(now) === true) this.#giveUp(entry, snapshotLate(entry.i, settings.snapshotMs));
    }
    this.pump();
    if (now < this.#heartbeatAt) return;
    this.#heartbeatAt = now + settings.heartbeatMs;
    // A backlog is life enough, and a heartbeat behind it would come late.
    if (this.bufferedBytes() <= settings.highBytes) this.control(seam.heartbeat(this));
  }

  drain(): void {
    this.#bye(closeCodes.draining);
  }

  #bye(code: number): void {
    this.control({ t: "bye", code, ...byeBackoff });
    this.connection.close(code, code === closeCodes.draining ? "draining" : "overloaded");
  }

  /** The socket is closed. */
  closed(): void {
    this.connection.closed();
    this.#hub.sessions.delete(this);
    for (const entry of this.#entries.values()) entry.snapshot?.close();
    this.#entries.clear();
    this.#hub.seam.disconnect(this);
  }

  #close(why: keyof typeof closeCodes, reason: string): void {
    this.connection.close(closeCodes[why], reason);
  }
}

function snapshotLate(i: number, limitMs: number): MillraceError {
  return new MillraceError(
    "timeout",
    `Snapshot of subscription ${i} given up: its rows were not taken within ${limitMs} ms, for which one moment of the ` +
      "projection is kept. Narrow the filter, or read faster.",
    { details: { limit: limitMs } },
  );
}

/** Too many at once are told to come back at different times. */
function afterMs(error: unknown): number {
  return isMillraceError(error, "overloaded")
    ? Math.round(retryAfterMs * (1 + 4 * Math.random()))
    : retryAfterMs;
}

function onlyWorkflow(filter: Filter): string {
  const ids = new Set(filter.workflow);
  const [id] = ids;
  if (id !== undefined && ids.size === 1) return id;
  throw new MillraceError(
    "filter_invalid",
    `until: "closed" refused: it needs a filter of exactly one workflow, this one has ${ids.size}. Give filter.workflow one id.`,
    { details: { limit: 1, actual: ids.size } },
  );
}

function parseJson(text: string): Record<string, unknown> | null {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "object" && value !== null && !Array.isArray(value)
      ? (value as Record<string, unknown>)
      : null;
  } catch {
    // Not JSON: the caller closes the socket and says so.
    return null;
  }
}
