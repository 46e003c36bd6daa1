/**
 * The one connection of a client as a value.
 *
 * Owns: when to connect, when to give up, how long to wait, whether the peer is alive.
 * Does not own: the socket, timers, subscriptions (see `stream-connection.ts`).
 *
 * I1 At most one socket is open: `open` comes only from `idle` and `backoff`, and every way out of `opening`,
 *    `greeting` and `ready` shuts the socket or was told that it is gone.
 * I2 A close code of 4500 to 4999 is never followed by another attempt.
 * I3 The bounds of `bye` win over the backoff, also against a nudge.
 * I4 A state that waits has a wake-up time (`wakeAt`), so nothing waits for ever.
 * I5 After `closed` nothing happens any more.
 *
 * Tested in `connection-machine.test.ts` and over real sockets in `client.test.ts`.
 */
import { closeCodes, isFinalClose, MillraceError } from "@millrace/schemas";
import { askedDelayMs, backoffDelayMs } from "./backoff.ts";
import { finalCloseError } from "./subscription-error.ts";

export interface ConnectionRules {
  readonly backoffMinMs: number;
  readonly backoffMaxMs: number;
  /** A connection that lasted this long makes the backoff begin anew. */
  readonly healthyMs: number;
  /** Failures in a row after which the client gives up. */
  readonly failuresMax: number;
  /** From opening the socket to `welcome`. */
  readonly connectTimeoutMs: number;
  /** How long a connection without subscriptions is kept. */
  readonly idleMs: number;
}

interface Ready {
  readonly at: "ready";
  readonly failures: number;
  readonly epoch: string;
  readonly heartbeatMs: number;
  readonly readyAt: number;
  readonly heardAt: number;
  /** A heartbeat is late: what was received may be old. */
  readonly quiet: boolean;
  /** Answer to our ping is due. */
  readonly probeUntil: number | null;
  readonly unwantedSince: number | null;
}

export type ConnectionState =
  | { readonly at: "idle"; readonly failures: number }
  | { readonly at: "opening"; readonly failures: number; readonly until: number }
  | { readonly at: "greeting"; readonly failures: number; readonly until: number }
  | Ready
  /** `notBefore`: what the server asked for; a nudge does not shorten it. */
  | {
      readonly at: "backoff";
      readonly failures: number;
      readonly retryAt: number;
      readonly notBefore: number;
    }
  | { readonly at: "closed"; readonly failures: number };

export type ConnectionEvent =
  | { readonly type: "want" }
  | { readonly type: "unwant" }
  | { readonly type: "opened" }
  | { readonly type: "welcome"; readonly epoch: string; readonly heartbeatMs: number }
  /** A better transport was welcomed beside the present one and takes its place. */
  | { readonly type: "switched"; readonly epoch: string; readonly heartbeatMs: number }
  | { readonly type: "heard" }
  | { readonly type: "bye"; readonly code: number; readonly minMs: number; readonly maxMs: number }
  /** The socket closed by itself. `told` is the last connection-wide `err` frame. */
  | {
      readonly type: "lost";
      readonly code: number;
      readonly reason: string;
      readonly told: { readonly code: string; readonly msg: string } | null;
    }
  /** We give this connection up: its peer broke the protocol. */
  | { readonly type: "abandon"; readonly code: number; readonly reason: string }
  /** No other attempt can help. */
  | { readonly type: "refuse"; readonly error: Error }
  | { readonly type: "nudge" }
  | { readonly type: "tick" }
  | { readonly type: "close" };

export type ConnectionEffect =
  | { readonly do: "open" }
  | { readonly do: "hello" }
  | { readonly do: "ping" }
  | { readonly do: "shut"; readonly code: number; readonly reason: string }
  | { readonly do: "attached"; readonly epoch: string }
  | { readonly do: "detached"; readonly reason: string; readonly retryInMs: number }
  | { readonly do: "fail"; readonly error: Error };

export interface ConnectionStep {
  readonly state: ConnectionState;
  readonly effects: readonly ConnectionEffect[];
}

/** What the shell reads from the world for one step. `random` is in [0, 1). */
export interface ConnectionInput {
  readonly now: number;
  readonly random: number;
  readonly rules: ConnectionRules;
}

/** How long an answer to our ping may take after the page came back or the network changed. */
const probeMs = 5_000;
/** A heartbeat this much late marks the subscriptions as stale; twice the interval ends the connection. */
const quietFactor = 1.25;
/** Hearing is noted at this grain, so that a busy stream does not make a new state for every frame. */
const heardGrainMs = 250;

type At = ConnectionState["at"];
type EventName = ConnectionEvent["type"];
type StateAt<S extends At> = Extract<ConnectionState, { at: S }>;
type EventOf<E extends EventName> = Extract<ConnectionEvent, { type: E }>;
type Cell<S extends At, E extends EventName> = (
  state: StateAt<S>,
  event: EventOf<E>,
  input: ConnectionInput,
) => ConnectionStep;

export const initialConnection: ConnectionState = { at: "idle", failures: 0 };

