/**
 * One subscription as a value: what it has processed, and what comes next.
 *
 * Owns: the position, the judgement of every frame against it, the decision to resume, pause, restart or end.
 * Does not own: the socket, wire ids, clock, buffers, callbacks (see `subscription.ts`).
 *
 * I1 The position never moves back, and moves to `s` only with a frame whose `p` is at or before it, a
 *    heartbeat whose last match is, or where the server says that it begins (`subbed`, `snapend`).
 * I2 An event at or before the position is never delivered.
 * I3 A gap never passes: it is counted, reported, and read again from the position.
 * I4 A cursor that the server refuses ends the subscription, or restarts it with a notice; never silently.
 * I5 After `ended` nothing happens any more.
 *
 * Tested with random frames in `subscription-machine.prop.test.ts`, with cuts, losses and repeats in
 * `client.sim.test.ts`, and over real sockets in `client.test.ts`.
 */
import {
  errorCodeOf,
  formatCursor,
  MillraceError,
  type BehindReason,
  type Cursor,
  type EventEntry,
  type StateEntry,
  type SubscriptionMode,
  type WorkflowRow,
} from "@millrace/schemas";
import { placeEntries, type PlacedItem, type SnapshotItem } from "./items.ts";
import { goneError, type GoneNotice } from "./subscription-error.ts";

/** Where a subscription without a cursor begins. */
export type Origin = "start" | "now" | "snapshot";
/** What to do when the server cannot resume from the cursor. */
export type OnGone = "error" | "restart-from-snapshot" | "restart-from-start";

interface Mark {
  /** Epoch of the log that the present connection serves. */
  readonly epoch: string;
  readonly position: Cursor | null;
  readonly origin: Origin;
  /** Chain breaks since the position last moved. */
  readonly gapsInRow: number;
  readonly duplicatesUnreported: number;
}

export type SubscriptionState =
  /** No connection, or none that was asked yet. */
  | { readonly at: "detached"; readonly mark: Mark }
  /** The server asked to try again later. */
  | { readonly at: "waiting"; readonly mark: Mark; readonly until: number }
  | { readonly at: "asked"; readonly mark: Mark }
  /** `held` is the page that may be the last: its cursor comes with `snapend`. */
  | {
      readonly at: "snapshot";
      readonly mark: Mark;
      readonly held: readonly WorkflowRow[] | null;
      readonly pages: number;
    }
  | { readonly at: "catching-up"; readonly mark: Mark; readonly stale: boolean }
  | { readonly at: "live"; readonly mark: Mark }
  /** The consumer is slow: unsubscribed, to be resumed from the position. */
  | { readonly at: "paused"; readonly mark: Mark; readonly connected: boolean }
  | { readonly at: "ended"; readonly mark: Mark };

export type SubscriptionEvent =
  | { readonly type: "ready"; readonly epoch: string }
  | { readonly type: "lost" }
  /** `epoch`: where the connection could not know it before. */
  | {
      readonly type: "subbed";
      readonly mode: SubscriptionMode;
      readonly s: number;
      readonly epoch?: string | undefined;
    }
  | { readonly type: "rows"; readonly rows: readonly WorkflowRow[] }
  | { readonly type: "snapped"; readonly epoch: string; readonly s: number }
  /** `entries` is `null` for a bookmark. */
  | {
      readonly type: "chain";
      readonly p: number;
      readonly s: number;
      readonly entries: readonly (EventEntry | StateEntry)[] | null;
    }
  | { readonly type: "live"; readonly s: number }
  | { readonly type: "behind"; readonly why: BehindReason }
  /** `last`: the last sequence that matches; `undefined` when the server did not say. */
  | { readonly type: "heartbeat"; readonly s: number; readonly last: number | undefined }
  /** The server waits for an acknowledgement of what it sent up to here. */
  | { readonly type: "awaited"; readonly sent: number }
  | { readonly type: "end"; readonly s: number }
  | ({ readonly type: "gone" } & GoneNotice)
  | {
      readonly type: "refused";
      readonly code: string;
      readonly message: string;
      readonly retry: boolean;
      readonly retryAt: number;
    }
  | { readonly type: "full" }
  | { readonly type: "drained" }
  | { readonly type: "tick"; readonly now: number }
  | { readonly type: "close" }
  | { readonly type: "fail"; readonly error: Error };

export type SubscriptionEffect =
  | { readonly do: "subscribe"; readonly from: string }
  | { readonly do: "unsubscribe" }
  /** The server forgot the subscription by itself. */
  | { readonly do: "forget" }
  | { readonly do: "report"; readonly breaks: number; readonly duplicates: number }
  | { readonly do: "deliver"; readonly items: readonly PlacedItem[] }
  | { readonly do: "advance"; readonly position: Cursor }
  | { readonly do: "gap"; readonly after: Cursor; readonly p: number }
  | { readonly do: "duplicate" }
  | { readonly do: "reconnect"; readonly reason: string }
  | { readonly do: "finish" }
  | { readonly do: "fail"; readonly error: Error };

