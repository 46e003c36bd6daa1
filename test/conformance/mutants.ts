/** Servers with one bug each, as servers of streams have had them. The suite must find every one. */
import type { Entry, Frame } from "./frame.ts";
import type { Mutant, MutantSession } from "./mutant-proxy.ts";

interface Known {
  readonly i: number;
  readonly resumed: boolean;
  readonly sub: Readonly<Record<string, unknown>>;
  /** Of the last `ev`. */
  last: Frame | null;
  /** The mutant has done its deed. */
  done: boolean;
  live: boolean;
  behind: boolean;
}

/** Sees subscriptions come and be named; `change` gets each later frame with what is known of its subscription. */
function perSubscription(
  change: (frame: Frame, known: Known) => readonly Frame[],
  up: (frame: Readonly<Record<string, unknown>>) => readonly object[] = (frame) => [frame],
): MutantSession {
  const subs = new Map<number, Readonly<Record<string, unknown>>>();
  const byF = new Map<number, Known>();
  const byI = new Map<number, Known>();
  return {
    up(frame) {
      if (frame["t"] === "sub") subs.set(Number(frame["i"]), frame);
      return up(frame);
    },
    down(frame) {
      const { t, i = -1, f = -1 } = frame;
      if (t === "subbed") {
        const known = {
          ...{ i, resumed: frame.resumed === true, sub: subs.get(i) ?? {} },
          ...{ last: null, done: false, live: false, behind: false },
        };
        byF.set(f, known);
        byI.set(i, known);
      }
      const known = byF.get(f) ?? byI.get(i);
      if (known === undefined) return [frame];
      const changed = change(frame, known);
      if (t === "ev") known.last = frame;
      if (t === "live") [known.live, known.behind] = [true, false];
      if (t === "behind") [known.live, known.behind] = [false, true];
      return changed;
    },
  };
}

/** The frame without its first commit: the same claim, one commit less. */
function withoutFirst(frame: Frame): Frame {
  const { f = 0, p = 0, s = 0, d = [] } = frame;
  const left = d.filter(([sequence]) => sequence !== d[0]?.[0]);
  return left.length > 0 ? { ...frame, d: left } : { t: "bm", f, p, s };
}

const mutant = (name: string, session: () => MutantSession): Mutant => ({ name, session });

const onEvents =
  (change: (frame: Frame, known: Known) => readonly Frame[]) =>
  (frame: Frame, known: Known): readonly Frame[] =>
    frame.t === "ev" ? change(frame, known) : [frame];

/** The proxy by itself: the suite must hold through it. */
export const noMutant: Mutant = { name: "none", session: () => perSubscription((frame) => [frame]) };

