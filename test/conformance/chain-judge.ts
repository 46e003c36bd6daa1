/**
 * The client's side of docs/protocol.md for one subscription, as a judge: what a client would forgive (a repeated frame)
 * is a breach here too. It knows nothing of our client and keeps its cursor over any number of connections.
 */
import { shown, type Entry, type Frame, type Row } from "./frame.ts";

export class ChainJudge {
  readonly entries: Entry[] = [];
  /** Each way in which the server broke the rules; empty in good order. */
  readonly breaches: string[] = [];
  /** Of the last snapshot. */
  readonly rows: Row[] = [];
  /** Frames of this subscription, of all connections. */
  readonly frames: Frame[] = [];
  snapshotAt: number | null = null;
  /** Everything up to here was received; null: no position yet. */
  cursor: number | null = null;
  epoch = "";
  f: number | null = null;
  live = false;
  batched = false;
  over: Frame | null = null;
  /** The last frame that ended it on this connection, or refused something. */
  error: Frame | null = null;
  /** Frames that are lost on purpose, as on a bad network: the judge does not see them. */
  lose: (frame: Frame) => boolean = () => false;
  #inSnapshot = false;
  #expectedStart: number | null = null;

  get position(): string {
    return `${this.epoch}.${this.cursor}`;
  }

  get lastSequence(): number {
    return this.entries.at(-1)?.[0] ?? 0;
  }

  /** Before `sub` is sent on a new connection. */
  attach(epoch: string): void {
    this.#expectedStart = this.cursor;
    if (this.cursor !== null && epoch !== this.epoch)
      this.#breach(`the epoch went from ${this.epoch} to ${epoch}`);
    this.epoch = epoch;
    this.f = null;
    this.live = false;
    this.over = null;
    this.#inSnapshot = false;
  }

  take(frame: Frame): void {
    if (this.lose(frame)) return;
    this.frames.push(frame);
    // Of an id that is free: what was refused is not this subscription.
    if (frame.t === "err" && this.over !== null) {
      this.error = frame;
      return;
    }
    if (this.over !== null) {
      this.#breach(`${shown(frame)} after ${shown(this.over)}`);
      return;
    }
    const { t, s = 0 } = frame;
    if (t === "subbed") this.#subbed(frame, s);
    else if (t === "err") {
      this.error = frame;
      if (this.f === null) this.over = frame;
    } else if (t === "gone") this.over = frame;
    else if (this.f === null) this.#breach(`${t} before subbed`);
    else if (t === "snap") {
      if (this.#inSnapshot) this.rows.push(...(frame.rows ?? []));
      else this.#breach("snap outside of a snapshot");
    } else if (t === "snapend") this.#snapend(frame, s);
    else if (this.#inSnapshot) this.#breach(`${t} within a snapshot`);
    else if (t === "ev" || t === "bm") this.#chain(frame, s);
    else if (t === "live" || t === "end") {
      if (this.cursor === null || s > this.cursor) this.#breach(`gap: ${t} at ${s}, cursor ${this.cursor}`);
      this.live = t === "live";
      if (t === "end") this.over = frame;
    } else if (t === "behind") this.live = false;
  }

  /** One pair of a heartbeat's `l`. */
  beat(last: number, s: number): void {
    if (this.cursor === null || last > this.cursor) {
      this.#breach(`gap: a heartbeat names ${last} as sent, cursor ${this.cursor}`);
      return;
    }
    if (last < this.lastSequence)
      this.#breach(
        `a heartbeat names ${last} as the last sent, it was ${this.lastSequence}: a loss would stay hidden`,
      );
    this.cursor = Math.max(this.cursor, s);
  }

  /** One pair of a heartbeat's `w`. */
  waits(sent: number): void {
    if (this.cursor === null || sent > this.cursor)
      this.#breach(`gap: a heartbeat names ${sent} as sent before a full window, cursor ${this.cursor}`);
  }

  /** A heartbeat without this subscription. With a batch it may be held at that moment, and is named by a later one. */
  leftOut(): void {
    if (this.live && !this.batched)
      this.#breach("a heartbeat leaves out a live subscription: a loss would stay hidden");
  }

  #subbed(frame: Frame, s: number): void {
    this.f = frame.f ?? null;
    this.#inSnapshot = frame.mode === "snapshot";
    if (this.#inSnapshot) {
      this.rows.length = 0;
      this.cursor = null;
      return;
    }
    if (this.#expectedStart !== null) {
      if (s !== this.#expectedStart) this.#breach(`subbed at ${s}, asked for ${this.#expectedStart}`);
      if (frame.resumed !== true) this.#breach("subbed with a cursor says that it was not resumed");
    }
    this.cursor = s;
  }

  #snapend(frame: Frame, s: number): void {
    if (!this.#inSnapshot) this.#breach("snapend outside of a snapshot");
    this.#inSnapshot = false;
    this.cursor = this.snapshotAt = s;
    this.epoch = frame.e ?? "";
    for (const { id, sequence } of this.rows)
      if (sequence > s) this.#breach(`the snapshot of ${s} has ${id} as of ${sequence}`);
  }

  #chain(frame: Frame, s: number): void {
    const { p = 0, d = [] } = frame;
    const cursor = this.cursor ?? -1;
    if (p > cursor) this.#breach(`gap: (${p}, ${s}], cursor ${cursor}`);
    if (s <= cursor) {
      this.#breach(`repeat: (${p}, ${s}], cursor ${cursor}`);
      return;
    }
    let before = p;
    for (const entry of d) {
      const [sequence] = entry;
      if (sequence <= p || sequence > s) this.#breach(`entry ${sequence} is outside of (${p}, ${s}]`);
      if (sequence < before) this.#breach(`order: ${sequence} after ${before}`);
      before = sequence;
      if (sequence <= cursor) this.#breach(`repeat: entry ${sequence}, cursor ${cursor}`);
      else this.entries.push(entry);
    }
    this.cursor = s;
  }

  #breach(text: string): void {
    this.breaches.push(text);
  }
}
