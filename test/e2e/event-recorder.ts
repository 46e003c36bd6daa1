/** A client that follows a filter and keeps what it got and, as a page or service would, its cursor. */
import {
  createClient,
  type Client,
  type ClientOptions,
  type Filter,
  type Subscribed,
} from "@millrace/client";
import { WebSocket } from "ws";
import { eventLine } from "./read-log.ts";
import { Signal } from "./signal.ts";

export class EventRecorder {
  readonly received: string[] = [];
  readonly filter: Filter;
  /** Chain breaks, over all clients of this recorder. */
  gaps = 0;
  reconnects = 0;
  /** Sequence up to which everything was handled. */
  position = 0;
  readonly #options: Omit<ClientOptions, "WebSocket">;
  readonly #changed = new Signal();
  #cursor = "start";
  #error: unknown;
  #open: { readonly client: Client; readonly subscribed: Subscribed } | null = null;

  constructor(options: Omit<ClientOptions, "WebSocket">, filter: Filter) {
    this.#options = options;
    this.filter = filter;
    this.open();
  }

  open(): void {
    const client = createClient({ ...this.#options, WebSocket });
    const subscribed = client.subscribe(this.filter, {
      from: this.#cursor,
      onEvent: ({ sequence, workflowId, type, data }) => {
        this.received.push(eventLine(sequence, workflowId, type, data));
      },
      onCursor: (cursor) => {
        this.#cursor = cursor;
        this.position = Number(cursor.split(".")[1]);
        this.#changed.fire();
      },
      onError: (error) => {
        this.#error = error;
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
    await this.#changed.until(() => this.position >= sequence || this.#error !== undefined);
    if (this.#error !== undefined) throw this.#error;
  }
}
