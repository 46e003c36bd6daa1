import type { CancelledError } from "./failures.ts";

/**
 * A part of a run that can be cancelled by itself, or that a cancel from outside does not reach. Scopes form a tree;
 * the root is the run. Deterministic: whether a scope is cancelled depends only on what was delivered and called.
 */
export class Scope {
  readonly #parent: Scope | null;
  readonly #shielded: boolean;
  #own: CancelledError | null = null;
  /** Made on first use: most code never looks at its signal. */
  #controller: AbortController | null = null;

  constructor(parent: Scope | null, shielded: boolean) {
    this.#parent = parent;
    this.#shielded = shielded;
  }

  /** Why nothing may be begun or awaited here any more; null while it may. */
  get cancelled(): CancelledError | null {
    return this.#own ?? (this.#shielded ? null : (this.#parent?.cancelled ?? null));
  }

  /** The first reason stands. */
  cancel(error: CancelledError): void {
    this.#own ??= error;
  }

  get signal(): AbortSignal {
    this.#controller ??= new AbortController();
    this.abort();
    return this.#controller.signal;
  }

  /** Tells whoever holds the signal, if it is cancelled by now. */
  abort(): void {
    const { cancelled } = this;
    if (cancelled !== null) this.#controller?.abort(cancelled);
  }
}
