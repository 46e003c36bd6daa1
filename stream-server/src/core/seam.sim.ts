/**
 * A seeded world around the seam: a log, a tail that lags, a projection that lags or runs ahead, connections that
 * drain by chance and are cut, clients that keep a cursor per subscription. Used by `seam.sim.test.ts`.
 */
import {
  attributesAfter,
  matchesAround,
  matchesRun,
  noAttributes,
  type Attributes,
  type AttributesAround,
  type Filter,
  type ServerFrame,
  type WorkflowEvent,
} from "@millrace/schemas";
import { matchesCommit, type RunCommit } from "./run-commit.ts";
import type { EncodedFrame, Seam, SeamLimits, SeamPort } from "./seam.ts";
import type { Outlet, Payload, Subscription } from "./subscription.ts";

type SeamClass = new (port: SeamPort, head: number, limits: SeamLimits) => Seam;

export interface Faults {
  /** Drop one data frame on its way to a client, the nth one. */
  readonly loseFrame?: number;
}

export interface Outcome {
  readonly ok: boolean;
  readonly settled: boolean;
  /** Events that a client should have seen and did not. */
  readonly missed: number;
  /** Entries or frames at or below a client's cursor. */
  readonly repeated: number;
  /** Chain alarms: `p`, `live` or a heartbeat's last match beyond the cursor. */
  readonly alarms: number;
  /** Subscriptions which ended before, after, or more often than their run. */
  readonly badEnds: number;
  readonly stats: Readonly<
    Record<"demoted" | "promoted" | "read" | "cut" | "ended" | "bookmarks" | "asked", number>
  >;
}

/** A plain, small generator: the seed is all there is to a schedule. Source: mulberry32, T. Ettinger. */
export function random(seed: number): () => number {
  let state = seed | 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296;
  };
}

interface Watch {
  readonly i: number;
  readonly filter: Filter;
  readonly shape: "events" | "state";
  readonly untilClosed: string | null;
  cursor: number;
  ended: number;
  readonly got: number[];
}

class Connection implements Outlet {
  readonly watches: readonly Watch[];
  readonly byF = new Map<number, Watch>();
  readonly buffer: unknown[] = [];
  closed = false;
  constructor(watches: readonly Watch[]) {
    this.watches = watches;
  }
  bufferedBytes(): number {
    return this.buffer.length;
  }
  send(payload: Payload): void {
    if (!this.closed) this.buffer.push(JSON.parse(String(payload)));
  }
  control(frame: ServerFrame): void {
    if (!this.closed) this.buffer.push(frame);
  }
}

const workflows = ["a", "b", "c", "d"];
const runTypes = ["x", "y"];