function step(state: ConnectionState, ...effects: ConnectionEffect[]): ConnectionStep {
  return { state, effects };
}

const stay = (state: ConnectionState): ConnectionStep => step(state);

function open(state: ConnectionState, _event: ConnectionEvent, input: ConnectionInput): ConnectionStep {
  const until = input.now + input.rules.connectTimeoutMs;
  return step({ at: "opening", failures: state.failures, until }, { do: "open" });
}

function greet(state: StateAt<"opening">): ConnectionStep {
  return step({ ...state, at: "greeting" }, { do: "hello" });
}

function attach(
  state: StateAt<"greeting" | "ready">,
  event: EventOf<"welcome" | "switched">,
  input: ConnectionInput,
): ConnectionStep {
  const { epoch, heartbeatMs } = event;
  const { now } = input;
  return step(
    {
      at: "ready",
      failures: state.failures,
      epoch,
      heartbeatMs,
      readyAt: now,
      heardAt: now,
      quiet: false,
      probeUntil: null,
      unwantedSince: state.at === "ready" ? state.unwantedSince : null,
    },
    { do: "attached", epoch },
  );
}

function hear(state: Ready, _event: ConnectionEvent, { now }: ConnectionInput): ConnectionStep {
  if (!state.quiet && state.probeUntil === null && now - state.heardAt < heardGrainMs) return step(state);
  return step({ ...state, heardAt: now, quiet: false, probeUntil: null });
}

function failuresOf(state: ConnectionState, { now, rules }: ConnectionInput): number {
  return state.at === "ready" && now - state.readyAt >= rules.healthyMs ? 0 : state.failures;
}

function retryLater(
  state: ConnectionState,
  reason: string,
  input: ConnectionInput,
  before: readonly ConnectionEffect[],
): ConnectionStep {
  const { now, random, rules } = input;
  const failures = failuresOf(state, input);
  if (failures + 1 >= rules.failuresMax) {
    const error = new MillraceError(
      "unavailable",
      `No connection to the stream server: ${failures + 1} of at most ${rules.failuresMax} attempts failed, ` +
        `the last with: ${reason}. Is the URL right and the server running?`,
      { details: { failures: failures + 1, limit: rules.failuresMax } },
    );
    return step({ at: "idle", failures: 0 }, ...before, { do: "fail", error });
  }
  const retryInMs = backoffDelayMs(
    failures,
    { minMs: rules.backoffMinMs, maxMs: rules.backoffMaxMs },
    random,
  );
  return step(
    { at: "backoff", failures: failures + 1, retryAt: now + retryInMs, notBefore: now },
    ...before,
    { do: "detached", reason, retryInMs },
  );
}

function lose(state: ConnectionState, event: EventOf<"lost">, input: ConnectionInput): ConnectionStep {
  if (isFinalClose(event.code)) {
    const error = finalCloseError(event.code, event.reason, event.told);
    return step({ at: "idle", failures: 0 }, { do: "fail", error });
  }
  const said = event.told?.msg ?? event.reason;
  return retryLater(state, `close code ${event.code}${said === "" ? "" : ` (${said})`}`, input, []);
}

function abandon(state: ConnectionState, event: EventOf<"abandon">, input: ConnectionInput): ConnectionStep {
  return retryLater(state, event.reason, input, [{ do: "shut", code: event.code, reason: event.reason }]);
}

function refuse(_state: ConnectionState, event: EventOf<"refuse">): ConnectionStep {
  return step(
    { at: "idle", failures: 0 },
    { do: "shut", code: 1000, reason: "" },
    { do: "fail", error: event.error },
  );
}

function leave(state: ConnectionState, event: EventOf<"bye">, input: ConnectionInput): ConnectionStep {
  const shut: ConnectionEffect = { do: "shut", code: 1000, reason: "" };
  if (isFinalClose(event.code)) {
    const error = finalCloseError(event.code, "", null);
    return step({ at: "idle", failures: 0 }, shut, { do: "fail", error });
  }
  const { now, random } = input;
  const bounds = { minMs: event.minMs, maxMs: event.maxMs };
  const retryInMs = askedDelayMs(bounds, random);
  return step(
    {
      at: "backoff",
      failures: failuresOf(state, input),
      retryAt: now + retryInMs,
      notBefore: now + askedDelayMs(bounds, 0),
    },
    shut,
    { do: "detached", reason: `bye with code ${event.code}`, retryInMs },
  );
}

function tickWaiting(
  state: StateAt<"opening"> | StateAt<"greeting">,
  _event: ConnectionEvent,
  input: ConnectionInput,
): ConnectionStep {
  if (input.now < state.until) return step(state);
  const reason = state.at === "opening" ? "the socket did not open in time" : "no welcome in time";
  return retryLater(state, reason, input, [{ do: "shut", code: 1000, reason }]);
}

