/**
 * Reads `text/event-stream` as the HTML standard says (section 9.2.6), from pieces cut anywhere.
 *
 * Owns: what is left of a piece, the event being read, the last id. Does not own: decoding of bytes, reconnecting.
 */
import { MillraceError } from "@millrace/schemas";

export interface StreamEvent {
  readonly type: string;
  readonly data: string;
  /** The last id that was sent, with this event or before it. */
  readonly id: string;
}

/** A frame has at most one commit beyond 64 KiB, which has at most 1 MiB: more is no stream of ours. */
const eventCharsMax = 8 * 1_024 * 1_024;

export class EventStreamParser {
  #rest = "";
  #begun = false;
  /** The last piece ended with CR: an LF at the begin of the next belongs to it. */
  #afterReturn = false;
  #type = "";
  #data: string[] = [];
  #dataChars = 0;
  #id = "";
  /** Milliseconds that the server asks to wait before the next request; `null` if it did not. */
  retryMs: number | null = null;

  /** The events that are complete with this piece; `frame_too_large` when one does not end. */
  push(piece: string): StreamEvent[] {
    let text = piece;
    if (text === "") return [];
    if (!this.#begun) {
      this.#begun = true;
      if (text.startsWith("\uFEFF")) text = text.slice(1);
    }
    if (this.#afterReturn && text.startsWith("\n")) text = text.slice(1);
    this.#afterReturn = piece.endsWith("\r");
    const lines = (this.#rest + text).split(/\r\n|\r|\n/);
    this.#rest = lines.pop() ?? "";
    const events: StreamEvent[] = [];
    for (const line of lines) this.#take(line, events);
    if (this.#rest.length + this.#dataChars > eventCharsMax) {
      throw new MillraceError(
        "frame_too_large",
        `Event stream given up: one event has more than ${eventCharsMax} characters. Is this a Millrace stream?`,
        { details: { limit: eventCharsMax } },
      );
    }
    return events;
  }

  #take(line: string, events: StreamEvent[]): void {
    if (line === "") {
      if (this.#data.length > 0) {
        events.push({ type: this.#type || "message", data: this.#data.join("\n"), id: this.#id });
      }
      this.#type = "";
      this.#data = [];
      this.#dataChars = 0;
      return;
    }
    const colon = line.indexOf(":");
    const field = colon === -1 ? line : line.slice(0, colon);
    const value = colon === -1 ? "" : line.slice(colon + (line[colon + 1] === " " ? 2 : 1));
    switch (field) {
      case "data":
        this.#data.push(value);
        this.#dataChars += value.length;
        return;
      case "event":
        this.#type = value;
        return;
      case "id":
        if (!value.includes("\0")) this.#id = value;
        return;
      case "retry":
        if (/^[0-9]+$/.test(value)) this.retryMs = Number(value);
        return;
      default:
        // A comment (empty field name), or a field of a newer standard.
        return;
    }
  }
}
