/** mulberry32: small, fast, and the same on every machine. Source: Ettinger, public domain, 2017. */
export class SeededRandom {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  /** In [0, 1). */
  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let mixed = this.#state;
    mixed = Math.imul(mixed ^ (mixed >>> 15), mixed | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  }

  /** An integer from `from` to `to`, both included. */
  between(from: number, to: number): number {
    return from + Math.floor(this.next() * (to - from + 1));
  }

  pick<T>(values: readonly [T, ...T[]]): T {
    return values[this.between(0, values.length - 1)] ?? values[0];
  }

  shuffle<T>(values: readonly T[]): T[] {
    const keyed = values.map((value) => ({ value, key: this.next() }));
    return keyed.toSorted((one, other) => one.key - other.key).map(({ value }) => value);
  }

  /** A generator of its own, so that what one task draws does not depend on how tasks interleave. */
  fork(): SeededRandom {
    return new SeededRandom(this.between(0, 2 ** 32 - 1));
  }
}

/** `MILLRACE_TEST_SEED`, else a new one. Whoever uses it names it in every failure. */
export function testSeed(): number {
  const given = process.env["MILLRACE_TEST_SEED"];
  return given === undefined || given === "" ? Math.floor(Math.random() * 2 ** 32) : Number(given);
}