function tickReady(state: Ready, _event: ConnectionEvent, input: ConnectionInput): ConnectionStep {
  const { now, rules } = input;
  if (state.unwantedSince !== null && now >= state.unwantedSince + rules.idleMs) {
    return step({ at: "idle", failures: 0 }, { do: "shut", code: 1000, reason: "idle" });
  }
  const dead =
    now >= state.heardAt + 2 * state.heartbeatMs || (state.probeUntil !== null && now >= state.probeUntil);
  if (dead) {
    const reason = "heartbeat lost";
    return retryLater(state, reason, input, [{ do: "shut", code: closeCodes.heartbeatLost, reason }]);
  }
  const quiet = now >= state.heardAt + quietFactor * state.heartbeatMs;
  return step(quiet === state.quiet ? state : { ...state, quiet });
}

function tickBackoff(
  state: StateAt<"backoff">,
  event: ConnectionEvent,
  input: ConnectionInput,
): ConnectionStep {
  return input.now >= state.retryAt ? open(state, event, input) : step(state);
}

function nudgeBackoff(
  state: StateAt<"backoff">,
  event: ConnectionEvent,
  input: ConnectionInput,
): ConnectionStep {
  if (input.now >= state.notBefore) return open(state, event, input);
  return step({ ...state, retryAt: state.notBefore });
}

function probe(state: Ready, _event: ConnectionEvent, { now }: ConnectionInput): ConnectionStep {
  if (state.probeUntil !== null) return step(state);
  return step({ ...state, probeUntil: now + probeMs }, { do: "ping" });
}

const want = (state: Ready): ConnectionStep => step({ ...state, unwantedSince: null });
const linger = (state: Ready, _event: ConnectionEvent, { now }: ConnectionInput): ConnectionStep =>
  step({ ...state, unwantedSince: state.unwantedSince ?? now });

const shut: ConnectionEffect = { do: "shut", code: 1000, reason: "" };
const drop = (): ConnectionStep => step({ at: "idle", failures: 0 }, shut);
const rest = (): ConnectionStep => step({ at: "idle", failures: 0 });
const close = (): ConnectionStep => step({ at: "closed", failures: 0 }, shut);

// Every state answers every event: a missing cell does not compile.
// prettier-ignore
const table: { readonly [E in EventName]: { readonly [S in At]: Cell<S, E> } } = {
  want:    { idle: open,  opening: stay,        greeting: stay,        ready: want,      backoff: stay,         closed: stay },
  unwant:  { idle: stay,  opening: drop,        greeting: drop,        ready: linger,    backoff: rest,         closed: stay },
  opened:  { idle: stay,  opening: greet,       greeting: stay,        ready: stay,      backoff: stay,         closed: stay },
  welcome: { idle: stay,  opening: stay,        greeting: attach,      ready: stay,      backoff: stay,         closed: stay },
  switched:{ idle: stay,  opening: stay,        greeting: stay,        ready: attach,    backoff: stay,         closed: stay },
  heard:   { idle: stay,  opening: stay,        greeting: stay,        ready: hear,      backoff: stay,         closed: stay },
  bye:     { idle: stay,  opening: leave,       greeting: leave,       ready: leave,     backoff: stay,         closed: stay },
  lost:    { idle: stay,  opening: lose,        greeting: lose,        ready: lose,      backoff: stay,         closed: stay },
  abandon: { idle: stay,  opening: abandon,     greeting: abandon,     ready: abandon,   backoff: stay,         closed: stay },
  refuse:  { idle: stay,  opening: refuse,      greeting: refuse,      ready: refuse,    backoff: stay,         closed: stay },
  nudge:   { idle: stay,  opening: stay,        greeting: stay,        ready: probe,     backoff: nudgeBackoff, closed: stay },
  tick:    { idle: stay,  opening: tickWaiting, greeting: tickWaiting, ready: tickReady, backoff: tickBackoff,  closed: stay },
  close:   { idle: close, opening: close,       greeting: close,       ready: close,     backoff: close,        closed: stay },
};

/** What the connection does on an event: the next state and the effects, in order, for the shell to carry out. */
export function stepConnection(
  state: ConnectionState,
  event: ConnectionEvent,
  input: ConnectionInput,
): ConnectionStep {
  // The table pairs each state with each event; TypeScript cannot follow that pairing through two look-ups.
  const cell = table[event.type][state.at] as (
    state: ConnectionState,
    event: ConnectionEvent,
    input: ConnectionInput,
  ) => ConnectionStep;
  return cell(state, event, input);
}

/** When a `tick` is due, in milliseconds of the clock; `null` when nothing waits. */
export function wakeAt(state: ConnectionState, rules: ConnectionRules): number | null {
  switch (state.at) {
    case "idle":
    case "closed":
      return null;
    case "opening":
    case "greeting":
      return state.until;
    case "backoff":
      return state.retryAt;
    case "ready":
      return Math.min(
        state.heardAt + (state.quiet ? 2 : quietFactor) * state.heartbeatMs,
        state.probeUntil ?? Number.POSITIVE_INFINITY,
        state.unwantedSince === null ? Number.POSITIVE_INFINITY : state.unwantedSince + rules.idleMs,
      );
  }
}
