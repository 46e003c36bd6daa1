import type { EventEntry, ServerFrame, StateEntry, SubscribeFrame } from "@millrace/schemas";
import { WebSocket } from "ws";

type Frame<T extends ServerFrame["t"]> = Extract<ServerFrame, { t: T }>;

/**
 * A client for tests: keeps the cursor of each subscription by the rules of the protocol and counts what breaks them.
 */
export class StreamClient {
  readonly frames: ServerFrame[] = [];
  readonly cursors = new Map<number, number>();
  readonly entries = new Map<number, (EventEntry | StateEntry)[]>();
  /** Every way in which the chain may break. */
  alarms = 0;
  closed: { readonly code: number; readonly reason: string } | null = null;
  readonly #socket: WebSocket;
  readonly #byF = new Map<number, number>();
  readonly #waiting = new Set<() => void>();
  /** Frames before this were looked at by `next`. */
  #seen = 0;

  private constructor(socket: WebSocket) {
    this.#socket = socket;
    socket.on("message", (data: Buffer) => this.#take(JSON.parse(data.toString()) as ServerFrame));
    socket.on("close", (code, reason) => {
      this.closed = { code, reason: reason.toString() };
      for (const wake of [...this.#waiting]) wake();
    });
    socket.on("error", () => undefined);
  }

  static async open(url: string, hello: object | null = { t: "hello", v: 1 }): Promise<StreamClient> {
    const socket = new WebSocket(`${url.replace("http", "ws")}/v1/stream`, "millrace.v1");
    const client = new StreamClient(socket);
    await new Promise<void>((resolve, reject) => {
      socket.once("open", resolve);
      socket.once("error", reject);
    });
    if (hello !== null) {
      client.send(hello);
      await client.next("welcome");
    }
    return client;
  }

  send(frame: object | string): void {
    this.#socket.send(typeof frame === "string" ? frame : JSON.stringify(frame));
  }

  subscribe(frame: Omit<SubscribeFrame, "t">): void {
    this.entries.set(frame.i, this.entries.get(frame.i) ?? []);
    this.send({ t: "sub", ...frame });
  }

  /** The next frame of a kind that no earlier call has answered with. */
  async next<T extends ServerFrame["t"]>(
    t: T,
    where: (frame: Frame<T>) => boolean = () => true,
  ): Promise<Frame<T>> {
    let found: Frame<T> | undefined;
    await this.until(() => {
      for (; this.#seen < this.frames.length; this.#seen++) {
        const frame = this.frames[this.#seen];
        if (frame?.t === t && where(frame as Frame<T>)) {
          found = frame as Frame<T>;
          this.#seen++;
          return true;
        }
      }
      return false;
    }, `a frame ${t}`);
    if (found === undefined) throw new Error("until resolved without a frame");
    return found;
  }

  /** Resolves when the condition holds, looked at with every frame. */
  until(condition: () => boolean, what: string, timeoutMs = 5_000): Promise<void> {
    return new Promise((resolve, reject) => {
      const look = (): void => {
        if (!condition()) return;
        this.#waiting.delete(look);
        clearTimeout(timer);
        resolve();
      };
      const timer = setTimeout(() => {
        this.#waiting.delete(look);
        const last = this.frames.slice(-5).map((frame) => JSON.stringify(frame).slice(0, 200));
        reject(
          new Error(
            `${what} did not come within ${timeoutMs} ms; closed ${JSON.stringify(this.closed)}; last:\n${last.join("\n")}`,
          ),
        );
      }, timeoutMs);
      this.#waiting.add(look);
      look();
    });
  }

  sequences(i: number): number[] {
    return (this.entries.get(i) ?? []).map(([sequence]) => sequence);
  }

  /** Stops reading: the server sees a slow client. */
  pause(): void {
    this.#socket.pause();
  }

  resume(): void {
    this.#socket.resume();
  }

  cut(): void {
    this.#socket.terminate();
  }

  #take(frame: ServerFrame): void {
    this.frames.push(frame);
    if (frame.t === "subbed") {
      this.#byF.set(frame.f, frame.i);
      this.cursors.set(frame.i, frame.s);
    } else if (frame.t === "snapend") {
      this.cursors.set(frame.i, frame.s);
    } else if (frame.t === "ev" || frame.t === "bm") {
      const i = this.#byF.get(frame.f) ?? -1;
      const cursor = this.cursors.get(i) ?? -1;
      if (frame.p > cursor || frame.s <= cursor) this.alarms++;
      if (frame.t === "ev") {
        if (frame.d.some(([sequence]) => sequence <= cursor || sequence > frame.s)) this.alarms++;
        this.entries.get(i)?.push(...frame.d);
      }
      this.cursors.set(i, frame.s);
    } else if (frame.t === "live" && frame.s > (this.cursors.get(frame.i) ?? -1)) {
      this.alarms++;
    } else if (frame.t === "hb") {
      for (const [f, last] of frame.l) {
        const i = this.#byF.get(f) ?? -1;
        const cursor = this.cursors.get(i) ?? -1;
        if (last > cursor) this.alarms++;
        this.cursors.set(i, Math.max(cursor, frame.s));
      }
    }
    for (const look of [...this.#waiting]) look();
  }
}
