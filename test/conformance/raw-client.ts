/** One connection that speaks `millrace.v1` by docs/protocol.md, without our client: every frame is kept and judged. */
import { WebSocket } from "ws";
import { within } from "../e2e/deadline.ts";
import { Signal } from "../e2e/signal.ts";
import { ChainJudge } from "./chain-judge.ts";
import { malformed, shown, type Frame } from "./frame.ts";

export interface SubscribeOptions {
  readonly filter?: unknown;
  readonly from?: string;
  readonly min?: number;
  readonly window?: number;
  readonly batch?: { readonly max: number; readonly ms: number };
  readonly shape?: string;
  readonly until?: string;
}

const messageBytesMax = 4 * 1_048_576;

export class RawClient {
  readonly frames: Frame[] = [];
  readonly breaches: string[] = [];
  welcome: Frame | null = null;
  closed: { readonly code: number; readonly reason: string } | null = null;
  /** When a frame came last, milliseconds of `performance.now()`. */
  heardAt = performance.now();
  readonly #socket: WebSocket;
  readonly #changed = new Signal();
  readonly #byI = new Map<number, ChainJudge>();
  readonly #byF = new Map<number, ChainJudge>();
  readonly #deadlineMs: number;
  #nextI = 1;

  private constructor(socket: WebSocket, deadlineMs: number) {
    this.#socket = socket;
    this.#deadlineMs = deadlineMs;
    socket.on("message", (data: Buffer, isBinary) => {
      this.heardAt = performance.now();
      if (isBinary) this.breaches.push("a binary message");
      else this.#take(JSON.parse(data.toString()) as Frame);
    });
    socket.on("close", (code, reason) => {
      this.closed = { code, reason: reason.toString() };
      this.#changed.fire();
    });
    socket.on("error", () => undefined);
  }

  /** `hello: null`: says nothing. Otherwise it is welcomed when this resolves. */
  static async open(
    url: string,
    deadlineMs: number,
    hello: object | null = { t: "hello", v: 1 },
  ): Promise<RawClient> {
    const socket = new WebSocket(url, "millrace.v1", { maxPayload: messageBytesMax });
    const client = new RawClient(socket, deadlineMs);
    const opened = new Promise<void>((resolve, reject) => {
      socket.once("open", resolve);
      socket.once("error", reject);
    });
    try {
      await within(`the socket to ${url} opens`, deadlineMs, opened);
      if (hello !== null) {
        client.send(hello);
        await client.until("welcome", () => client.welcome !== null);
      }
    } catch (error) {
      client.cut();
      throw error;
    }
    return client;
  }

  get hello(): {
    readonly epoch: string;
    readonly head: number;
    readonly first: number;
    readonly heartbeatMs: number;
  } {
    const { e = "", head = 0, first = 0, hb = 0 } = this.welcome ?? {};
    return { epoch: e, head, first, heartbeatMs: hb };
  }

  get pending(): number {
    return this.#socket.bufferedAmount;
  }

  send(frame: object | string | Buffer): void {
    const plain = typeof frame === "string" || Buffer.isBuffer(frame);
    this.#socket.send(plain ? frame : JSON.stringify(frame));
  }

  /** Sends `sub`; a judge that has a cursor resumes from it. */
  subscribe(options: SubscribeOptions = {}, judge = new ChainJudge(), i = this.#nextI++): ChainJudge {
    if (judge.f !== null) for (const [f, each] of this.#byF) if (each === judge) this.#byF.delete(f);
    judge.attach(this.hello.epoch);
    judge.batched = options.batch !== undefined;
    const from = judge.cursor === null ? options.from : judge.position;
    this.#byI.set(i, judge);
    this.send({ t: "sub", i, ...options, ...(from === undefined ? {} : { from }) });
    return judge;
  }

  unsubscribe(judge: ChainJudge): void {
    const i = this.idOf(judge);
    this.#byI.delete(i);
    if (judge.f !== null) this.#byF.delete(judge.f);
    this.send({ t: "unsub", i });
  }

  acknowledge(judge: ChainJudge, s = judge.cursor ?? 0): void {
    this.send({ t: "ack", i: this.idOf(judge), s });
  }

  idOf(judge: ChainJudge): number {
    for (const [i, each] of this.#byI) if (each === judge) return i;
    return -1;
  }

  /** Resolves when it holds, looked at with every frame; fails at once when the connection ends without it. */
  async until(what: string, holds: () => boolean, deadlineMs = this.#deadlineMs): Promise<void> {
    const told = () =>
      `${what}; closed ${shown(this.closed)}; last: ${this.frames.slice(-4).map(shown).join(" ")}`;
    await within(
      told,
      deadlineMs,
      this.#changed.until(() => holds() || this.closed !== null),
    );
    if (!holds()) throw new Error(told());
  }

  async untilClosed(what: string): Promise<{ readonly code: number; readonly reason: string }> {
    await this.until(what, () => this.closed !== null);
    return this.closed ?? { code: 0, reason: "" };
  }

  /** The first frame from `begin` on of which this holds. */
  async frame(what: string, holds: (frame: Frame) => boolean, begin = 0): Promise<Frame> {
    let found: Frame | undefined;
    await this.until(what, () => {
      found ??= this.frames.slice(begin).find(holds);
      return found !== undefined;
    });
    if (found === undefined) throw new Error(what);
    return found;
  }

  pause(): void {
    this.#socket.pause();
  }

  resume(): void {
    this.#socket.resume();
  }

  cut(): void {
    this.#socket.terminate();
  }

  #take(frame: Frame): void {
    this.frames.push(frame);
    const wrong = malformed(frame);
    if (wrong !== null) this.breaches.push(`${shown(frame)} ${wrong}`);
    if (frame.t === "welcome") this.welcome = frame;
    else if (frame.t === "hb") this.#beat(frame);
    else if (frame.f !== undefined && frame.t !== "subbed") {
      const judge = this.#byF.get(frame.f);
      // Frames of a subscription that was given up may still be on their way.
      judge?.take(frame);
    } else if (frame.i !== undefined) {
      const judge = this.#byI.get(frame.i);
      if (frame.t === "subbed" && judge !== undefined && frame.f !== undefined) {
        if (this.#byF.has(frame.f)) this.breaches.push(`${shown(frame)}: this f is taken on this socket`);
        this.#byF.set(frame.f, judge);
      }
      judge?.take(frame);
      if (judge !== undefined && judge.over !== null && judge.f !== null) this.#byF.delete(judge.f);
    }
    this.#changed.fire();
  }

  #beat(frame: Frame): void {
    const named = new Set<ChainJudge>();
    for (const [f, last] of frame.l ?? []) {
      const judge = this.#byF.get(f);
      if (judge === undefined) continue;
      named.add(judge);
      judge.beat(last, frame.s ?? 0);
    }
    for (const [f, sent] of frame.w ?? []) this.#byF.get(f)?.waits(sent);
    for (const judge of this.#byF.values()) if (!named.has(judge)) judge.leftOut();
  }
}
