/**
 * Commands from outside: load the run, decide, append, and on a conflict decide again.
 *
 * Owns: a bounded cache of folded states, so that a driver's step costs one append. Does not own: what is allowed
 * (`core/decide.ts`).
 * C1 Commands on one run are carried out one after the other within this process; others are met as conflicts.
 * C2 A cached state is only ever a guess: the append's expectation makes it safe.
 */
import type { AppendRequest, EventLog, StoredCommit } from "@millrace/event-log";
import {
  assertWorkflowId,
  evolveCommit,
  initialRunState,
  isClosingEvent,
  isMillraceError,
  isOutsideEvent,
  limits,
  MillraceError,
  parseStepRef,
  scheduleType,
  stepKey,
  type ErrorInfo,
  type RunState,
  type WorkflowEvent,
} from "@millrace/schemas";
import { SealedLog, storedLog } from "./payloads/sealed-log.ts";
import { newUlid } from "./new-ulid.ts";
import { decide, type Command, type Decision } from "./core/decide.ts";
import type { Clock } from "./due-timers.ts";
import type { Driver } from "./millrace.ts";

/** A run that conflicts this often is written by something that never lets go. */
const conflictsMax = 64;

export interface CommandsDeps {
  readonly log: EventLog;
  readonly clock: Clock;
  readonly random: () => number;
  /** Folded states kept. */
  readonly cacheMax: number;
}

export interface Executed {
  readonly state: RunState;
  readonly decision: Decision;
  readonly sequence: number;
}

/** What a command would be decided to be if the run still stood at `sequence`: saves the load when it does. */
export interface Guess<D> {
  readonly type: string;
  readonly sequence: number;
  readonly decision: D;
}

export interface Carried<D> {
  readonly decision: D;
  readonly sequence: number;
  /** Null when the guess was right: nothing was loaded. */
  readonly state: RunState | null;
}

export class Commands {
  readonly #deps: CommandsDeps;
  readonly #states = new Map<string, RunState>();
  readonly #tails = new Map<string, Promise<unknown>>();

  constructor(deps: CommandsDeps) {
    this.#deps = deps;
  }

  /** Rejects with what `decide` says, `workflow_not_found`, `conflict` after many tries, or the log's errors. */
  async execute(id: string, command: (now: number) => Command): Promise<Executed> {
    const { state, ...rest } = await this.carryOut(id, (known, now) => decide(known, command(now)));
    if (state === null)
      throw new MillraceError("internal", `A command on ${id} was not decided on its state.`);
    return { state, ...rest };
  }

  /**
   * A fact from outside for a run of code. Its last commit says what must be known of it: its type, and that it is open;
   * with an id, the whole history is asked for an earlier one. As `execute`.
   */
  async signal(id: string, signal: Extract<Command, { kind: "signal" }>): Promise<number> {
    assertWorkflowId(id);
    const last = signal.id === undefined ? await storedLog(this.#deps.log).last(id) : null;
    const isOpen = last !== null && last.condition !== null && last.condition !== "closed";
    if (!isOpen || last.type === scheduleType) {
      // Kept, so that one signal after the other reads only what came since.
      const { sequence } = await this.carryOut(id, (state) => decide(state, signal), { keep: true });
      return sequence;
    }
    const { events } = decide(initialRunState(id, last.type), signal);
    const request = {
      commitId: newUlid(),
      workflowId: id,
      type: last.type,
      events,
      expected: "any",
    } as const;
    return (await this.#deps.log.append(request)).sequence;
  }

  /** As `execute`, for decisions of any kind. With `keep`, the state of a run of code is kept for the next command. */
  carryOut<D extends { readonly events: readonly WorkflowEvent[] }>(
    id: string,
    decideOn: (state: RunState, now: number) => D,
    options: { readonly guess?: Guess<D>; readonly keep?: boolean } = {},
  ): Promise<Carried<D>> {
    assertWorkflowId(id);
    return this.#inTurn(id, async () => {
      const { guess, keep = false } = options;
      if (guess !== undefined && !this.#states.has(id)) {
        const right = await this.#tryGuess(id, guess);
        if (right !== null) return right;
      }
      return this.#carryOut(id, decideOn, keep);
    });
  }

  /** Forgets the kept state of a run that nobody here has anything to do with any more. */
  forget(id: string): void {
    this.#states.delete(id);
  }

