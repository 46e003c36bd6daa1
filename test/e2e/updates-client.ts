/** The seed's plain client: a WebSocket on one workflow's updates, one JSON object a frame. */
import { WebSocket } from "ws";
import type { WorkflowUpdate } from "@millrace/schemas";
import { within } from "./deadline.ts";
import { Signal } from "./signal.ts";

export class UpdatesClient {
  readonly updates: WorkflowUpdate[] = [];
  /** When each came: this machine's time, milliseconds since 1970. */
  readonly receivedAt: number[] = [];
  /** The frames as they came. */
  readonly frames: string[] = [];
  pongs = 0;
  closed: { readonly code: number; readonly reason: string } | null = null;
  readonly #socket: WebSocket;
  readonly #changed = new Signal();

  private constructor(socket: WebSocket) {
    this.#socket = socket;
    socket.on("message", (data: Buffer) => {
      this.receivedAt.push(Date.now());
      const text = data.toString();
      this.frames.push(text);
      this.updates.push(JSON.parse(text) as WorkflowUpdate);
      this.#changed.fire();
    });
    socket.on("pong", () => {
      this.pongs++;
      this.#changed.fire();
    });
    socket.on("close", (code, reason) => {
      this.closed = { code, reason: reason.toString() };
      this.#changed.fire();
    });
  }

  /** `url`: that of the server. `from`: updates after this sequence instead of the present one first. */
  static async open(url: string, workflowId: string, from?: number): Promise<UpdatesClient> {
    const query = from === undefined ? "" : `?from=${from}`;
    const socket = new WebSocket(`${url.replace("http", "ws")}/api/workflows/${workflowId}/updates${query}`);
    const client = new UpdatesClient(socket);
    await new Promise<void>((resolve, reject) => {
      socket.once("open", resolve);
      socket.once("error", reject);
    });
    // Errors after this are followed by a close, which is kept.
    socket.on("error", () => undefined);
    return client;
  }

  get sequences(): number[] {
    return this.updates.map(({ sequence }) => sequence);
  }

  async until(what: string, holds: (client: this) => boolean, deadlineMs = 20_000): Promise<void> {
    const shown = () =>
      `${what}; last of ${this.updates.length}: ${this.frames.at(-1)}; closed ${JSON.stringify(this.closed)}`;
    await within(
      shown,
      deadlineMs,
      this.#changed.until(() => holds(this)),
    );
  }

  async untilStatus(status: string): Promise<void> {
    await this.until(`status ${status}`, ({ updates }) => updates.at(-1)?.status === status);
  }

  ping(): void {
    this.#socket.ping();
  }

  close(): void {
    this.#socket.close();
  }

  /** Gone without a word. */
  cut(): void {
    this.#socket.terminate();
  }
}