export function simulate(SeamUnderTest: SeamClass, seed: number, faults: Faults = {}): Outcome {
  const next = random(seed);
  const upTo = (n: number) => Math.floor(next() * n);
  const chance = (p: number) => next() < p;
  const pick = <T>(list: readonly T[]): T => {
    const item = list[upTo(list.length)];
    if (item === undefined) throw new Error("pick from an empty list");
    return item;
  };

  const limits: SeamLimits = {
    commitsMax: 2 + upTo(40),
    bytesMax: 1e9,
    highBytes: 3 + upTo(12),
    lowBytes: 1,
    pageCommitsMax: 1 + upTo(15),
    pageBytesMax: 1e9,
    pagesPerTurn: 1 + upTo(3),
  };
  const commitCount = 60 + upTo(120);
  const log: RunCommit[] = [];
  const closedAt = new Map<string, number>();
  let sequence = 0;
  let delivered = 0;
  /** What the projection holds: an index into the log. */
  let projected = 0;
  let waiting: (() => boolean)[] = [];
  const later: (() => void)[] = [];
  let tailUp = true;
  let dataFrames = 0;
  const stats = { demoted: 0, promoted: 0, read: 0, cut: 0, ended: 0, bookmarks: 0, asked: 0 };
  let repeated = 0;
  let alarms = 0;

  const encode = (f: number, p: number, s: number, commits: readonly RunCommit[]) =>
    JSON.stringify({ t: "ev", f, p, s, d: commits.map((commit) => commit.sequence) });
  const checkpoint = () => log[projected - 1]?.sequence ?? 0;
  /** What the runs have around each commit: the truth. */
  const arounds = new Map<number, AttributesAround>();
  const around = ({ sequence: s }: RunCommit): AttributesAround =>
    arounds.get(s) ?? { before: noAttributes, after: noAttributes };
  const matches = (filter: Filter, commit: RunCommit) =>
    matchesCommit(filter, commit) && matchesAround(filter, around(commit));

  const port: SeamPort = {
    encodeBatch(topic, p, commits) {
      if (topic.shape === "state" && chance(0.1)) return null;
      const frames: EncodedFrame[] = [];
      let from = p;
      for (let n = 0; n < commits.length;) {
        const part = commits.slice(n, n + 1 + upTo(3));
        n += part.length;
        const s = part.at(-1)?.sequence ?? 0;
        frames.push({ s, payloads: [encode(topic.f, from, s, part)] });
        from = s;
      }
      return frames;
    },
    encodePage({ topic, lastS }, page) {
      const asks = topic.shape === "state" || topic.filter.attr !== undefined;
      if (asks && chance(0.1)) return null;
      const cut =
        chance(0.3) && page.commits.length > 1
          ? page.commits.slice(0, 1 + upTo(page.commits.length - 1))
          : null;
      const end = cut?.at(-1)?.sequence ?? page.upTo;
      const matching = (cut ?? page.commits).filter((commit) => matches(topic.filter, commit));
      return { upTo: end, payloads: matching.length === 0 ? [] : [encode(topic.f, lastS, end, matching)] };
    },
    encodeBookmark(topic, p, s) {
      stats.bookmarks++;
      return JSON.stringify({ t: "bm", f: topic.f, p, s });
    },
    requestPage(subscription) {
      stats.read++;
      const answer = () => {
        const { pos, topic } = subscription;
        if (checkpoint() <= pos && subscription.mode !== "ended") return false;
        const page: RunCommit[] = [];
        let end = checkpoint();
        for (const commit of log.slice(0, projected)) {
          if (commit.sequence <= pos || !matchesRun(topic.filter, commit.workflowId, commit.type)) continue;
          if (!matchesAround(topic.filter, around(commit))) continue;
          page.push(commit);
          if (page.length < limits.pageCommitsMax) continue;
          end = commit.sequence;
          break;
        }
        // The read is over now, its answer may come much later.
        later.push(() => seam.onPage(subscription, { commits: page, upTo: end }, 1, "e"));
        return true;
      };
      if (!answer()) waiting.push(answer);
    },
    awaitState(subscription) {
      later.push(() => seam.onReady(subscription));
    },
    pumpLater(subscription) {
      later.push(() => seam.pump(subscription));
    },
    attributesAround: (commit) => {
      stats.asked++;
      return chance(0.05) ? null : around(commit);
    },
    closedAsOf(workflowId, at) {
      if (chance(0.1)) return null;
      return (closedAt.get(workflowId) ?? Infinity) <= at;
    },
    onDemoted: () => stats.demoted++,
    onPromoted: () => stats.promoted++,
  };
  const seam = new SeamUnderTest(port, 0, limits);

  const clients: Watch[][] = [];
  const connections = new Map<Watch[], Connection>();
  for (let c = 0; c < 5; c++) {
    const watches: Watch[] = [];
    for (let i = 0; i < 1 + upTo(3); i++) {
      const workflow = pick(workflows);
      const filter = pick<Filter>([
        {},
        { workflow: [workflow] },
        { workflow: workflows.slice(0, 2) },
        { type: [pick(runTypes)] },
        { event: ["StepCompleted"] },
        { workflow: [workflow], event: ["StepStarted"] },
        { workflow: ["nobody"] },
        { attr: { customer: 1 } },
        { attr: { customer: ["1", "2"], region: "eu" } },
        { type: ["x"], attr: { customer: "2" }, event: ["StepCompleted", "AttributesUpserted"] },
      ]);
      const single = filter.workflow?.length === 1 && filter.workflow[0] !== "nobody";
      const untilClosed = single && chance(0.6) ? workflow : null;
      watches.push({
        i,
        filter,
        shape: pick(["events", "state"]),
        untilClosed,
        cursor: 0,
        ended: 0,
        got: [],
      });
    }
    clients.push(watches);
  }

  const connect = (client: Watch[]) => {
    const connection = new Connection(client);
    connections.set(client, connection);
    for (const watch of client) {
      if (watch.ended > 0) continue;
      const subscription = seam.subscribe(
        connection,
        watch.i,
        watch.filter,
        watch.shape,
        watch.cursor,
        watch.untilClosed,
      );
      if (connection.byF.has(subscription.topic.f))
        throw new Error("two subscriptions of one socket share f");
      connection.byF.set(subscription.topic.f, watch);
      seam.pump(subscription);
    }
  };
  const cut = (connection: Connection) => {
    stats.cut++;
    connection.closed = true;
    connection.buffer.length = 0;
    seam.disconnect(connection);
  };

  const receive = (connection: Connection) => {
    const frame = connection.buffer.shift() as
      | { t: "ev" | "bm"; i?: undefined; f: number; p: number; s: number; d?: number[] }
      | Extract<ServerFrame, { t: "hb" }>
      | Extract<ServerFrame, { t: "live" | "end" }>;
    if (frame.t === "ev" || frame.t === "bm") {
      if (++dataFrames === faults.loseFrame) return;
      const watch = connection.byF.get(frame.f);
      if (watch === undefined) throw new Error(`frame for an unknown f ${frame.f}`);
      if (frame.p > watch.cursor) alarms++;
      if (frame.s <= watch.cursor) repeated++;
      for (const entry of frame.d ?? []) {
        if (entry <= watch.cursor || entry > frame.s) repeated++;
        watch.got.push(entry);
      }
      watch.cursor = Math.max(watch.cursor, frame.s);
    } else if (frame.t === "hb") {
      for (const [f, last] of frame.l) {
        const watch = connection.byF.get(f);
        if (watch === undefined) continue;
        if (last > watch.cursor) alarms++;
        watch.cursor = Math.max(watch.cursor, frame.s);
      }
    } else if (frame.t === "live" || frame.t === "end") {
      const watch = connection.watches.find((candidate) => candidate.i === frame.i);
      if (watch === undefined) throw new Error(`frame for an unknown i ${frame.i}`);
      if (frame.t === "live" && frame.s > watch.cursor) alarms++;
      if (frame.t === "end") {
        if (frame.s > watch.cursor) alarms++;
        watch.ended++;
        stats.ended++;
      }
    }
  };

  const current = new Map<string, Attributes>();
  const publish = () => {
    sequence += chance(0.2) ? 1 + upTo(4) : 1;
    const workflowId = pick(workflows);
    const finish = log.length > commitCount / 2 && !closedAt.has(workflowId) && chance(0.05);
    if (finish) closedAt.set(workflowId, sequence);
    const types = finish
      ? ["WorkflowCompleted"]
      : [pick(["StepStarted", "StepCompleted", "ProgressReported", "AttributesUpserted"])];
    const attributes = { [pick(["customer", "region"])]: pick(["1", 2, "eu", null]) };
    const events = types.map((type) => ({ type, data: { attributes } }) as unknown as WorkflowEvent);
    const before = current.get(workflowId) ?? noAttributes;
    const after = attributesAfter(before, events);
    current.set(workflowId, after);
    arounds.set(sequence, { before, after });
    log.push({
      sequence,
      workflowId,
      type: workflowId < "c" ? "x" : "y",
      at: 0,
      condition: null,
      events,
      bytes: 1,
    });
  };
  const project = (count: number) => {
    projected = Math.min(log.length, projected + count);
    waiting = waiting.filter((answer) => !answer());
  };
  const tail = (count: number) => {
    // The consumer may be recreated and repeat the last ones.
    const from = chance(0.05) ? Math.max(0, delivered - 2) : delivered;
    const batch = log.slice(from, delivered + count);
    delivered = Math.min(log.length, delivered + count);
    seam.onTail(batch);
  };
  const runLater = () => {
    const [job] = later.splice(upTo(later.length), 1);
    job?.();
  };
  const check = () => {
    for (const { mode, topic, lastS, pos } of seam.subscriptions()) {
      if (mode === "live" && topic.lastMatch > lastS)
        throw new Error(`I5: last match ${topic.lastMatch} above ${lastS}`);
      if (lastS > pos) throw new Error(`pos ${pos} below the last frame ${lastS}`);
    }
  };

  for (const client of clients) connect(client);
  const open = () => [...connections.values()].filter((connection) => !connection.closed);
  const settled = () =>
    log.length >= commitCount &&
    delivered === log.length &&
    later.length === 0 &&
    tailUp &&
    open().length === clients.length &&
    open().every((connection) => connection.buffer.length === 0) &&
    [...seam.subscriptions()].every(({ mode }) => mode === "live");

  for (let step = 0; step < 50_000 && !settled(); step++) {
    const writing = log.length < commitCount;
    const dice = next();
    if (!tailUp && (!writing || dice > 0.95)) {
      tailUp = true;
      seam.tailBack();
    } else if (dice < 0.2 && writing) publish();
    else if (dice < 0.35 && tailUp) tail(1 + upTo(5));
    else if (dice < 0.45) project(1 + upTo(10));
    else if (dice < 0.6) runLater();
    else if (dice < 0.63 || (!writing && dice < 0.7)) {
      const client = pick(clients);
      const connection = connections.get(client);
      if (connection === undefined || connection.closed) connect(client);
      else if (writing && chance(0.3)) cut(connection);
    } else if (dice < 0.65) for (const connection of open()) connection.control(seam.heartbeat(connection));
    else if (dice < 0.655 && writing) {
      tailUp = false;
      seam.tailLost();
    } else if (dice < 0.66) {
      const all: Subscription[] = [...seam.subscriptions()];
      if (all.length > 0) seam.demote(pick(all), "slow");
    } else {
      const connection = pick([...connections.values()]);
      for (let n = 1 + upTo(3); n > 0 && connection.buffer.length > 0; n--) receive(connection);
      if (connection.buffer.length <= limits.lowBytes) seam.pumpAll(connection);
    }
    if (chance(0.1)) for (const connection of open()) seam.pumpAll(connection);
    check();
  }
  for (const connection of open()) {
    connection.control(seam.heartbeat(connection));
    while (connection.buffer.length > 0) receive(connection);
  }

  let missed = 0;
  let badEnds = 0;
  let disorder = false;
  for (const watch of clients.flat()) {
    const end = watch.untilClosed === null ? undefined : closedAt.get(watch.untilClosed);
    if (watch.ended !== (end === undefined ? 0 : 1)) badEnds++;
    const matching = log.filter((commit) => matches(watch.filter, commit));
    // What comes after the close may or may not be seen: the subscription may end with the batch.
    const wanted = matching.filter(({ sequence: s }) => s <= (end ?? Infinity)).map(({ sequence: s }) => s);
    const all = matching.map(({ sequence: s }) => s);
    missed += wanted.filter((s) => !watch.got.includes(s)).length;
    if (watch.got.some((s, n) => s !== all[n])) disorder = true;
  }
  return {
    ok: settled() && missed === 0 && repeated === 0 && alarms === 0 && badEnds === 0 && !disorder,
    settled: settled(),
    missed,
    repeated,
    alarms,
    badEnds,
    stats,
  };
}
