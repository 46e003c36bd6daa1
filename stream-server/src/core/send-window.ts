/**
 * How much a subscription may be sent before its client says that it has handled it.
 *
 * W1 `unacknowledged` is the number of entries in frames sent that lie beyond the last acknowledged sequence.
 * W2 An acknowledgement is cumulative and never moves anything back: late and repeated ones change nothing.
 *
 * Tested by `send-window.prop.test.ts` against a plain list, and by `seam.sim.test.ts`.
 */

/** Sequence and number of entries of each commit in a frame, one after the other: shared by all who are sent it. */
export type Marks = readonly number[];

export class SendWindow {
  readonly size: number;
  #unacknowledged = 0;
  /** Frames of which not all is acknowledged are those from `#first` on; of that one, the marks from `#at` on. */
  #sent: Marks[] = [];
  #first = 0;
  #at = 0;

  constructor(size: number) {
    this.size = size;
  }

  get unacknowledged(): number {
    return this.#unacknowledged;
  }

  /** How many more may be sent. */
  get room(): number {
    return Math.max(0, this.size - this.#unacknowledged);
  }

  get full(): boolean {
    return this.#unacknowledged >= this.size;
  }

  sent(marks: Marks): void {
    // Half of the list is done with: let it go, so that a window that is never empty does not grow.
    if (this.#first > 64 && this.#first * 2 > this.#sent.length) {
      this.#sent = this.#sent.slice(this.#first);
      this.#first = 0;
    }
    this.#sent.push(marks);
    for (let n = 1; n < marks.length; n += 2) this.#unacknowledged += marks[n] ?? 0;
  }

  acknowledge(sequence: number): void {
    for (;;) {
      const frame = this.#sent[this.#first];
      if (frame === undefined) break;
      for (; this.#at < frame.length; this.#at += 2) {
        if ((frame[this.#at] ?? 0) > sequence) return;
        this.#unacknowledged -= frame[this.#at + 1] ?? 0;
      }
      this.#first++;
      this.#at = 0;
    }
    this.#sent = [];
    this.#first = 0;
  }
}
