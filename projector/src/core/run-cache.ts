import { isClosed } from "@millrace/schemas";
import type { FoldedRun } from "./folded-run.ts";

export interface RunCacheLimits {
  readonly runsMax: number;
  readonly bytesMax: number;
}

/**
 * Runs that were folded lately, so that a hot run is not read again from the tables. Least recently used first out,
 * but only in `settle`: a run with unwritten changes must not be forgotten.
 */
export class RunCache {
  readonly #limits: RunCacheLimits;
  /** Least recently used first, with the bytes that `#bytes` counts for it. */
  readonly #runs = new Map<string, { readonly run: FoldedRun; bytes: number }>();
  #bytes = 0;

  constructor(limits: RunCacheLimits) {
    this.#limits = limits;
  }

  get(id: string): FoldedRun | undefined {
    return this.#runs.get(id)?.run;
  }

  /** Keeps the run, as the most recently used. */
  keep(run: FoldedRun): void {
    this.#forget(run.state.id);
    this.#runs.set(run.state.id, { run, bytes: run.bytes });
    this.#bytes += run.bytes;
  }

  /** Once the changes of `written` are stored: forgets closed runs, then the oldest ones beyond the limits. */
  settle(written: Iterable<FoldedRun>): void {
    for (const run of written) {
      // Little comes after the end of a run; what does is read again.
      if (isClosed(run.state.status)) this.#forget(run.state.id);
    }
    for (const id of this.#runs.keys()) {
      if (this.#runs.size <= this.#limits.runsMax && this.#bytes <= this.#limits.bytesMax) return;
      this.#forget(id);
    }
  }

  #forget(id: string): void {
    const entry = this.#runs.get(id);
    if (entry === undefined) return;
    this.#runs.delete(id);
    this.#bytes -= entry.bytes;
  }
}
