/**
 * Child process: many sockets, each following one run, each chain checked. Some may be told to read slowly or to
 * break off and come back with their cursor.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { elapsedMs } from "../figures.ts";
import { Chain, hashOf } from "./chain.ts";
import { serveParent } from "./part.ts";
import { RawSocket } from "./raw-socket.ts";

export interface ClientsOptions {
  readonly port: number;
  readonly count: number;
  readonly prefix: string;
  readonly runs: number;
  /** Client `n` follows run `(first + n) % runs`; `all` follows everything. */
  readonly first: number;
  readonly all?: boolean;
  /** Another server than ours: frames are counted and not checked. */
  readonly bare?: boolean;
  /** Keeps the latency of every event. For a process of its own with few clients. */
  readonly sampled?: boolean;
  /** Third octet of the source addresses 127.0.x.y: ports of a closed connection stay taken for a minute. */
  readonly network: number;
}

export interface ClientsReport {
  readonly lost: number;
  readonly duplicates: number;
  readonly breaks: number;
  /** Clients whose sequences were other ones than appended, with the right count. */
  readonly wrong: number;
  readonly reconnects: number;
  /** Connections that ended without our doing. */
  readonly closes: number;
  readonly firstRefusal: string | null;
}

/** Handshakes in progress: more would only queue up at the server. */
const handshakesMax = 100;
/** Below the number of ephemeral ports of one address. */
const socketsPerAddress = 5_000;
const slowReadMs = 100;
const slowPauseMs = 3_000;

let options: ClientsOptions;
let clients: Client[] = [];
let received = 0;
let receivedBytes = 0;
let reconnects = 0;
let closes = 0;
let addressed = 0;
let latenciesMs: number[] = [];
const timers = new Set<NodeJS.Timeout>();
let onLive = (): void => undefined;

class Client {
  readonly chain = new Chain();
  readonly #filter: string;
  #socket: RawSocket | null = null;
  slow = false;

  constructor(index: number) {
    const run = (options.first + index) % options.runs;
    this.#filter = options.all === true ? "{}" : `{"workflow":["${options.prefix}-${run}"]}`;
  }

  connect(): void {
    const { chain } = this;
    const address = Math.floor(addressed++ / socketsPerAddress);
    const socket = new RawSocket(
      {
        port: options.port,
        path: "/v1/stream",
        subprotocol: "millrace.v1",
        localAddress: `127.0.${options.network}.${2 + (address % 200)}`,
      },
      {
        onOpen: () => {
          const from = chain.start === -1 ? "now" : `${chain.epoch}.${chain.cursor}`;
          socket.send('{"t":"hello","v":1}');
          socket.send(`{"t":"sub","i":1,"filter":${this.#filter},"from":"${from}"}`);
        },
        onFrame: (bytes, start, end) => {
          receivedBytes += end - start;
          if (options.bare === true && chain.live) {
            received++;
            return;
          }
          const wasLive = chain.live;
          const entries = chain.take(bytes, start, end);
          received += entries;
          if (!wasLive && chain.live) onLive();
          if (entries > 0 && options.sampled === true) sample(bytes, start, end);
        },
        onClose: () => {
          closes++;
          this.#socket = null;
          chain.live = false;
          setTimeout(() => this.connect(), 100 + Math.random() * 400);
        },
      },
    );
    this.#socket = socket;
  }

  cut(): void {
    this.#socket?.cut();
    this.#socket = null;
    this.chain.live = false;
  }

  pause(): void {
    this.#socket?.pause();
  }

  resume(): void {
    this.#socket?.resume();
  }
}

function sample(bytes: Buffer, start: number, end: number): void {
  const now = Date.now();
  const { d } = JSON.parse(bytes.toString("utf8", start, end)) as { d: [number, string, string, string][] };
  for (const [, , , at] of d) latenciesMs.push(now - Date.parse(at));
}

