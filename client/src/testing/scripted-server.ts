import { once } from "node:events";
import type { AddressInfo } from "node:net";
import { streamSubprotocol, type ClientFrame, type EventEntry, type ServerFrame } from "@millrace/schemas";
import { WebSocketServer, type WebSocket } from "ws";

type FrameOf<T extends ClientFrame["t"]> = Extract<ClientFrame, { t: T }>;

/** Waits for a condition that something else brings about; fails after five seconds instead of hanging. */
export async function within<Value>(what: string, promise: Promise<Value>, limitMs = 5_000): Promise<Value> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => reject(new Error(`Waited ${limitMs} ms in vain for ${what}.`)), limitMs);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** Values that one side puts in and the other waits for. */
class Mailbox<Value> {
  readonly #values: Value[] = [];
  readonly #waiters: ((value: Value) => void)[] = [];

  put(value: Value): void {
    const waiter = this.#waiters.shift();
    if (waiter === undefined) this.#values.push(value);
    else waiter(value);
  }

  take(what: string): Promise<Value> {
    const value = this.#values.shift();
    if (value !== undefined) return Promise.resolve(value);
    return within(what, new Promise<Value>((resolve) => this.#waiters.push(resolve)));
  }
}

/** One accepted socket, driven by the test line by line. */
export class ScriptedConnection {
  readonly #socket: WebSocket;
  readonly #frames = new Mailbox<ClientFrame>();
  readonly closed: Promise<{ code: number; at: number }>;

  constructor(socket: WebSocket) {
    this.#socket = socket;
    socket.on("message", (data: Buffer) =>
      this.#frames.put(JSON.parse(data.toString("utf8")) as ClientFrame),
    );
    this.closed = new Promise((resolve) => {
      socket.on("close", (code) => resolve({ code, at: Date.now() }));
    });
  }

  /** The next frame of the client, which must be of type `t`. */
  async expect<T extends ClientFrame["t"]>(t: T): Promise<FrameOf<T>> {
    const frame = await this.#frames.take(`a frame ${t}`);
    if (frame.t !== t) throw new Error(`Expected a frame ${t}, got ${JSON.stringify(frame)}.`);
    return frame as FrameOf<T>;
  }

  async greet(welcome: Partial<Extract<ServerFrame, { t: "welcome" }>> = {}): Promise<FrameOf<"hello">> {
    const hello = await this.expect("hello");
    this.send({
      t: "welcome",
      v: 1,
      node: "scripted",
      e: "9f3a",
      first: 1,
      head: 100,
      hb: 20_000,
      limits: { subs: 64, frame: 65_536 },
      ...welcome,
    });
    return hello;
  }

  /** Answers the next `sub`; the filter id is the subscription's number unless given. */
  async accept(answer: Partial<Extract<ServerFrame, { t: "subbed" }>> = {}): Promise<FrameOf<"sub">> {
    const sub = await this.expect("sub");
    const from = Number(sub.from?.split(".")[1] ?? "0") || 0;
    this.send({
      t: "subbed",
      i: sub.i,
      f: sub.i,
      mode: "catchup",
      s: from,
      head: 100,
      resumed: from > 0,
      ...answer,
    });
    return sub;
  }

  send(...frames: readonly (ServerFrame | string)[]): void {
    for (const frame of frames) this.#socket.send(typeof frame === "string" ? frame : JSON.stringify(frame));
  }

  sendBinary(bytes: Uint8Array): void {
    this.#socket.send(bytes);
  }

  /** Ends without a close frame, as a broken network does. */
  cut(): void {
    this.#socket.terminate();
  }

  close(code: number, reason = ""): void {
    this.#socket.close(code, reason);
  }
}

/** A real WebSocket server that says only what a test tells it to. */
export class ScriptedServer {
  readonly #server: WebSocketServer;
  readonly #connections = new Mailbox<ScriptedConnection>();
  accepted = 0;

  private constructor(server: WebSocketServer) {
    this.#server = server;
    server.on("connection", (socket) => {
      this.accepted += 1;
      this.#connections.put(new ScriptedConnection(socket));
    });
  }

  static async start(subprotocol: string | false = streamSubprotocol, port = 0): Promise<ScriptedServer> {
    const server = new WebSocketServer({ host: "127.0.0.1", port, handleProtocols: () => subprotocol });
    await once(server, "listening");
    return new ScriptedServer(server);
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  get url(): string {
    return `ws://127.0.0.1:${this.port}`;
  }

  /** The next connection that a client makes. */
  connection(): Promise<ScriptedConnection> {
    return this.#connections.take("a connection");
  }

  async stop(): Promise<void> {
    for (const socket of this.#server.clients) socket.terminate();
    await new Promise((resolve) => this.#server.close(resolve));
  }
}

export function entry(sequence: number, workflowId = "order-42", step = "charge"): EventEntry {
  const at = new Date(1_700_000_000_000 + sequence).toISOString();
  return [sequence, "StepStarted", workflowId, at, { name: step, occurrence: 1, attempt: 1 }];
}

/** An `ev` frame `(p, s]` with one event per sequence given; a sequence given twice is a commit of two. */
export function ev(f: number, p: number, s: number, sequences: readonly number[]): ServerFrame {
  return { t: "ev", f, p, s, d: sequences.map((sequence) => entry(sequence)) };
}