export interface SubscriptionStep {
  readonly state: SubscriptionState;
  readonly effects: readonly SubscriptionEffect[];
}

export interface SubscriptionRules {
  readonly onGone: OnGone;
}

/** Resuming in place did not help this often: the fault is in the node, so another connection is tried. */
const gapsInRowMax = 3;

type At = SubscriptionState["at"];
type EventName = SubscriptionEvent["type"];
type StateAt<S extends At> = Extract<SubscriptionState, { at: S }>;
type EventOf<E extends EventName> = Extract<SubscriptionEvent, { type: E }>;
type Cell<S extends At, E extends EventName> = (
  state: StateAt<S>,
  event: EventOf<E>,
  rules: SubscriptionRules,
) => SubscriptionStep;

/** The state before the first connection. `from` is a cursor that was read already, or an origin. */
export function initialSubscription(from: Cursor | Origin): SubscriptionState {
  const [position, origin] = typeof from === "string" ? ([null, from] as const) : ([from, "now"] as const);
  return { at: "detached", mark: { epoch: "", position, origin, gapsInRow: 0, duplicatesUnreported: 0 } };
}

function step(state: SubscriptionState, ...effects: SubscriptionEffect[]): SubscriptionStep {
  return { state, effects };
}

const stay = (state: SubscriptionState): SubscriptionStep => step(state);

function ask(mark: Mark, ...before: SubscriptionEffect[]): SubscriptionStep {
  const { position } = mark;
  const from = position === null ? mark.origin : formatCursor(position.epoch, position.sequence);
  return step({ at: "asked", mark }, ...before, { do: "subscribe", from });
}

function moved(mark: Mark, position: Cursor): Mark {
  return { ...mark, position, gapsInRow: 0 };
}

function attach(state: SubscriptionState, event: EventOf<"ready">): SubscriptionStep {
  return ask({ ...state.mark, epoch: event.epoch });
}

function detach(state: SubscriptionState): SubscriptionStep {
  return step({ at: "detached", mark: state.mark }, { do: "forget" });
}

function accept(state: StateAt<"asked">, event: EventOf<"subbed">): SubscriptionStep {
  const { mark } = state;
  if (event.mode === "snapshot") return step({ at: "snapshot", mark, held: null, pages: 0 });
  const position = mark.position ?? { epoch: event.epoch ?? mark.epoch, sequence: event.s };
  const next = mark.position === null ? moved(mark, position) : mark;
  const accepted: SubscriptionState =
    event.mode === "live" ? { at: "live", mark: next } : { at: "catching-up", mark: next, stale: false };
  return mark.position === null ? step(accepted, { do: "advance", position }) : step(accepted);
}

function page(rows: readonly WorkflowRow[], pages: number, end: Cursor | null): SubscriptionEffect {
  const cursor = end === null ? null : formatCursor(end.epoch, end.sequence);
  const item: SnapshotItem = { kind: "snapshot", rows, first: pages === 0, last: end !== null, cursor };
  return { do: "deliver", items: [{ item, position: end }] };
}

function takeRows(state: StateAt<"snapshot">, event: EventOf<"rows">): SubscriptionStep {
  if (state.held === null) return step({ ...state, held: event.rows });
  return step({ ...state, held: event.rows, pages: state.pages + 1 }, page(state.held, state.pages, null));
}

function endSnapshot(state: StateAt<"snapshot">, event: EventOf<"snapped">): SubscriptionStep {
  const position = { epoch: event.epoch, sequence: event.s };
  const next: SubscriptionState = { at: "catching-up", mark: moved(state.mark, position), stale: false };
  return step(next, page(state.held ?? [], state.pages, position));
}

function breakChain(mark: Mark, position: Cursor, p: number): SubscriptionStep {
  const gapsInRow = mark.gapsInRow + 1;
  const next = { ...mark, gapsInRow, duplicatesUnreported: 0 };
  const effects: SubscriptionEffect[] = [
    { do: "gap", after: position, p },
    { do: "report", breaks: 1, duplicates: mark.duplicatesUnreported },
    { do: "unsubscribe" },
  ];
  if (gapsInRow < gapsInRowMax) return ask(next, ...effects);
  const reason = `${gapsInRow} gaps in a row after ${formatCursor(position.epoch, position.sequence)}`;
  return step({ at: "detached", mark: { ...next, gapsInRow: 0 } }, ...effects, { do: "reconnect", reason });
}

