/**
 * The newest commits, in memory, bounded by count and bytes.
 *
 * Owns: what the process last heard from the log. Does not own: how it got there, or who wants it.
 *
 * I1 It holds every commit of the log in `[from, head]`, in order; sequences may have holes.
 * I2 `head` never goes back except by `reset`.
 * I3 A page never skips: everything in `(after, upTo]` that can match is in it.
 *
 * Tested by `commit-ring.prop.test.ts` (against a plain array) and `seam.sim.test.ts`.
 */
import { matchesRun, type Filter } from "@millrace/schemas";
import type { RunCommit } from "./run-commit.ts";

export interface RingLimits {
  readonly commitsMax: number;
  readonly bytesMax: number;
}

export interface CommitPage {
  /** Commits whose run matches, in order. Event types are for the reader. */
  readonly commits: readonly RunCommit[];
  /** Everything up to here whose run matches is in `commits`. */
  readonly upTo: number;
}

/** What a commit costs: its decoded events, their encoded entries (kept once somebody asked), and objects around. */
const costOf = ({ bytes }: RunCommit) => 3 * bytes + 512;

export class CommitRing {
  readonly #limits: RingLimits;
  #items: RunCommit[] = [];
  #start = 0;
  #bytes = 0;
  #head: number;
  #from: number;
  readonly #byRun = new Map<string, RunCommit[]>();
  #pages = 0;

  constructor(limits: RingLimits, head: number) {
    this.#limits = limits;
    this.#head = head;
    this.#from = head + 1;
  }

  /** Sequence of the newest commit heard of. */
  get head(): number {
    return this.#head;
  }

  /** The first sequence that the ring answers for. */
  get from(): number {
    return this.#from;
  }

  get count(): number {
    return this.#items.length - this.#start;
  }

  get bytes(): number {
    return this.#bytes;
  }

  /** Pages read so far. */
  get pages(): number {
    return this.#pages;
  }

  /** Time of the oldest commit held; null when empty. */
  get oldestAt(): number | null {
    return this.#items[this.#start]?.at ?? null;
  }

  /** Forgets everything: another log, or a tail that begins anew at `head`. */
  reset(head: number): void {
    this.#items = [];
    this.#start = 0;
    this.#bytes = 0;
    this.#byRun.clear();
    this.#head = head;
    this.#from = head + 1;
  }

  /** False when the sequence is not beyond the head (the consumer was recreated): nothing is changed then. */
  push(commit: RunCommit): boolean {
    if (commit.sequence <= this.#head) return false;
    this.#items.push(commit);
    this.#head = commit.sequence;
    this.#bytes += costOf(commit);
    const run = this.#byRun.get(commit.workflowId);
    if (run === undefined) this.#byRun.set(commit.workflowId, [commit]);
    else run.push(commit);
    while (this.count > this.#limits.commitsMax || this.#bytes > this.#limits.bytesMax) this.#evict();
    return true;
  }

  /** The next commits after a sequence. Only for `after >= from - 1`. */
  page(after: number, filter: Filter, commitsMax: number, bytesMax: number): CommitPage {
    this.#pages++;
    const found =
      filter.workflow === undefined
        ? this.#scan(after, filter, commitsMax, bytesMax)
        : take(this.#ofRuns(new Set(filter.workflow), after, filter), commitsMax, bytesMax);
    return { commits: found.commits, upTo: found.cutAt ?? this.#head };
  }

  /** Time of the oldest commit held beyond a sequence; null when there is none. */
  oldestBeyond(sequence: number): number | null {
    return this.#items[firstAfter(this.#items, this.#start, sequence)]?.at ?? null;
  }

  /** A run's commits in `(after, upTo]`. */
  ofRun(workflowId: string, after: number, upTo: number): readonly RunCommit[] {
    const run = this.#byRun.get(workflowId) ?? [];
    return run.slice(firstAfter(run, 0, after), firstAfter(run, 0, upTo));
  }

  /** The commit before this one of the same run; null when the ring has none. */
  previousOf({ workflowId, sequence }: RunCommit): RunCommit | null {
    const run = this.#byRun.get(workflowId) ?? [];
    return run[firstAfter(run, 0, sequence - 1) - 1] ?? null;
  }

  #evict(): void {
    const oldest = this.#items[this.#start];
    if (oldest === undefined) return;
    this.#start++;
    this.#bytes -= costOf(oldest);
    this.#from = oldest.sequence + 1;
    const run = this.#byRun.get(oldest.workflowId);
    run?.shift();
    if (run?.length === 0) this.#byRun.delete(oldest.workflowId);
    // Half of the array is dead: move the rest down once, so that the cost per commit stays constant.
    if (this.#start > 1_024 && this.#start * 2 > this.#items.length) {
      this.#items = this.#items.slice(this.#start);
      this.#start = 0;
    }
  }

  #scan(after: number, filter: Filter, commitsMax: number, bytesMax: number): Taken {
    const matching: RunCommit[] = [];
    let bytes = 0;
    for (let i = firstAfter(this.#items, this.#start, after); i < this.#items.length; i++) {
      const commit = this.#items[i];
      if (commit === undefined || !matchesRun(filter, commit.workflowId, commit.type)) continue;
      matching.push(commit);
      bytes += commit.bytes;
      if (matching.length >= commitsMax || bytes >= bytesMax)
        return { commits: matching, cutAt: commit.sequence };
    }
    return { commits: matching, cutAt: null };
  }

  #ofRuns(ids: ReadonlySet<string>, after: number, filter: Filter): RunCommit[] {
    const found: RunCommit[] = [];
    for (const id of ids) {
      const run = this.#byRun.get(id);
      if (run === undefined) continue;
      for (let i = firstAfter(run, 0, after); i < run.length; i++) {
        const commit = run[i];
        if (commit !== undefined && matchesRun(filter, id, commit.type)) found.push(commit);
      }
    }
    return ids.size === 1 ? found : found.sort((a, b) => a.sequence - b.sequence);
  }
}

interface Taken {
  readonly commits: readonly RunCommit[];
  /** Where a limit cut the page; null when it reaches the head. */
  readonly cutAt: number | null;
}

function take(commits: readonly RunCommit[], commitsMax: number, bytesMax: number): Taken {
  let bytes = 0;
  for (const [i, commit] of commits.entries()) {
    bytes += commit.bytes;
    if (i + 1 >= commitsMax || bytes >= bytesMax)
      return { commits: commits.slice(0, i + 1), cutAt: commit.sequence };
  }
  return { commits, cutAt: null };
}

/** Index of the first commit with a sequence above `sequence`, from `start` on. */
function firstAfter(commits: readonly RunCommit[], start: number, sequence: number): number {
  let low = start;
  let high = commits.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((commits[middle]?.sequence ?? Infinity) <= sequence) low = middle + 1;
    else high = middle;
  }
  return low;
}
