/**
 * Histories of single runs, read from the log: what states are folded from on a node without a projection.
 *
 * Owns: histories read lately, bounded by bytes. Does not own: the ring, who asks.
 *
 * R1 `reach` says up to where a history is whole; a state as of a sequence beyond it is never given.
 * R2 A run whose beginning was purged has no state: `cursor_expired`, never one folded from the middle.
 *
 * Tested by `broker-source.sqlite.test.ts`.
 */
import type { EventLog } from "@millrace/event-log";
import {
  attributesAfter,
  evolveCommit,
  initialRunState,
  MillraceError,
  noAttributes,
  scheduleType,
  type Attributes,
  type RunState,
} from "@millrace/schemas";
import type { AttributeSource } from "./core/run-attributes.ts";
import type { RunCommit } from "./core/run-commit.ts";
import type { StateSource } from "./core/run-folds.ts";

interface History {
  readonly reach: number;
  readonly commits: readonly RunCommit[];
  readonly bytes: number;
}

/** Kept together, in bytes of memory; a commit costs what it costs in the ring. */
const bytesMax = 64 * 1_048_576;
const costOf = ({ bytes }: RunCommit) => 3 * bytes + 512;
/** Histories read beside each other, for all subscriptions together. */
const readsMax = 8;

export class RunHistories implements StateSource, AttributeSource {
  readonly #log: EventLog;
  /** Least recently read first. */
  readonly #histories = new Map<string, History>();
  readonly #reading = new Map<string, Promise<void>>();
  #bytes = 0;
  #running = 0;
  readonly #line: (() => void)[] = [];

  constructor(log: EventLog) {
    this.#log = log;
  }

  get bytes(): number {
    return this.#bytes;
  }

  /** Forgets all of them; who needs one reads it again. */
  letGo(): void {
    this.#histories.clear();
    this.#bytes = 0;
  }

  /** Up to where all of these are whole. */
  reach(ids: readonly string[]): number {
    return Math.min(...ids.map((id) => this.checkpointSequence(id)));
  }

  /** Makes these whole up to `upTo`, which the log must have reached. Identical reads are shared. */
  async load(ids: readonly string[], upTo: number): Promise<void> {
    await Promise.all(
      [...new Set(ids)].map(async (id) => {
        while (this.checkpointSequence(id) < upTo) {
          let reading = this.#reading.get(id);
          if (reading === undefined) {
            reading = this.#read(id, upTo).finally(() => this.#reading.delete(id));
            this.#reading.set(id, reading);
          }
          await reading;
        }
      }),
    );
  }

  checkpointSequence(workflowId: string): number {
    return this.#histories.get(workflowId)?.reach ?? 0;
  }

  state(workflowId: string): RunState | null {
    return this.stateAt(workflowId, Infinity);
  }

  stateAt(workflowId: string, sequence: number): RunState | null {
    const commits = this.#histories.get(workflowId)?.commits ?? [];
    const [first] = commits;
    if (first === undefined || first.sequence > sequence) return null;
    const state = initialRunState(workflowId, first.type);
    for (const commit of commits) if (commit.sequence <= sequence) evolveCommit(state, commit);
    return state;
  }

  attributesAt(workflowId: string, sequence: number): Attributes {
    let attributes = noAttributes;
    for (const commit of this.#histories.get(workflowId)?.commits ?? [])
      if (commit.sequence <= sequence) attributes = attributesAfter(attributes, commit.events);
    return attributes;
  }

  async #read(id: string, upTo: number): Promise<void> {
    if (this.#running >= readsMax) await new Promise<void>((resolve) => this.#line.push(resolve));
    this.#running++;
    try {
      const commits: RunCommit[] = [];
      for (const { sequence, workflowId, type, at, condition, events, body } of await this.#log.load(id))
        commits.push({ sequence, workflowId, type, at, condition, events, bytes: body.length });
      const [first] = commits;
      if (first !== undefined && first.type !== scheduleType && first.events[0]?.type !== "WorkflowStarted") {
        throw new MillraceError(
          "cursor_expired",
          `The state of ${id} cannot be folded: the log's first commit of it is ${first.sequence}, which is not its start. ` +
            "Ask a node with a projection.",
          { details: { first: first.sequence } },
        );
      }
      this.#keep(id, { reach: upTo, commits, bytes: commits.reduce((sum, each) => sum + costOf(each), 512) });
    } finally {
      this.#running--;
      this.#line.shift()?.();
    }
  }

  #keep(id: string, history: History): void {
    this.#drop(id);
    this.#histories.set(id, history);
    this.#bytes += history.bytes;
    for (const oldest of this.#histories.keys()) {
      if (this.#bytes <= bytesMax || oldest === id) break;
      this.#drop(oldest);
    }
  }

  #drop(id: string): void {
    this.#bytes -= this.#histories.get(id)?.bytes ?? 0;
    this.#histories.delete(id);
  }
}