  async #tryGuess<D extends { readonly events: readonly WorkflowEvent[] }>(
    id: string,
    { type, sequence: expected, decision }: Guess<D>,
  ): Promise<Carried<D> | null> {
    const { events } = decision;
    try {
      const request = { commitId: newUlid(), workflowId: id, type, events, expected };
      const { sequence } = await this.#deps.log.append(request);
      return { decision, sequence, state: null };
    } catch (error) {
      if (isMillraceError(error, "conflict")) return null;
      throw error;
    }
  }

  async #carryOut<D extends { readonly events: readonly WorkflowEvent[] }>(
    id: string,
    decideOn: (state: RunState, now: number) => D,
    keep: boolean,
  ): Promise<Carried<D>> {
    let state = this.#states.get(id) ?? null;
    let fresh = state === null;
    state ??= await this.#load(id, keep);
    for (let tries = 1; ; tries++) {
      const decision = this.#decideOn(state, decideOn, fresh);
      // Others may have moved the run on since: only the log itself can say that there is nothing to do, or that a
      // fact from outside, which nothing guards, is still to be taken.
      if (decision !== null && (fresh || !decision.events.every(isOutsideEvent))) {
        if (decision.events.length === 0) return { state, decision, sequence: state.sequence };
        const sequence = await this.#tryAppend(state, decision.events, tries);
        if (sequence !== null) return { state, decision, sequence };
      }
      fresh = true;
      const log = state.driver === "external" ? this.#deps.log : storedLog(this.#deps.log);
      for (const commit of await log.load(id, { after: state.sequence })) evolveCommit(state, commit);
    }
  }

  /** Null when a state that may be old says no. */
  #decideOn<D>(state: RunState, decideOn: (state: RunState, now: number) => D, fresh: boolean): D | null {
    try {
      return decideOn(state, this.#deps.clock.now());
    } catch (rejection) {
      if (!fresh) return null;
      this.#states.delete(state.id);
      throw rejection;
    }
  }

  /** Null on a conflict. What is in doubt is the caller's: a new commit would be decided on what this one did. */
  async #tryAppend(state: RunState, events: readonly WorkflowEvent[], tries: number): Promise<number | null> {
    try {
      return await this.#append(state, events);
    } catch (error) {
      if (isMillraceError(error, "conflict") && tries < conflictsMax) return null;
      this.#states.delete(state.id);
      throw error;
    }
  }

  async #append(state: RunState, events: readonly WorkflowEvent[]): Promise<number> {
    const base = { commitId: newUlid(), workflowId: state.id, type: state.type, events };
    const closing = events.some(isClosingEvent);
    // A request to code commutes with whatever its worker is about to append, so it must not make that conflict twice.
    const request: AppendRequest =
      events.every(isOutsideEvent) && (state.driver === "code" || events[0]?.type === "SignalReceived")
        ? { ...base, expected: "any" }
        : {
            ...base,
            expected: state.sequence,
            // What a run of code waits for is for its owner to say: whoever takes over loads it to see.
            ...(closing ? { condition: "closed" } : state.driver === "code" ? {} : { condition: "waiting" }),
            ...(state.parent === null || state.parent === undefined ? {} : { parent: state.parent.id }),
          };
    const { sequence } = await this.#deps.log.append(request);
    // What came in between is not known: a kept state stays where it was, and is brought up to date when it is asked.
    if (request.expected !== "any") evolveCommit(state, { sequence, at: this.#deps.clock.now(), events });
    return sequence;
  }

  async #load(id: string, keep: boolean): Promise<RunState> {
    let state = foldHistory(await storedLog(this.#deps.log).load(id));
    // Only a driver is given payloads back; what concerns code is decided without them.
    if (state?.driver === "external" && this.#deps.log instanceof SealedLog)
      state = foldHistory(await this.#deps.log.load(id));
    if (state === null || state.type === scheduleType) {
      throw new MillraceError("workflow_not_found", `There is no run ${id}. Start it, or check its id.`);
    }
    // A run that a worker executes moves on without us: its state would be stale at once, unless more follows soon.
    if (state.driver === "external" || keep) this.#states.set(id, state);
    for (const oldest of this.#states.keys()) {
      if (this.#states.size <= this.#deps.cacheMax) break;
      this.#states.delete(oldest);
    }
    return state;
  }

  /** C1 for what takes more than one decision; what was known of the run is forgotten. */
  inTurn<T>(id: string, act: () => Promise<T>): Promise<T> {
    assertWorkflowId(id);
    return this.#inTurn(id, () => {
      this.#states.delete(id);
      return act();
    });
  }

  async #inTurn<T>(id: string, act: () => Promise<T>): Promise<T> {
    const before = this.#tails.get(id) ?? Promise.resolve();
    const mine = before.then(act, act);
    this.#tails.set(id, mine);
    try {
      return await mine;
    } finally {
      if (this.#tails.get(id) === mine) this.#tails.delete(id);
    }
  }
}

/** Null for no history. */
export function foldHistory(history: readonly StoredCommit[]): RunState | null {
  const first = history[0];
  if (first === undefined) return null;
  const state = initialRunState(first.workflowId, first.type);
  for (const commit of history) evolveCommit(state, commit);
  return state;
}

/** The driver protocol over `Commands`. */
export function createDriver(commands: Commands, random: () => number): Driver {
  return {
    async begin(workflowId, step, options = {}) {
      const ref = parseStepRef(step);
      const token = newUlid();
      const { maxAttempts } = options;
      const { decision, sequence } = await commands.execute(workflowId, (now) => ({
        kind: "begin",
        step: ref,
        token,
        now,
        ...(maxAttempts === undefined ? {} : { maxAttempts }),
      }));
      if (decision.begin === undefined)
        throw new MillraceError("internal", `begin of ${step} on ${workflowId} gave no outcome.`);
      return { ...decision.begin, sequence };
    },
    async completeStep(workflowId, step, token, output) {
      const ref = parseStepRef(step);
      const { sequence } = await commands.execute(workflowId, () => ({
        kind: "completeStep",
        step: ref,
        token,
        output,
      }));
      return { sequence };
    },
    async failStep(workflowId, step, token, error) {
      const ref = parseStepRef(step);
      const { state, sequence } = await commands.execute(workflowId, (now) => ({
        kind: "failStep",
        step: ref,
        token,
        error: cut(error),
        now,
        random: random(),
      }));
      const now = state.steps.get(stepKey(ref.name, ref.occurrence));
      return { sequence, final: now?.status !== "retrying", nextAttemptAt: now?.nextAttemptAt ?? null };
    },
    async complete(workflowId, output) {
      const { sequence } = await commands.execute(workflowId, () => ({ kind: "complete", output }));
      return { sequence };
    },
    async fail(workflowId, error) {
      const { sequence } = await commands.execute(workflowId, () => ({ kind: "fail", error: cut(error) }));
      return { sequence };
    },
  };
}

/** As `limits.messageChars` says: stored messages are cut, not refused. */
function cut(error: ErrorInfo): ErrorInfo {
  return { ...error, message: error.message.slice(0, limits.messageChars) };
}