function judge(state: StateAt<"live"> | StateAt<"catching-up">, event: EventOf<"chain">): SubscriptionStep {
  const { mark } = state;
  const { position } = mark;
  if (position === null) return step(state);
  if (event.s <= position.sequence) {
    // A bookmark repeats no event.
    if (event.entries === null) return step(state);
    const next = { ...mark, duplicatesUnreported: mark.duplicatesUnreported + 1 };
    return step({ ...state, mark: next }, { do: "duplicate" });
  }
  if (event.p > position.sequence) return breakChain(mark, position, event.p);
  const end = { epoch: position.epoch, sequence: event.s };
  const items = event.entries === null ? [] : placeEntries(event.entries, position, event.s);
  const effect: SubscriptionEffect =
    items.length === 0 ? { do: "advance", position: end } : { do: "deliver", items };
  return step({ ...state, mark: moved(mark, end) }, effect);
}

function goLive(state: StateAt<"catching-up"> | StateAt<"live">, event: EventOf<"live">): SubscriptionStep {
  const { mark } = state;
  // A frame or a bookmark brought the position here before: else one was lost.
  if (mark.position !== null && event.s > mark.position.sequence) {
    return breakChain(mark, mark.position, event.s);
  }
  return step({ at: "live", mark });
}

function fallBehind(
  state: StateAt<"catching-up"> | StateAt<"live">,
  event: EventOf<"behind">,
): SubscriptionStep {
  return step({ at: "catching-up", mark: state.mark, stale: event.why === "tail" });
}

function beat(state: StateAt<"live">, event: EventOf<"heartbeat">): SubscriptionStep {
  const { mark } = state;
  const { position } = mark;
  // Head alone would hide a lost frame, so without the last match the position stays.
  if (position === null || event.last === undefined) return step(state);
  if (event.last > position.sequence) return breakChain(mark, position, event.last);
  const effects: SubscriptionEffect[] = [];
  let next = mark;
  if (mark.duplicatesUnreported > 0) {
    effects.push({ do: "report", breaks: 0, duplicates: mark.duplicatesUnreported });
    next = { ...next, duplicatesUnreported: 0 };
  }
  if (event.s > position.sequence) {
    const end = { epoch: position.epoch, sequence: event.s };
    effects.push({ do: "advance", position: end });
    next = moved(next, end);
  }
  return next === mark ? step(state) : step({ ...state, mark: next }, ...effects);
}

/** Who missed a frame has nothing to acknowledge: without this both would wait for each other. */
function awaited(state: StateAt<"catching-up">, event: EventOf<"awaited">): SubscriptionStep {
  const { position } = state.mark;
  if (position === null || event.sent <= position.sequence) return step(state);
  return breakChain(state.mark, position, event.sent);
}

function complete(state: StateAt<"catching-up"> | StateAt<"live">, event: EventOf<"end">): SubscriptionStep {
  const { mark } = state;
  if (mark.position !== null && event.s > mark.position.sequence) {
    return breakChain(mark, mark.position, event.s);
  }
  return step({ at: "ended", mark }, { do: "forget" }, { do: "finish" });
}

function lose(state: SubscriptionState, event: EventOf<"gone">, rules: SubscriptionRules): SubscriptionStep {
  const { mark } = state;
  const { position } = mark;
  // Without a cursor a restart would ask for the same again, for ever.
  if (rules.onGone === "error" || position === null) {
    return step({ at: "ended", mark }, { do: "forget" }, { do: "fail", error: goneError(position, event) });
  }
  const origin = rules.onGone === "restart-from-start" ? "start" : "snapshot";
  const { why, first, head } = event;
  const lost = formatCursor(position.epoch, position.sequence);
  const item = { kind: "restart", why, from: origin, lost, first, head, cursor: null } as const;
  return ask(
    { ...mark, position: null, origin },
    { do: "forget" },
    { do: "deliver", items: [{ item, position: null }] },
  );
}

function refuse(state: SubscriptionState, event: EventOf<"refused">): SubscriptionStep {
  const { mark } = state;
  if (event.retry) return step({ at: "waiting", mark, until: event.retryAt }, { do: "forget" });
  const error = new MillraceError(errorCodeOf(event.code), `Subscription refused: ${event.message}`, {
    retryable: false,
    details: { code: event.code },
  });
  return step({ at: "ended", mark }, { do: "forget" }, { do: "fail", error });
}

function pause(state: SubscriptionState): SubscriptionStep {
  return step({ at: "paused", mark: state.mark, connected: true }, { do: "unsubscribe" });
}

const pausedReady = (state: StateAt<"paused">, event: EventOf<"ready">): SubscriptionStep =>
  step({ at: "paused", mark: { ...state.mark, epoch: event.epoch }, connected: true });
