import type { SourcePage } from "./commit-source.ts";
import type { RunCommit } from "./core/run-commit.ts";

const costOf = ({ bytes }: RunCommit) => 3 * bytes + 512;

/**
 * Pages read lately: clients that resume together ask for the same ones, one turn or one second after each other. A
 * page of the past does not change; only a purge takes from it, hence the short life.
 */
export class SharedPages {
  readonly #bytesMax: number;
  readonly #lifeMs: number;
  /** Oldest first. */
  readonly #pages = new Map<
    string,
    { readonly page: SourcePage; readonly at: number; readonly bytes: number }
  >();
  #bytes = 0;

  constructor(bytesMax: number, lifeMs: number) {
    this.#bytesMax = bytesMax;
    this.#lifeMs = lifeMs;
  }

  get bytes(): number {
    return this.#bytes;
  }

  get(key: string, now: number): SourcePage | null {
    this.expire(now);
    return this.#pages.get(key)?.page ?? null;
  }

  put(key: string, page: SourcePage, now: number): void {
    this.#drop(key);
    const bytes = page.commits.reduce((sum, commit) => sum + costOf(commit), key.length + 128);
    if (bytes > this.#bytesMax) return;
    this.#pages.set(key, { page, at: now, bytes });
    this.#bytes += bytes;
    for (const oldest of this.#pages.keys()) {
      if (this.#bytes <= this.#bytesMax) break;
      this.#drop(oldest);
    }
  }

  clear(): void {
    this.#pages.clear();
    this.#bytes = 0;
  }

  expire(now: number): void {
    for (const [key, { at }] of this.#pages) {
      if (now - at < this.#lifeMs) break;
      this.#drop(key);
    }
  }

  #drop(key: string): void {
    this.#bytes -= this.#pages.get(key)?.bytes ?? 0;
    this.#pages.delete(key);
  }
}