async function allLive(): Promise<void> {
  let live = clients.filter(({ chain }) => chain.live).length;
  if (live === clients.length) return;
  await new Promise<void>((resolve) => {
    onLive = () => {
      live++;
      if (live >= clients.length && clients.every(({ chain }) => chain.live)) resolve();
    };
  });
  onLive = () => undefined;
}

async function connectAll(): Promise<void> {
  for (let from = 0; from < clients.length; from += handshakesMax) {
    const some = clients.slice(from, from + handshakesMax);
    for (const client of some) client.connect();
    await until(() => some.every(({ chain }) => chain.live), 60_000, "clients to be live");
  }
}

async function until(test: () => boolean, deadlineMs: number, what: string): Promise<void> {
  const begun = process.hrtime.bigint();
  while (!test()) {
    if (elapsedMs(begun) > deadlineMs) throw new Error(`Waited ${deadlineMs} ms for ${what}.`);
    await sleep(2);
  }
}

function check(expected: readonly (readonly number[])[]): ClientsReport {
  let lost = 0;
  let duplicates = 0;
  let breaks = 0;
  let wrong = 0;
  const all = options.all === true ? expected.flat().sort((a, b) => a - b) : [];
  for (const [index, { chain }] of clients.entries()) {
    const own = options.all === true ? all : (expected[(options.first + index) % options.runs] ?? []);
    const promised = own.filter((sequence) => sequence > chain.start);
    lost += Math.max(0, promised.length - chain.count);
    duplicates += chain.duplicates;
    breaks += chain.breaks;
    if (promised.length === chain.count && hashOf(promised) !== chain.hash) wrong++;
    if (chain.count > promised.length) wrong++;
  }
  const firstRefusal = clients.find(({ chain }) => chain.refused !== null)?.chain.refused ?? null;
  return { lost, duplicates, breaks, wrong, reconnects, closes, firstRefusal };
}

serveParent({
  async connect(given: ClientsOptions): Promise<void> {
    options = given;
    clients = Array.from({ length: options.count }, (_, index) => new Client(index));
    await connectAll();
  },
  counts: () => ({ received, receivedBytes }),
  latencies(): readonly number[] {
    const taken = latenciesMs;
    latenciesMs = [];
    return taken;
  },
  /** A share of the clients reads for a moment only every few seconds. */
  slow(count: number): void {
    for (const client of clients.slice(0, count)) {
      client.slow = true;
      client.pause();
      timers.add(
        setInterval(() => {
          client.resume();
          setTimeout(() => client.slow && client.pause(), slowReadMs);
        }, slowPauseMs),
      );
    }
  },
  /** So many clients a second break off and come back at once. */
  churn(perS: number): void {
    let at = clients.length - 1;
    timers.add(
      setInterval(() => {
        for (let n = 0; n < perS / 20; n++) {
          const client = clients[at];
          at = at === 0 ? clients.length - 1 : at - 1;
          if (client === undefined || client.slow) continue;
          reconnects++;
          client.cut();
          client.connect();
        }
      }, 50),
    );
  },
  calm(): void {
    for (const timer of timers) clearInterval(timer);
    timers.clear();
    for (const client of clients) {
      client.slow = false;
      client.resume();
    }
  },
  /** Cuts all at once; each comes back at a random moment. Gives the milliseconds until all are live again. */
  async herd(withinMs: number): Promise<number> {
    const begun = process.hrtime.bigint();
    for (const client of clients) client.cut();
    reconnects += clients.length;
    for (const client of clients) setTimeout(() => client.connect(), Math.random() * withinMs);
    await allLive();
    return elapsedMs(begun);
  },
  /** Waits until everything has come, then compares every client with what was appended. */
  async finish(expected: readonly (readonly number[])[]): Promise<ClientsReport> {
    const deadline = Date.now() + 30_000;
    let report = check(expected);
    while (report.lost > 0 && report.firstRefusal === null && Date.now() < deadline) {
      await sleep(100);
      report = check(expected);
    }
    return report;
  },
});
