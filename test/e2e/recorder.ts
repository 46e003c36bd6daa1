/** A client that follows a filter and keeps what it got and, as a page or service would, its cursor. */
import {
  createClient,
  type Client,
  type ClientOptions,
  type Filter,
  type Subscribed,
} from "@millrace/client";
import type { WorkflowRow } from "@millrace/schemas";
import { WebSocket } from "ws";
import { eventLine, stateLine } from "./read-log.ts";
import { Signal } from "./signal.ts";

export interface Follows {
  readonly filter: Filter;
  /** Default: `events`. */
  readonly shape?: "events" | "state";
  /** Default: `start`. */
  readonly from?: "start" | "snapshot";
}

export class Recorder {
  readonly received: string[] = [];
  readonly follows: Follows;
  /** With `from: "snapshot"`: its rows, exact at `snapshotAt`. */
  readonly snapshot: WorkflowRow[] = [];
  snapshotAt = 0;
  /** Chain breaks, over all clients of this recorder; those of an open one come with its `close`. */
  gaps = 0;
  reconnects = 0;
  /** Sequence up to which everything was handled. */
  position = 0;
  readonly #options: Omit<ClientOptions, "WebSocket">;
  readonly #changed = new Signal();
  #cursor: string;
  #error: Error | null = null;
  #open: { readonly client: Client; readonly subscribed: Subscribed } | null = null;

  constructor(options: Omit<ClientOptions, "WebSocket">, follows: Follows) {
    this.#options = options;
    this.follows = follows;
    this.#cursor = follows.from ?? "start";
    this.open();
  }

  open(): void {
    const client = createClient({ ...this.#options, WebSocket });
    const { filter, shape = "events" } = this.follows;
    const subscribed = client.subscribe(filter, {
      from: this.#cursor,
      shape,
      onEvent: ({ sequence, workflowId, type, data }) => {
        this.received.push(eventLine(sequence, workflowId, type, data));
      },
      onState: ({ sequence, workflowId, row }) => {
        this.received.push(stateLine(sequence, workflowId, row));
      },
      onSnapshot: ({ rows, first, cursor }) => {
        if (first) this.snapshot.length = 0;
        this.snapshot.push(...rows);
        if (cursor !== null) this.snapshotAt = sequenceOf(cursor);
      },
      onCursor: (cursor) => {
        this.#cursor = cursor;
        this.position = sequenceOf(cursor);
        this.#changed.fire();
      },
      onError: (error) => {
        this.#error = error instanceof Error ? error : new Error(String(error));
        this.#changed.fire();
      },
    });
    this.#open = { client, subscribed };
  }

  /** The program ends; what it has stored is its cursor. */
  close(): void {
    if (this.#open === null) return;
    const { client, subscribed } = this.#open;
    subscribed.close();
    this.gaps += client.stats.gaps;
    this.reconnects += client.stats.reconnects;
    client.close();
    this.#open = null;
  }

  /** Resolves once everything up to `sequence` was handled. */
  async until(sequence: number): Promise<void> {
    await this.#changed.until(() => this.position >= sequence || this.#error !== null);
    if (this.#error !== null) throw this.#error;
  }
}

function sequenceOf(cursor: string): number {
  return Number(cursor.split(".")[1]);
}
