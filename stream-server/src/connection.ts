/**
 * The accounts of one socket: what it was given, what it has taken, when it last moved.
 *
 * C1 Nothing is dropped: a socket that refuses bytes is closed (4006), and its client resumes.
 * C2 After the close nothing touches the socket.
 */
import { closeCodes } from "@millrace/schemas";
import type { Payload } from "./core/subscription.ts";

/** What a WebSocket library must give. `end` calls the close handler, at once or later. */
export interface Socket {
  /** False when the bytes were dropped. */
  send(payload: Payload): boolean;
  bufferedBytes(): number;
  ping(): void;
  end(code: number, reason: string): void;
}

export class Connection {
  readonly #socket: Socket;
  #open = true;
  #sentBytes = 0;
  #takenBytes = 0;
  #movedAt: number;
  /** Of the last ping; its pong has not come while `#awaitsPong`. */
  #pingedAt: number;
  #awaitsPong = false;

  constructor(socket: Socket, now: number) {
    this.#socket = socket;
    this.#movedAt = now;
    this.#pingedAt = now;
  }

  get open(): boolean {
    return this.#open;
  }

  bufferedBytes(): number {
    return this.#open ? this.#socket.bufferedBytes() : 0;
  }

  send(payload: Payload): void {
    if (!this.#open) return;
    this.#sentBytes += payload.length;
    if (!this.#socket.send(payload))
      this.close(closeCodes.internal, "the socket dropped a frame: resume from your cursor");
  }

  ping(now: number): void {
    if (!this.#open) return;
    this.#pingedAt = now;
    this.#awaitsPong = true;
    this.#socket.ping();
  }

  /** How long ago it was opened or pinged, in milliseconds. */
  sincePingMs(now: number): number {
    return now - this.#pingedAt;
  }

  /** A pong came: milliseconds since the ping; null when it answers none of ours. */
  pong(now: number): number | null {
    if (!this.#awaitsPong) return null;
    this.#awaitsPong = false;
    return now - this.#pingedAt;
  }

  close(code: number, reason: string): void {
    if (!this.#open) return;
    this.#open = false;
    this.#socket.end(code, reason);
  }

  /** The socket is closed, by whomever. */
  closed(): void {
    this.#open = false;
  }

  /** How long not one byte has left, although some wait, in milliseconds. To be asked now and then. */
  stuckMs(now: number): number {
    const buffered = this.bufferedBytes();
    const taken = this.#sentBytes - buffered;
    if (buffered === 0 || taken !== this.#takenBytes) {
      this.#takenBytes = taken;
      this.#movedAt = now;
    }
    return now - this.#movedAt;
  }
}
