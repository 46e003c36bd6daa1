/**
 * One subscription over HTTP: its requests follow each other, each from where the one before ended.
 *
 * Owns: the cursor of what was handed on, the chain's translation to the wire ids of the connection. Does not own:
 * when a request is made (`http-transport.ts`), the judgement of the chain (`subscription-machine.ts`).
 */
import { parseCursor, type ServerFrame, type SubscribeFrame } from "@millrace/schemas";
import type { ReceivedFrame } from "../transport.ts";
import { SendWindow } from "./send-window.ts";

export class Lane {
  readonly sub: SubscribeFrame;
  readonly window: SendWindow | undefined;
  /** Everything up to here was handed on; `null` before a first position is known. */
  cursor: string | null;
  /** The connection was told that the subscription stands. */
  accepted = false;
  live = false;
  /** The subscription is over: no further request. */
  done = false;
  /** The connection is being tested: the next request must be answered at once. */
  hurried = false;
  #request: AbortController | undefined;

  constructor(sub: SubscribeFrame) {
    this.sub = sub;
    this.window = sub.window === undefined ? undefined : new SendWindow(sub.window);
    const { from = "now" } = sub;
    this.cursor = from.includes(".") ? from : null;
  }

  get id(): number {
    return this.sub.i;
  }

  begin(): AbortSignal {
    this.#request = new AbortController();
    return this.#request.signal;
  }

  /** Ends the present request; nothing of it is handed on any more. */
  abort(): void {
    this.#request?.abort();
    this.#request = undefined;
    this.window?.release();
  }

  end(): void {
    this.done = true;
    this.abort();
  }

  /** A frame of a request as the connection knows it; `undefined` when it says nothing new. */
  translate(frame: ServerFrame, cursor: string | null): ReceivedFrame | undefined {
    const translated = this.#translate(frame);
    // A heartbeat moves the cursor only of who is live and missed nothing: that is for the subscription to judge.
    if (cursor !== null && frame.t !== "hb") this.cursor = cursor;
    return translated;
  }

  #translate(frame: ServerFrame): ReceivedFrame | undefined {
    const { id } = this;
    switch (frame.t) {
      case "welcome":
        return undefined;
      case "subbed": {
        // A request that goes on where another ended.
        if (this.accepted) return { t: "pong" };
        this.accepted = true;
        const e = this.cursor === null ? undefined : parseCursor(this.cursor).epoch;
        return { ...frame, i: id, f: id, ...(e === undefined ? {} : { e }) };
      }
      case "ev":
        this.window?.sent(frame.s, frame.d.length);
        return { ...frame, f: id };
      case "bm":
        return { ...frame, f: id };
      case "hb": {
        const [first] = frame.l;
        return { t: "hb", s: frame.s, l: first === undefined ? [] : [[id, first[1]]] };
      }
      case "bye":
      case "pong":
        return frame;
      case "end":
      case "gone":
      case "err":
        this.done = true;
        return { ...frame, i: id };
      case "live":
        this.live = true;
        return { ...frame, i: id };
      case "behind":
      case "snap":
      case "snapend":
        return { ...frame, i: id };
    }
  }
}
