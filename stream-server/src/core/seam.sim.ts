/**
 * A seeded world around the seam: a log, a tail that lags, a projection that lags or runs ahead, connections that
 * drain by chance and are cut, clients that keep a cursor per subscription. Used by `seam.sim.test.ts`.
 */
import {
  attributesAfter,
  isClosed,
  matchesAround,
  matchesEvent,
  matchesRun,
  matchesStatus,
  noAttributes,
  type Attributes,
  type AttributesAround,
  type Filter,
  type RunStatus,
  type ServerFrame,
  type StatusAround,
  type StreamBatch,
  type StreamShape,
  type WorkflowEvent,
  type WorkflowRow,
} from "@millrace/schemas";
import { isWhole, type EncodedFrame, type Entry } from "./entry.ts";
import { closesRun, matchesCommit, type RunCommit } from "./run-commit.ts";
import type { Seam, SeamLimits, SeamPort } from "./seam.ts";
import { FoldedRow, StateStep } from "./state-step.ts";
import type { Outlet, Payload, Subscription } from "./subscription.ts";
import { skipsCommits, type Topic, type TopicShape } from "./topic.ts";

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
  /** Rows that are not what the run was as of the entry, or sent whole to somebody who had them. */
  readonly badRows: number;
  /** Frames sent over a full window, and acknowledgements of what was never sent that were believed. */
  readonly overruns: number;
  /** Batches sent too early or held too long. */
  readonly badBatches: number;
  readonly stats: Stats;
}

export type Stats = Readonly<Record<keyof typeof noStats, number>>;

export const noStats = {
  demoted: 0,
  windowed: 0,
  promoted: 0,
  read: 0,
  cut: 0,
  ended: 0,
  bookmarks: 0,
  asked: 0,
  acknowledged: 0,
  held: 0,
  snapshots: 0,
  changedRows: 0,
  wholeRows: 0,
};

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
  readonly shape: StreamShape;
  readonly untilClosed: string | null;
  readonly window: number | undefined;
  readonly batch: StreamBatch | undefined;
  /** Begins with rows; then the cursor counts from them. */
  readonly fromSnapshot: boolean;
  /** Null until the snapshot has come. */
  cursor: number | null;
  /** Where its stream begins. */
  since: number;
  ended: number;
  readonly got: number[];
}

/** One subscription on one connection, as the client and an honest accountant see it. */
interface Follow {
  readonly watch: Watch;
  readonly subscription: Subscription;
  readonly rows: Map<string, Record<string, unknown>>;
  /** Sequence and number of entries of each commit sent, and what was acknowledged. */
  readonly sent: (readonly [sequence: number, count: number])[];
  acknowledged: number;
}

type Sent = readonly [sequence: number, count: number, workflowId: string, fields: string | null];
type DataFrame = { t: "ev" | "bm"; i?: undefined; f: number; p: number; s: number; d?: Sent[] };
interface SnapshotFrame {
  readonly t: "snapshot";
  readonly watch: Watch;
  readonly s: number;
  readonly rows: readonly WorkflowRow[];
}

class Connection implements Outlet {
  readonly byF = new Map<number, Follow>();
  readonly byI = new Map<number, Follow>();
  readonly buffer: unknown[] = [];
  readonly onSent: (follow: Follow, entries: readonly Sent[]) => void;
  closed = false;
  constructor(onSent: (follow: Follow, entries: readonly Sent[]) => void) {
    this.onSent = onSent;
  }
  bufferedBytes(): number {
    return this.buffer.length;
  }
  send(payload: Payload): void {
    if (this.closed) return;
    const frame = JSON.parse(String(payload)) as DataFrame;
    const follow = this.byF.get(frame.f);
    if (follow !== undefined && frame.d !== undefined) this.onSent(follow, frame.d);
    this.buffer.push(frame);
  }
  control(frame: ServerFrame): void {
    if (!this.closed) this.buffer.push(frame);
  }
}

