/**
 * A TCP proxy that treats its connections as bad networks do: cuts, delays, silence on one side, slow links, an end in
 * the middle of a frame, a connection that outlives its successor. What happens when is the caller's or a seed's.
 *
 * Owns: its sockets. What a link was not allowed to forward is lost with the link, never given to another.
 */
import { connect, createServer, type Server, type Socket } from "node:net";
import type { SeededRandom } from "../e2e/seeded-random.ts";

export type Fault = "cut" | "truncate" | "half-open" | "overtake" | "delay" | "slow" | "jitter";
export const faults: readonly [Fault, ...Fault[]] = [
  "cut",
  "truncate",
  "half-open",
  "overtake",
  "delay",
  "slow",
  "jitter",
];

/** One direction of a link: bytes in order, held back as the link is told. */
class Direction {
  readonly #from: Socket;
  readonly #to: Socket;
  #delayMs: () => number = () => 0;
  #bytesPerTick = Number.POSITIVE_INFINITY;
  #queue: { readonly at: number; readonly chunk: Buffer }[] = [];
  #timer: NodeJS.Timeout | undefined;
  #left = Number.POSITIVE_INFINITY;
  #silent = false;
  onSpent: () => void = () => undefined;

  constructor(from: Socket, to: Socket) {
    this.#from = from;
    this.#to = to;
    from.on("data", (chunk: Buffer) => this.#take(chunk));
    to.on("drain", () => from.resume());
  }

  delay(ms: () => number): void {
    this.#delayMs = ms;
  }

  slow(bytesPerTick: number): void {
    this.#bytesPerTick = bytesPerTick;
  }

  silence(): void {
    this.#silent = true;
    this.#queue = [];
  }

  /** So many bytes more, then the link is spent. */
  spendAfter(bytes: number): void {
    this.#left = bytes;
  }

  stop(): void {
    clearInterval(this.#timer);
    this.#queue = [];
  }

  #take(chunk: Buffer): void {
    if (this.#silent) return;
    const wait = this.#delayMs();
    if (wait === 0 && this.#queue.length === 0 && this.#bytesPerTick === Number.POSITIVE_INFINITY) {
      this.#write(chunk);
      return;
    }
    const after = this.#queue.at(-1)?.at ?? 0;
    this.#queue.push({ at: Math.max(after, performance.now() + wait), chunk });
    if (this.#queue.length > queuedChunksMax) this.#from.pause();
    this.#timer ??= setInterval(() => this.#tick(), tickMs);
  }

  #tick(): void {
    let budget = this.#bytesPerTick;
    for (let head = this.#queue[0]; head !== undefined && budget > 0; head = this.#queue[0]) {
      if (head.at > performance.now()) return;
      const part = head.chunk.subarray(0, budget);
      budget -= part.length;
      if (part.length === head.chunk.length) this.#queue.shift();
      else this.#queue[0] = { at: head.at, chunk: head.chunk.subarray(part.length) };
      this.#write(part);
    }
    if (this.#queue.length <= queuedChunksMax) this.#from.resume();
  }

  #write(chunk: Buffer): void {
    if (this.#to.destroyed) return;
    const part = chunk.subarray(0, this.#left);
    this.#left -= part.length;
    if (part.length > 0 && !this.#to.write(part)) this.#from.pause();
    if (this.#left === 0) this.onSpent();
  }
}

const tickMs = 5;
/** Beyond it the sender is held back by TCP, as by a real slow link. */
const queuedChunksMax = 64;

interface Link {
  readonly near: Socket;
  readonly far: Socket;
  readonly down: Direction;
  readonly up: Direction;
}

export class FaultProxy {
  readonly port: number;
  /** How often each fault was done to a link. */
  readonly done = new Map<Fault, number>();
  /** Connections that were taken. */
  taken = 0;
  down = false;
  readonly #server: Server;
  readonly #links = new Set<Link>();
  /** Links whose near side is gone and which the server still believes in, until the next connection is served. */
  readonly #lingering = new Set<Socket>();
  readonly #random: SeededRandom;

  private constructor(server: Server, port: number, random: SeededRandom) {
    this.#server = server;
    this.port = port;
    this.#random = random;
  }

  static async start(target: string, random: SeededRandom): Promise<FaultProxy> {
    const { hostname, port } = new URL(target);
    const server = createServer({ noDelay: true });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const address = server.address();
    if (address === null || typeof address === "string") throw new Error("The proxy has no port.");
    const proxy = new FaultProxy(server, address.port, random);
    server.on("connection", (near) => proxy.#serve(near, hostname, Number(port)));
    return proxy;
  }

  get url(): string {
    return `ws://127.0.0.1:${this.port}`;
  }

  get open(): number {
    return this.#links.size;
  }

  /** Does it to every link that is open. */
  inflict(fault: Fault): void {
    for (const link of [...this.#links]) this.#inflict(link, fault);
  }

  /** Does something to one of them. */
  inflictAny(among: readonly [Fault, ...Fault[]] = faults): void {
    const [first, ...more] = [...this.#links];
    if (first !== undefined) this.#inflict(this.#random.pick([first, ...more]), this.#random.pick(among));
  }

  async close(): Promise<void> {
    this.down = true;
    const closed = new Promise((resolve) => {
      this.#server.close(resolve);
    });
    for (const link of [...this.#links]) this.#end(link);
    for (const far of this.#lingering) far.destroy();
    await closed;
  }

  #serve(near: Socket, host: string, port: number): void {
    near.on("error", ignore);
    if (this.down) {
      near.destroy();
      return;
    }
    this.taken++;
    const far = connect({ host, port, noDelay: true });
    far.on("error", ignore);
    const link = { near, far, down: new Direction(far, near), up: new Direction(near, far) };
    this.#links.add(link);
    near.on("close", () => {
      if (!this.#lingering.has(far)) this.#end(link);
    });
    far.on("close", () => {
      this.#lingering.delete(far);
      this.#end(link);
    });
    // The new connection is served, and only then the old one ends.
    far.once("data", () => {
      for (const old of this.#lingering) old.destroy();
    });
  }

  #inflict(link: Link, fault: Fault): void {
    this.done.set(fault, (this.done.get(fault) ?? 0) + 1);
    const { near, far, down, up } = link;
    const random = this.#random;
    switch (fault) {
      case "cut":
        this.#links.delete(link);
        near.resetAndDestroy();
        far.resetAndDestroy();
        return;
      case "truncate":
        // A few bytes of what comes next, which ends in the middle of a frame.
        down.onSpent = () => this.#end(link);
        down.spendAfter(random.between(1, 60));
        return;
      case "half-open":
        // The other side is gone and nobody told this one.
        down.silence();
        up.silence();
        return;
      case "overtake":
        this.#links.delete(link);
        this.#lingering.add(far);
        down.silence();
        near.resetAndDestroy();
        return;
      case "delay": {
        const ms = random.between(5, 40);
        down.delay(() => ms);
        return;
      }
      case "jitter":
        down.delay(() => random.between(0, 30));
        up.delay(() => random.between(0, 30));
        return;
      case "slow":
        down.slow(random.between(200, 2_000));
    }
  }

  #end(link: Link): void {
    this.#links.delete(link);
    link.down.stop();
    link.up.stop();
    link.near.destroy();
    link.far.destroy();
  }
}

/** An error of a socket is followed by its close, which is what counts. */
function ignore(): void {
  return;
}
