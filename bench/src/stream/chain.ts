/**
 * One subscription of `millrace.v1` as its client sees it: the cursor, and what came. Frames are read from their
 * bytes, since parsing all of them as JSON would measure the driver. Payloads of the benchmark have no `[`, so each
 * one in `d` opens an entry.
 */

const digit0 = 0x30;
const bracket = 0x5b;
const letterE = 0x65;
const letterV = 0x76;
/** `{"t":"ev","f":` */
const fAt = 14;

export class Chain {
  cursor = 0;
  /** Entries received. */
  count = 0;
  /** Over the sequences received, in order: equal to {@link hashOf} of what should have come. */
  hash = 0;
  /** Entries at or below what was received before. */
  duplicates = 0;
  /** Frames that began beyond the cursor. */
  breaks = 0;
  /** Where the subscription began; what is at or below was never promised. */
  start = -1;
  live = false;
  epoch = "";
  /** Set when the server refuses or ends the subscription: nothing more will come. */
  refused: string | null = null;
  #last = 0;

  /** Takes one frame of this subscription; gives the number of its new entries. */
  take(bytes: Buffer, start: number, end: number): number {
    const first = bytes[start + 6];
    if (first !== letterE || bytes[start + 7] !== letterV) {
      this.#control(JSON.parse(bytes.toString("utf8", start, end)) as Record<string, unknown>);
      return 0;
    }
    let at = start + fAt;
    while (isDigit(bytes[at])) at++;
    // `,"p":`
    at += 5;
    let p = 0;
    for (; isDigit(bytes[at]); at++) p = p * 10 + ((bytes[at] ?? 0) - digit0);
    at += 5;
    let s = 0;
    for (; isDigit(bytes[at]); at++) s = s * 10 + ((bytes[at] ?? 0) - digit0);
    if (p > this.cursor) this.breaks++;
    // `,"d":[`
    at += 6;
    let entries = 0;
    for (at = bytes.indexOf(bracket, at); at !== -1 && at < end; at = bytes.indexOf(bracket, at)) {
      let sequence = 0;
      for (at++; isDigit(bytes[at]); at++) sequence = sequence * 10 + ((bytes[at] ?? 0) - digit0);
      if (sequence <= this.#last) this.duplicates++;
      else {
        this.#last = sequence;
        this.count++;
        this.hash = mix(this.hash, sequence);
        entries++;
      }
    }
    if (entries === 0) this.duplicates++;
    this.cursor = Math.max(this.cursor, s);
    return entries;
  }

  #control(frame: Record<string, unknown>): void {
    const s = Number(frame["s"] ?? 0);
    switch (frame["t"]) {
      case "welcome":
        this.epoch = String(frame["e"]);
        return;
      case "subbed":
        if (this.start === -1) {
          this.start = s;
          this.cursor = s;
          this.#last = s;
        }
        return;
      case "live":
        if (s > this.cursor) this.breaks++;
        this.live = true;
        return;
      case "behind":
        this.live = false;
        return;
      case "bm":
        if (Number(frame["p"]) > this.cursor) this.breaks++;
        this.cursor = Math.max(this.cursor, s);
        return;
      case "hb":
        for (const [, last] of frame["l"] as [number, number][]) {
          if (last > this.cursor) this.breaks++;
          this.cursor = Math.max(this.cursor, s);
        }
        return;
      case "err":
      case "gone":
      case "end":
        this.refused = JSON.stringify(frame);
        return;
      default:
        return;
    }
  }
}

/** What a chain's `hash` is after these sequences. */
export function hashOf(sequences: readonly number[]): number {
  let hash = 0;
  for (const sequence of sequences) hash = mix(hash, sequence);
  return hash;
}

function mix(hash: number, sequence: number): number {
  return (Math.imul(hash, 31) + sequence) | 0;
}

function isDigit(byte: number | undefined): boolean {
  return byte !== undefined && byte >= digit0 && byte < digit0 + 10;
}
