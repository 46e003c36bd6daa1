/**
 * A WebSocket client on a bare TCP socket: just enough for ten thousand of them in one process. Text and binary
 * frames of the server, whole or split over reads; pings are answered. No extensions unless offered, no
 * fragmented messages (the servers measured here send none).
 */
import { createHash } from "node:crypto";
import { connect, type Socket } from "node:net";

/** The same for all: a load driver has no cache between it and the server that the key must defeat. */
const key = "bWlsbHJhY2UtYmVuY2gtMQ==";
const accept = createHash("sha1").update(`${key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest("base64");

export interface RawHandlers {
  /** A frame's payload is `bytes[start, end)`, valid only during the call. */
  onFrame(bytes: Buffer, start: number, end: number, compressed: boolean): void;
  onOpen?(): void;
  /** The connection ended, from either side. Called once. */
  onClose(): void;
}

export interface RawAddress {
  readonly port: number;
  readonly path: string;
  readonly subprotocol?: string;
  /** One of 127.0.0.0/8: ephemeral ports of one address would not do for so many sockets. */
  readonly localAddress?: string;
  readonly deflate?: boolean;
}

/** Reads of all sockets land here, one after the other: a read is used up before the next. */
const shared = Buffer.allocUnsafeSlow(262_144);
const none = Buffer.alloc(0);
const maskedEmpty = 0x80;

export class RawSocket {
  readonly #handlers: RawHandlers;
  readonly #socket: Socket;
  #rest: Buffer = none;
  #open = false;
  #closed = false;
  receivedBytes = 0;

  constructor(address: RawAddress, handlers: RawHandlers) {
    this.#handlers = handlers;
    const { port, path, subprotocol, localAddress, deflate } = address;
    this.#socket = connect({
      host: "127.0.0.1",
      port,
      ...(localAddress === undefined ? {} : { localAddress }),
      noDelay: true,
      onread: {
        buffer: shared,
        callback: (bytesRead) => {
          this.#read(bytesRead);
          return true;
        },
      },
    });
    this.#socket.on("error", () => this.#ended());
    this.#socket.on("close", () => this.#ended());
    this.#socket.write(
      `GET ${path} HTTP/1.1\r\nHost: 127.0.0.1:${port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n` +
        `Sec-WebSocket-Key: ${key}\r\nSec-WebSocket-Version: 13\r\n` +
        (subprotocol === undefined ? "" : `Sec-WebSocket-Protocol: ${subprotocol}\r\n`) +
        (deflate === true ? "Sec-WebSocket-Extensions: permessage-deflate\r\n" : "") +
        "\r\n",
    );
  }

  send(text: string): void {
    if (!this.#closed) this.#socket.write(maskedFrame(0x1, Buffer.from(text)));
  }

  pause(): void {
    this.#socket.pause();
  }

  resume(): void {
    if (!this.#closed) this.#socket.resume();
  }

  /** Cuts the connection without a word, as a network does. */
  cut(): void {
    this.#closed = true;
    this.#socket.destroy();
  }

  #ended(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#socket.destroy();
    this.#handlers.onClose();
  }

  #read(bytesRead: number): void {
    this.receivedBytes += bytesRead;
    let bytes = shared;
    let end = bytesRead;
    if (this.#rest.length > 0) {
      bytes = Buffer.concat([this.#rest, shared.subarray(0, bytesRead)]);
      end = bytes.length;
      this.#rest = none;
    }
    let at = 0;
    if (!this.#open) {
      const headEnd = bytes.subarray(0, end).indexOf("\r\n\r\n");
      if (headEnd === -1) {
        this.#keep(bytes, 0, end);
        return;
      }
      const head = bytes.toString("latin1", 0, headEnd);
      if (!head.startsWith("HTTP/1.1 101") || !head.includes(accept)) {
        this.#ended();
        return;
      }
      this.#open = true;
      this.#handlers.onOpen?.();
      at = headEnd + 4;
    }
    while (!this.#closed) {
      const next = this.#frame(bytes, at, end);
      if (next === at) break;
      at = next;
    }
    if (at < end && !this.#closed) this.#keep(bytes, at, end);
  }

  /** Handles the frame that begins at `at`; gives where the next one begins, or `at` when it is not whole yet. */
  #frame(bytes: Buffer, at: number, end: number): number {
    if (end - at < 2) return at;
    const first = bytes[at] ?? 0;
    let length = (bytes[at + 1] ?? 0) & 0x7f;
    let start = at + 2;
    if (length === 126) {
      if (end - at < 4) return at;
      length = bytes.readUInt16BE(at + 2);
      start = at + 4;
    } else if (length === 127) {
      if (end - at < 10) return at;
      length = Number(bytes.readBigUInt64BE(at + 2));
      start = at + 10;
    }
    const next = start + length;
    if (next > end) return at;
    const opcode = first & 0x0f;
    if (opcode === 0x1 || opcode === 0x2) this.#handlers.onFrame(bytes, start, next, (first & 0x40) !== 0);
    else if (opcode === 0x9) this.#socket.write(maskedFrame(0xa, bytes.subarray(start, next)));
    else if (opcode === 0x8) this.#ended();
    return next;
  }

  #keep(bytes: Buffer, at: number, end: number): void {
    this.#rest = Buffer.from(bytes.subarray(at, end));
  }
}

/** The mask is zero: allowed, and the payload stays as it is. */
function maskedFrame(opcode: number, payload: Buffer): Buffer {
  const { length } = payload;
  const head = Buffer.alloc(length < 126 ? 6 : 8);
  head[0] = 0x80 | opcode;
  if (length < 126) head[1] = maskedEmpty | length;
  else {
    if (length > 0xffff) throw new Error(`The driver sends no frame of ${length} bytes.`);
    head[1] = maskedEmpty | 126;
    head.writeUInt16BE(length, 2);
  }
  return Buffer.concat([head, payload]);
}