export const mutants: readonly Mutant[] = [
  mutant("drops the first event after a resume", () =>
    perSubscription(
      onEvents((frame, known) => {
        if (!known.resumed || known.done) return [frame];
        known.done = true;
        return [withoutFirst(frame)];
      }),
    ),
  ),
  mutant("repeats the last event at the seam", () =>
    perSubscription(
      onEvents((frame, known) => {
        if (!known.live || known.done || known.last === null) return [frame];
        known.done = true;
        const { p = 0, d: before = [] } = known.last;
        const last = before.filter(([sequence]) => sequence === before.at(-1)?.[0]);
        return [{ ...frame, p, d: [...last, ...(frame.d ?? [])] }];
      }),
    ),
  ),
  mutant("takes a cursor for inclusive", () => {
    const asked = new Map<unknown, number>();
    return {
      up(frame) {
        const cursor = /^([0-9a-f]+)\.([0-9]+)$/.exec(typeof frame["from"] === "string" ? frame["from"] : "");
        const sequence = Number(cursor?.[2] ?? 0);
        if (frame["t"] !== "sub" || sequence === 0) return [frame];
        asked.set(frame["i"], sequence);
        return [{ ...frame, from: `${cursor?.[1]}.${sequence - 1}` }];
      },
      down: (frame) => {
        const sequence = asked.get(frame.i);
        return frame.t === "subbed" && sequence !== undefined ? [{ ...frame, s: sequence }] : [frame];
      },
    };
  }),
  mutant("names 0 as the last matching sequence in heartbeats", () => ({
    down: (frame) =>
      frame.t === "hb" ? [{ ...frame, l: (frame.l ?? []).map(([f]) => [f, 0] as const) }] : [frame],
  })),
  mutant("leaves subscriptions out of heartbeats", () => ({
    down: (frame) => (frame.t === "hb" ? [{ ...frame, l: [] }] : [frame]),
  })),
  mutant("sends a heartbeat that is ahead of what was sent", () => ({
    down: (frame) =>
      frame.t === "hb"
        ? [{ ...frame, s: (frame.s ?? 0) + 4, l: (frame.l ?? []).map(([f, last]) => [f, last + 4] as const) }]
        : [frame],
  })),
  mutant("sends bookmarks ahead of events that were not sent", () =>
    perSubscription(
      onEvents((frame, known) => {
        if (known.done || known.last !== null) return [frame];
        known.done = true;
        const { f = 0, p = 0, s = 0, d = [] } = frame;
        const first = d[0]?.[0] ?? s;
        const rest = d.filter(([sequence]) => sequence !== first);
        const ahead: Frame = { t: "bm", f, p, s: first };
        return rest.length === 0 ? [ahead] : [ahead, { t: "ev", f, p: first, s, d: rest }];
      }),
    ),
  ),
  mutant("writes a wrong p", () => ({
    down: (frame) => (frame.t === "ev" ? [{ ...frame, p: (frame.s ?? 1) - 1 }] : [frame]),
  })),
  mutant("loses a live frame now and then and hides it in the next p", () =>
    perSubscription(
      onEvents((frame, known) => {
        if (!known.live || known.last === null) return [frame];
        if ((frame.s ?? 0) % 3 === 0) return [];
        return [{ ...frame, p: known.last.p ?? 0 }];
      }),
    ),
  ),
  mutant("leaves out what comes right after a snapshot, as if the snapshot had it", () =>
    perSubscription(
      onEvents((frame, known) => {
        if (known.sub["from"] !== "snapshot" || known.done) return [frame];
        known.done = true;
        return [withoutFirst(frame)];
      }),
    ),
  ),
  mutant("says that a snapshot is older than it is", () => {
    const fs = new Map<number, number>();
    return {
      down(frame) {
        const { t, i = -1, f = -1, s = 0, p = 0 } = frame;
        if (t === "subbed" && frame.mode === "snapshot") fs.set(f, i);
        if (t === "snapend") return [{ ...frame, s: s - 1 }];
        return (t === "ev" || t === "bm") && fs.has(f) ? [{ ...frame, p: p - 1 }] : [frame];
      },
    };
  }),
  mutant("drops what comes first after a demotion", () =>
    perSubscription(
      onEvents((frame, known) => {
        if (!known.behind || known.done) return [frame];
        known.done = true;
        return [withoutFirst(frame)];
      }),
    ),
  ),
  mutant("tears a commit apart", () => ({
    down(frame) {
      const { f = 0, p = 0, s = 0, d = [] } = frame;
      const at = d.findIndex(([sequence], n) => d[n + 1]?.[0] === sequence);
      if (frame.t !== "ev" || at < 0) return [frame];
      const first = d[at]?.[0] ?? s;
      return [
        { t: "ev", f, p, s: first, d: d.slice(0, at + 1) },
        { t: "ev", f, p: first, s, d: d.slice(at + 1) },
      ];
    },
  })),
  mutant("begins at the head instead of saying gone", () => ({
    down(frame) {
      const { t, i = 0, head = 0 } = frame;
      if (t !== "gone") return [frame];
      return [
        { t: "subbed", i, f: 1_000_000 + i, mode: "live", s: head, head, resumed: true },
        { t: "live", i, s: head },
      ];
    },
  })),
  mutant("swaps the order of events", () => ({
    down: (frame) => (frame.t === "ev" ? [{ ...frame, d: (frame.d ?? []).toReversed() }] : [frame]),
  })),
  mutant("makes the difference of a state against a wrong base", () => ({
    down: (frame) => (frame.t === "ev" ? [{ ...frame, d: (frame.d ?? []).map(wrongBase) }] : [frame]),
  })),
  mutant("ignores windows", () => ({
    up: (frame) => {
      if (frame["t"] === "ack") return [];
      const { window: _window, ...rest } = frame;
      return [rest];
    },
  })),
  mutant("never goes on after an ack", () => ({ up: (frame) => (frame["t"] === "ack" ? [] : [frame]) })),
  mutant("ignores batches", () => ({
    up: (frame) => {
      const { batch: _batch, ...rest } = frame;
      return [rest];
    },
  })),
  mutant("ends before the last event", () =>
    perSubscription((frame, known) => {
      const closes = frame.t === "ev" && (frame.d ?? []).some(([, type]) => type === "WorkflowCompleted");
      if (known.sub["until"] !== "closed" || !closes) return frame.t === "end" && known.done ? [] : [frame];
      known.done = true;
      return [{ t: "end", i: known.i, s: frame.p ?? 0 }, frame];
    }),
  ),
  mutant("says live before it has caught up", () =>
    perSubscription((frame, known) => {
      if (frame.t === "subbed" && frame.mode === "catchup")
        return [frame, { t: "live", i: known.i, s: frame.head ?? 0 }];
      return [frame];
    }),
  ),
  mutant("sends events that the filter leaves out", () => ({
    up: (frame) => {
      const filter = frame["filter"];
      if (frame["t"] !== "sub" || typeof filter !== "object" || filter === null || Array.isArray(filter))
        return [frame];
      const { event: _event, ...rest } = filter as Readonly<Record<string, unknown>>;
      return [{ ...frame, filter: rest }];
    },
  })),
];

/** A changed field that the row of before had as well is left out. */
function wrongBase(entry: Entry): Entry {
  const [sequence, type, id, at, fields] = entry;
  if (type !== "state" || "type" in fields) return entry;
  const { steps: _steps, ...rest } = fields;
  return [sequence, type, id, at, rest];
}