const pausedLost = (state: StateAt<"paused">): SubscriptionStep => step({ ...state, connected: false });
const unpause = (state: StateAt<"paused">): SubscriptionStep =>
  state.connected ? ask(state.mark) : step({ at: "detached", mark: state.mark });

const retry = (state: StateAt<"waiting">, event: EventOf<"tick">): SubscriptionStep =>
  event.now >= state.until ? ask(state.mark) : step(state);

const close = (state: SubscriptionState): SubscriptionStep =>
  step({ at: "ended", mark: state.mark }, { do: "unsubscribe" }, { do: "finish" });
const fail = (state: SubscriptionState, event: EventOf<"fail">): SubscriptionStep =>
  step({ at: "ended", mark: state.mark }, { do: "unsubscribe" }, { do: "fail", error: event.error });

// Every state answers every event: a missing cell does not compile. Frames that a state does not expect belong
// to a subscription that was given up, and are skipped (`stay`).
// prettier-ignore
const table: { readonly [E in EventName]: { readonly [S in At]: Cell<S, E> } } = {
  ready:     { detached: attach, waiting: attach, asked: attach, snapshot: attach,      "catching-up": attach,     live: attach,     paused: pausedReady, ended: stay },
  lost:      { detached: stay,   waiting: detach, asked: detach, snapshot: detach,      "catching-up": detach,     live: detach,     paused: pausedLost,  ended: stay },
  subbed:    { detached: stay,   waiting: stay,   asked: accept, snapshot: stay,        "catching-up": stay,       live: stay,       paused: stay,        ended: stay },
  rows:      { detached: stay,   waiting: stay,   asked: stay,   snapshot: takeRows,    "catching-up": stay,       live: stay,       paused: stay,        ended: stay },
  snapped:   { detached: stay,   waiting: stay,   asked: stay,   snapshot: endSnapshot, "catching-up": stay,       live: stay,       paused: stay,        ended: stay },
  chain:     { detached: stay,   waiting: stay,   asked: stay,   snapshot: stay,        "catching-up": judge,      live: judge,      paused: stay,        ended: stay },
  live:      { detached: stay,   waiting: stay,   asked: stay,   snapshot: stay,        "catching-up": goLive,     live: goLive,     paused: stay,        ended: stay },
  behind:    { detached: stay,   waiting: stay,   asked: stay,   snapshot: stay,        "catching-up": fallBehind, live: fallBehind, paused: stay,        ended: stay },
  heartbeat: { detached: stay,   waiting: stay,   asked: stay,   snapshot: stay,        "catching-up": stay,       live: beat,       paused: stay,        ended: stay },
  awaited:   { detached: stay,   waiting: stay,   asked: stay,   snapshot: stay,        "catching-up": awaited,    live: stay,       paused: stay,        ended: stay },
  end:       { detached: stay,   waiting: stay,   asked: stay,   snapshot: stay,        "catching-up": complete,   live: complete,   paused: stay,        ended: stay },
  gone:      { detached: stay,   waiting: stay,   asked: lose,   snapshot: lose,        "catching-up": lose,       live: lose,       paused: stay,        ended: stay },
  refused:   { detached: stay,   waiting: stay,   asked: refuse, snapshot: refuse,      "catching-up": refuse,     live: refuse,     paused: stay,        ended: stay },
  full:      { detached: stay,   waiting: stay,   asked: pause,  snapshot: stay,        "catching-up": pause,      live: pause,      paused: stay,        ended: stay },
  drained:   { detached: stay,   waiting: stay,   asked: stay,   snapshot: stay,        "catching-up": stay,       live: stay,       paused: unpause,     ended: stay },
  tick:      { detached: stay,   waiting: retry,  asked: stay,   snapshot: stay,        "catching-up": stay,       live: stay,       paused: stay,        ended: stay },
  close:     { detached: close,  waiting: close,  asked: close,  snapshot: close,       "catching-up": close,      live: close,      paused: close,       ended: stay },
  fail:      { detached: fail,   waiting: fail,   asked: fail,   snapshot: fail,        "catching-up": fail,       live: fail,       paused: fail,        ended: stay },
};

/** What a subscription does on an event: the next state and the effects, in order, for the shell to carry out. */
export function stepSubscription(
  state: SubscriptionState,
  event: SubscriptionEvent,
  rules: SubscriptionRules,
): SubscriptionStep {
  // The table pairs each state with each event; TypeScript cannot follow that pairing through two look-ups.
  const cell = table[event.type][state.at] as (
    state: SubscriptionState,
    event: SubscriptionEvent,
    rules: SubscriptionRules,
  ) => SubscriptionStep;
  return cell(state, event, rules);
}