const workflows = ["a", "b", "c", "d"];
const runTypes = ["x", "y"];
const openStatuses = ["running", "waiting", "stuck"] as const;

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
    bookmarkSequences: 1 + upTo(30),
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
  const stats = { ...noStats };
  let repeated = 0;
  let alarms = 0;
  let badRows = 0;
  let overruns = 0;
  let badBatches = 0;
  /** Of the seam's clock. */
  let now = 0;
  let wakeAt = Infinity;
  /** When an entry came that a batch may hold back, and whether a run closed in this turn. */
  const arrivals = new WeakMap<Entry, { readonly at: number; readonly batch: StreamBatch }>();
  let closing = false;

  const countOf = (filter: Filter, shape: TopicShape, commit: RunCommit) => {
    if (shape === "state") return 1;
    const events = commit.events.filter(({ type }) => matchesEvent(filter, type)).length;
    return shape === "both" ? events + 1 : events;
  };
  /** What each commit does to its run's row: the truth. */
  const steps = new Map<number, StateStep>();
  const stepOf = ({ sequence: s }: RunCommit) => steps.get(s) ?? null;
  const entryOf = ({ filter, shape }: Topic, commit: RunCommit): Entry => ({
    commit,
    count: countOf(filter, shape, commit),
    step: shape === "events" ? null : stepOf(commit),
  });
  const frameOf = (
    f: number,
    p: number,
    s: number,
    entries: readonly Entry[],
    began: number,
  ): EncodedFrame => {
    const d = entries.map((entry): Sent => {
      const { commit, count, step } = entry;
      const fields = step === null ? null : isWhole(entry, began) ? step.whole() : step.changed();
      return [commit.sequence, count, commit.workflowId, fields];
    });
    return {
      s,
      payloads: [JSON.stringify({ t: "ev", f, p, s, d })],
      marks: entries.flatMap(({ commit, count }) => [commit.sequence, count]),
      count: entries.reduce((sum, { count }) => sum + count, 0),
    };
  };
  const checkpoint = () => log[projected - 1]?.sequence ?? 0;
  /** What the runs have around each commit: the truth. */
  const arounds = new Map<number, AttributesAround>();
  const around = ({ sequence: s }: RunCommit): AttributesAround =>
    arounds.get(s) ?? { before: noAttributes, after: noAttributes };
  const statusAround = (commit: RunCommit): StatusAround =>
    stepOf(commit)?.status ?? { before: null, after: "running" };
  const matches = (filter: Filter, commit: RunCommit) =>
    matchesCommit(filter, commit) &&
    matchesAround(filter, around(commit)) &&
    matchesStatus(filter, statusAround(commit));

  const port: SeamPort = {
    now: () => now,
    wakeAt(time) {
      wakeAt = time;
    },
    entriesOf(topic, commits) {
      if (topic.shape !== "events" && chance(0.1)) return null;
      const entries = commits.map((commit) => entryOf(topic, commit));
      const { batch } = topic;
      if (batch !== null) for (const entry of entries) arrivals.set(entry, { at: now, batch });
      return entries;
    },
    encodeEntries(topic, p, entries, began) {
      if (chance(0.02)) return null;
      const frames: EncodedFrame[] = [];
      let from = p;
      for (let n = 0; n < entries.length;) {
        const part = entries.slice(n, n + 1 + upTo(3));
        n += part.length;
        const s = part.at(-1)?.commit.sequence ?? 0;
        frames.push(frameOf(topic.f, from, s, part, began));
        from = s;
      }
      return frames;
    },
    encodePage({ topic, lastS, began }, page, room) {
      const { filter } = topic;
      const asks = topic.shape !== "events" || filter.attr !== undefined || filter.status !== undefined;
      if (asks && chance(0.1)) return null;
      const stop = chance(0.3) ? 1 + upTo(page.commits.length) : Infinity;
      const entries: Entry[] = [];
      let count = 0;
      let upToHere = page.upTo;
      for (const [n, commit] of page.commits.entries()) {
        if (matches(filter, commit)) {
          const entry = entryOf(topic, commit);
          entries.push(entry);
          count += entry.count;
        }
        if ((count < room && n + 1 < stop) || n === page.commits.length - 1) continue;
        upToHere = commit.sequence;
        break;
      }
      const frame = entries.length === 0 ? null : frameOf(topic.f, lastS, upToHere, entries, began);
      return { upTo: upToHere, frame };
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
    statusAround: (commit) => {
      stats.asked++;
      return chance(0.05) ? null : statusAround(commit);
    },
    closedAsOf(workflowId, at) {
      if (chance(0.1)) return null;
      return (closedAt.get(workflowId) ?? Infinity) <= at;
    },
    onDemoted(_subscription, why) {
      stats.demoted++;
      if (why === "window") stats.windowed++;
    },
    onPromoted: () => stats.promoted++,
    onBroadcast(_frames, entries) {
      const first = entries[0] === undefined ? undefined : arrivals.get(entries[0]);
      if (first === undefined) return;
      const { at, batch } = first;
      const full = entries.reduce((sum, { count }) => sum + count, 0) >= batch.max;
      if (now >= at + batch.ms) stats.held++;
      else if (!full && !closing) badBatches++;
    },
  };
  const seam = new SeamUnderTest(port, 0, limits);

  const clients: Watch[][] = [];
  const connections = new Map<Watch[], Connection>();
  for (let c = 0; c < 5; c++) {
    const watches: Watch[] = [];
    for (let i = 0; i < 1 + upTo(3); i++) {
      const workflow = pick(workflows);
      // What several follow: they share frames, and began at different places.
      const common = i === 0 && chance(0.4);
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
        { status: ["waiting"] },
        { status: ["stuck", "completed"], workflow: workflows.slice(1) },
        { status: ["running"], attr: { customer: [1, 2] } },
      ]);
      const single = !common && filter.workflow?.length === 1 && filter.workflow[0] !== "nobody";
      const untilClosed = single && chance(0.9) ? workflow : null;
      const fromSnapshot = chance(0.3);
      watches.push({
        i,
        filter: common ? {} : filter,
        shape: common ? "state" : pick(["events", "state", "both"]),
        untilClosed,
        window: chance(0.4) ? 1 + upTo(8) : undefined,
        batch: !common && chance(0.4) ? { max: 1 + upTo(6), ms: 1 + upTo(30) } : undefined,
        fromSnapshot,
        cursor: fromSnapshot ? null : 0,
        since: 0,
        ended: 0,
        got: [],
      });
    }
    clients.push(watches);
  }

  /** I7, by an account of its own: all but the last commit lies within the window. */
  const account = (follow: Follow, entries: readonly Sent[]) => {
    const { window } = follow.watch;
    if (window === undefined) return;
    for (const [s, count] of entries) follow.sent.push([s, count]);
    const open = follow.sent.filter(([s]) => s > follow.acknowledged);
    const last = open.pop();
    if (last !== undefined && open.reduce((sum, [, count]) => sum + count, 0) >= window) overruns++;
  };
  const connect = (client: Watch[]) => {
    const connection = new Connection(account);
    connections.set(client, connection);
    for (const watch of client) {
      if (watch.ended > 0) continue;
      const { i, filter, shape, cursor, untilClosed, window, batch } = watch;
      const snapshot = cursor === null;
      const pos = cursor ?? checkpoint();
      const options = { untilClosed, window, batch, snapshot };
      const subscription = seam.subscribe(connection, i, filter, shape, pos, options);
      if (connection.byF.has(subscription.topic.f))
        throw new Error("two subscriptions of one socket share f");
      const follow: Follow = { watch, subscription, rows: new Map(), sent: [], acknowledged: 0 };
      connection.byF.set(subscription.topic.f, follow);
      connection.byI.set(i, follow);
      if (snapshot) {
        stats.snapshots++;
        const rows = rowsAt(pos).filter((row) => matchesRun(filter, row.id, row.type));
        connection.buffer.push({ t: "snapshot", watch, s: pos, rows } satisfies SnapshotFrame);
        later.push(() => seam.onReady(subscription));
      } else seam.pump(subscription);
    }
  };
  const acknowledge = (follow: Follow) => {
    const { watch, subscription } = follow;
    const latest = watch.cursor ?? 0;
    if (subscription.mode === "ended") return;
    if (chance(0.1) && seam.acknowledge(subscription, subscription.pos + 1 + upTo(3))) overruns++;
    const said = chance(0.7) ? latest : upTo(latest + 1);
    follow.acknowledged = Math.max(follow.acknowledged, said);
    stats.acknowledged++;
    if (!seam.acknowledge(subscription, said)) overruns++;
  };
  const cut = (connection: Connection) => {
    stats.cut++;
    connection.closed = true;
    connection.buffer.length = 0;
    seam.disconnect(connection);
  };

  const take = ({ watch, rows }: Follow, [, , workflowId, text]: Sent, truth: StateStep | null) => {
    if (text === null) return;
    const fields = JSON.parse(text) as Record<string, unknown>;
    const had = rows.get(workflowId);
    const whole = "type" in fields;
    if (whole) stats.wholeRows++;
    else stats.changedRows++;
    const row = { ...had, ...fields };
    if (JSON.stringify(sorted(row)) !== JSON.stringify(sorted({ ...truth?.row }))) badRows++;
    const wanted = had === undefined || isClosed(had["status"] as RunStatus) || skipsCommits(watch.filter);
    if (whole !== wanted) badRows++;
    rows.set(workflowId, row);
  };
  const receive = (connection: Connection) => {
    const frame = connection.buffer.shift() as
      | DataFrame
      | SnapshotFrame
      | Extract<ServerFrame, { t: "hb" }>
      | Extract<ServerFrame, { t: "live" | "end" }>;
    if (frame.t === "ev" || frame.t === "bm") {
      if (++dataFrames === faults.loseFrame) return;
      const follow = connection.byF.get(frame.f);
      if (follow === undefined) throw new Error(`frame for an unknown f ${frame.f}`);
      const { watch } = follow;
      const cursor = watch.cursor ?? Infinity;
      if (frame.p > cursor) alarms++;
      if (frame.s <= cursor) repeated++;
      for (const entry of frame.d ?? []) {
        if (entry[0] <= cursor || entry[0] > frame.s) repeated++;
        watch.got.push(entry[0]);
        take(follow, entry, steps.get(entry[0]) ?? null);
      }
      watch.cursor = Math.max(cursor, frame.s);
    } else if (frame.t === "snapshot") {
      const { watch, s, rows } = frame;
      watch.cursor = watch.since = s;
      const kept = connection.byI.get(watch.i)?.rows;
      for (const row of rows) kept?.set(row.id, { ...row });
    } else if (frame.t === "hb") {
      for (const [f, last] of frame.l) {
        const watch = connection.byF.get(f)?.watch;
        if (watch === undefined) continue;
        const cursor = watch.cursor ?? 0;
        if (last > cursor) alarms++;
        watch.cursor = Math.max(cursor, frame.s);
      }
      for (const [f, sent] of frame.w ?? []) if (sent > (connection.byF.get(f)?.watch.cursor ?? 0)) alarms++;
    } else if (frame.t === "live" || frame.t === "end") {
      const watch = connection.byI.get(frame.i)?.watch;
      if (watch === undefined) throw new Error(`frame for an unknown i ${frame.i}`);
      if (frame.s > (watch.cursor ?? 0)) alarms++;
      if (frame.t === "end") {
        watch.ended++;
        stats.ended++;
      }
    }
  };

  const current = new Map<string, Attributes>();
  const rowNow = new Map<string, FoldedRow>();
  const rowsAt = (upToSequence: number): WorkflowRow[] => {
    const rows = new Map<string, WorkflowRow>();
    for (const commit of log) {
      const row = stepOf(commit)?.row;
      if (commit.sequence <= upToSequence && row !== undefined) rows.set(commit.workflowId, row);
    }
    return [...rows.values()];
  };
  const publish = () => {
    sequence += chance(0.2) ? 1 + upTo(4) : 1;
    const workflowId = pick(workflows);
    const finish = log.length > commitCount / 2 && !closedAt.has(workflowId) && chance(0.07);
    if (finish) closedAt.set(workflowId, sequence);
    const types = finish
      ? ["WorkflowCompleted"]
      : Array.from({ length: chance(0.3) ? 2 : 1 }, () =>
          pick(["StepStarted", "StepCompleted", "ProgressReported", "AttributesUpserted"]),
        );
    const attributes = { [pick(["customer", "region"])]: pick(["1", 2, "eu", null]) };
    const events = types.map((type) => ({ type, data: { attributes } }) as unknown as WorkflowEvent);
    const before = current.get(workflowId) ?? noAttributes;
    const after = attributesAfter(before, events);
    current.set(workflowId, after);
    arounds.set(sequence, { before, after });
    const rowBefore = rowNow.get(workflowId) ?? null;
    const statusBefore = rowBefore?.row.status ?? null;
    const status = finish
      ? "completed"
      : statusBefore !== null && isClosed(statusBefore)
        ? statusBefore
        : pick(openStatuses);
    const type = workflowId < "c" ? "x" : "y";
    const row = { id: workflowId, type, status, message: upTo(3), currentStep: upTo(3), sequence };
    const rowAfter = new FoldedRow(row as unknown as WorkflowRow);
    rowNow.set(workflowId, rowAfter);
    steps.set(sequence, new StateStep(rowBefore, rowAfter, { before: statusBefore, after: status }));
    log.push({ sequence, workflowId, type, at: 0, condition: null, events, bytes: 1 });
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
    closing = batch.some(closesRun);
    seam.onTail(batch);
    closing = false;
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
      const [oldest] = topic.held;
      const arrival = oldest === undefined ? undefined : arrivals.get(oldest);
      if (arrival !== undefined && now >= arrival.at + arrival.batch.ms) badBatches++;
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
    [...seam.subscriptions()].every(({ mode, topic }) => mode === "live" && topic.held.length === 0);

  for (let step = 0; step < 50_000 && !settled(); step++) {
    const writing = log.length < commitCount;
    now += upTo(3);
    if (wakeAt <= now) {
      wakeAt = Infinity;
      seam.flushDue();
    }
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
    for (const connection of open()) {
      for (const follow of connection.byF.values())
        if (follow.watch.window !== undefined && chance(0.1)) acknowledge(follow);
    }
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
    const matching = log.filter((commit) => commit.sequence > watch.since && matches(watch.filter, commit));
    // What comes after the close may or may not be seen: the subscription may end with the batch.
    const wanted = matching.filter(({ sequence: s }) => s <= (end ?? Infinity)).map(({ sequence: s }) => s);
    const all = matching.map(({ sequence: s }) => s);
    missed += wanted.filter((s) => !watch.got.includes(s)).length;
    if (watch.got.some((s, n) => s !== all[n])) disorder = true;
  }
  return {
    ok:
      settled() && !disorder && missed + repeated + alarms + badEnds + badRows + overruns + badBatches === 0,
    settled: settled(),
    missed,
    repeated,
    alarms,
    badEnds,
    badRows,
    overruns,
    badBatches,
    stats,
  };
}

function sorted(row: Record<string, unknown>): readonly unknown[] {
  return Object.keys(row)
    .sort()
    .map((key) => [key, row[key]]);
}
