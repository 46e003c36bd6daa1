import { isWhole, type EncodedFrame, type Entry } from "./entry.ts";
import type { Subscription } from "./subscription.ts";

/**
 * The frames of one broadcast, each text made once. Subscribers differ only in how many of the rows are sent whole:
 * a row goes whole to those who began after the run's commit before, so the number says which. Mostly it is none.
 */
export class FrameVariants {
  readonly #entries: readonly Entry[];
  readonly #encode: (began: number) => readonly EncodedFrame[] | null;
  readonly #byWhole: (readonly EncodedFrame[] | null | undefined)[] = [];
  /** The greatest and least base of the rows: outside, nothing is to be counted. */
  readonly #baseMax: number;
  readonly #baseMin: number;

  constructor(entries: readonly Entry[], encode: (began: number) => readonly EncodedFrame[] | null) {
    this.#entries = entries;
    this.#encode = encode;
    let [min, max] = [Infinity, -1];
    for (const { step } of entries) {
      if (step === null) continue;
      min = Math.min(min, step.base);
      max = Math.max(max, step.base);
    }
    this.#baseMin = min;
    this.#baseMax = max;
  }

  /** Null: they cannot be encoded. */
  of({ began }: Subscription): readonly EncodedFrame[] | null {
    const whole = this.#wholeOf(began);
    let frames = this.#byWhole[whole];
    if (frames === undefined) {
      frames = this.#encode(began);
      this.#byWhole[whole] = frames;
    }
    return frames;
  }

  #wholeOf(began: number): number {
    if (began < this.#baseMin || this.#baseMax < 0) return 0;
    if (began >= this.#baseMax) return this.#entries.length;
    let whole = 0;
    for (const entry of this.#entries) if (isWhole(entry, began)) whole++;
    return whole;
  }
}
