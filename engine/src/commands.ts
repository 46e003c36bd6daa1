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
import { newUlid } from "./new-ulid.ts";
import { decide, type Command, type Decision } from "./core/decide.ts";
import type { Clock } from "./due-timers.ts";
import type { Driver } from "./millrace.ts";

/** A run that conflicts this often is written by something that never lets go. */
const conflictsMax = 16;

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

export class Commands {
  readonly #deps: CommandsDeps;
  readonly #states = new Map<string, RunState>();
  readonly #tails = new Map<string, Promise<unknown>>();

  constructor(deps: CommandsDeps) {
    this.#deps = deps;
  }

  /** Rejects with what `decide` says, `workflow_not_found`, `conflict` after many tries, or the log's errors. */
  execute(id: string, command: (now: number) => Command): Promise<Executed> {
    assertWorkflowId(id);
    return this.#inTurn(id, () => this.#execute(id, command));
  }

  async #execute(id: string, command: (now: number) => Command): Promise<Executed> {
    for (let tries = 1; ; tries++) {
      const cached = this.#states.get(id);
      const state = cached ?? (await this.#load(id));
      let decision: Decision;
      try {
        decision = decide(state, command(this.#deps.clock.now()));
      } catch (rejection) {
        this.#states.delete(id);
        // Others may have moved the run on since: only the log itself can say no.
        if (cached !== undefined) continue;
        throw rejection;
      }
      if (decision.events.length === 0) return { state, decision, sequence: state.sequence };
      try {
        const sequence = await this.#append(state, decision.events);
        return { state, decision, sequence };
      } catch (error) {
        this.#states.delete(id);
        if (!isMillraceError(error, "conflict") || tries >= conflictsMax) throw error;
      }
    }
  }

  async #append(state: RunState, events: readonly WorkflowEvent[]): Promise<number> {
    const base = { commitId: newUlid(), workflowId: state.id, type: state.type, events };
    // A request to code commutes with whatever its worker is about to append, so it must not make that conflict twice.
    const request: AppendRequest =
      events.every(isOutsideEvent) && (state.driver === "code" || events[0]?.type === "SignalReceived")
        ? { ...base, expected: "any" }
        : {
            ...base,
            expected: state.sequence,
            condition: events.some(isClosingEvent) ? "closed" : "waiting",
            ...(state.parent === null || state.parent === undefined ? {} : { parent: state.parent.id }),
          };
    const { sequence } = await this.#deps.log.append(request);
    if (request.expected === "any") this.#states.delete(state.id);
    else evolveCommit(state, { sequence, at: this.#deps.clock.now(), events });
    return sequence;
  }

  async #load(id: string): Promise<RunState> {
    const state = foldHistory(await this.#deps.log.load(id));
    if (state === null || state.type === scheduleType) {
      throw new MillraceError("workflow_not_found", `There is no run ${id}. Start it, or check its id.`);
    }
    // A run that a worker executes moves on without us: its state would be stale at once.
    if (state.driver === "external") this.#states.set(id, state);
    for (const oldest of this.#states.keys()) {
      if (this.#states.size <= this.#deps.cacheMax) break;
      this.#states.delete(oldest);
    }
    return state;
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
