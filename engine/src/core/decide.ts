/**
 * What may happen to a run next, as the answer to a command. Pure: time, tokens and randomness are in the command.
 *
 * D1 Every event that `decide` gives is acceptable to `evolve` on the same state.
 * D2 A command that was carried out already gives no events and the same answer (idempotent).
 * D3 A closed run takes no command.
 */
import {
  isClosed,
  isoTime,
  MillraceError,
  stepKey,
  type BeginOutcome,
  type ErrorInfo,
  type RunState,
  type StepRef,
  type WorkflowEvent,
} from "@millrace/schemas";
import { afterFailedAttempt } from "./attempt.ts";
import { assertWhole, decideOperator, isOperatorCommand, type OperatorCommand } from "./decide-operator.ts";

export type Command =
  | OperatorCommand
  | { readonly kind: "cancel"; readonly reason?: string; readonly by?: string }
  | { readonly kind: "terminate"; readonly reason?: string; readonly by?: string }
  | {
      readonly kind: "signal";
      readonly name: string;
      readonly payload: unknown;
      readonly id?: string;
      readonly by?: string;
    }
  | {
      readonly kind: "begin";
      readonly step: StepRef;
      readonly token: string;
      readonly now: number;
      readonly maxAttempts?: number;
    }
  | {
      readonly kind: "completeStep";
      readonly step: StepRef;
      readonly token: string;
      readonly output: unknown;
    }
  | {
      readonly kind: "failStep";
      readonly step: StepRef;
      readonly token: string;
      readonly error: ErrorInfo;
      readonly now: number;
      readonly random: number;
    }
  | { readonly kind: "complete"; readonly output: unknown }
  | { readonly kind: "fail"; readonly error: ErrorInfo };

export interface Decision {
  /** Empty when there is nothing to record: the command was carried out before. */
  readonly events: readonly WorkflowEvent[];
  /** For `begin`: what the driver does; its sequence is filled in after the append. */
  readonly begin?: BeginOutcome;
}

/** A driver of a held run asks again after so long: its protocol has no push. */
const pausedAgainMs = 5_000;

/** Commands that do not step in for the driver. */
const forAnyDriver: ReadonlySet<Command["kind"]> = new Set<Command["kind"]>([
  "cancel",
  "terminate",
  "signal",
]);

/** Throws the rejection as a `MillraceError`: `workflow_closed`, `workflow_not_external`, `step_not_begun`, `attempt_superseded`. */
export function decide(state: RunState, command: Command): Decision {
  if (isOperatorCommand(command)) return { events: decideOperator(state, command) };
  if (!forAnyDriver.has(command.kind) && state.driver !== "external") {
    throw new MillraceError(
      "workflow_not_external",
      `${command.kind} refused: run ${state.id} is executed by a worker, not by a driver. ` +
        'Start it with "driver": "external" to drive its steps from outside.',
    );
  }
  const repeated = repeatedDecision(state, command);
  if (repeated !== null) return repeated;
  if (isClosed(state.status)) throw closed(state, command.kind);
  if (!forAnyDriver.has(command.kind)) assertWhole(state, command.kind);
  switch (command.kind) {
    case "cancel": {
      const request: WorkflowEvent = { type: "WorkflowCancelRequested", data: operator(command) };
      if (state.driver === "code") return { events: state.cancelRequested === null ? [request] : [] };
      // Nobody runs code for this run that could clean up, so the request is carried out at once.
      return { events: [request, { type: "WorkflowCancelled", data: reasonOf(command) }] };
    }
    case "terminate":
      return { events: [{ type: "WorkflowTerminated", data: operator(command) }] };
    case "signal": {
      const { name, payload, id, by } = command;
      const known = id === undefined ? {} : { id };
      return {
        events: [
          { type: "SignalReceived", data: { name, payload, ...known, ...(by === undefined ? {} : { by }) } },
        ],
      };
    }
    case "begin":
      return begin(state, command);
    case "completeStep": {
      const { attempt } = currentAttempt(state, command);
      return {
        events: [{ type: "StepCompleted", data: { ...command.step, attempt, output: command.output } }],
      };
    }
    case "failStep": {
      const { attempt, maxAttempts } = currentAttempt(state, command);
      const { error, now, random, step } = command;
      const failed = {
        ...step,
        attempt,
        error,
        retryable: error.retryable !== false,
        timedOut: false,
        retryAfterMs: null,
      };
      const policy = maxAttempts === null ? {} : { maxAttempts };
      return { events: [afterFailedAttempt(failed, policy, now, random)] };
    }
    case "complete":
      return { events: [{ type: "WorkflowCompleted", data: { output: command.output } }] };
    case "fail":
      return { events: [{ type: "WorkflowFailed", data: { error: command.error } }] };
  }
}

/** D2: what a repeated command gets, also on a run that has closed since. */
function repeatedDecision(state: RunState, command: Exclude<Command, OperatorCommand>): Decision | null {
  switch (command.kind) {
    case "begin": {
      const step = state.steps.get(stepKey(command.step.name, command.step.occurrence));
      const { sequence } = state;
      if (step?.status === "completed")
        return { events: [], begin: { outcome: "completed", output: step.output, sequence } };
      if (step?.status === "failed" || step?.status === "timed_out") {
        return { events: [], begin: { outcome: "failed", error: step.error ?? { message: "" }, sequence } };
      }
      return null;
    }
    case "complete":
      return state.status === "completed" && sameJson(state.output, command.output) ? { events: [] } : null;
    case "fail":
      return state.status === "failed" && state.error?.message === command.error.message
        ? { events: [] }
        : null;
    case "signal": {
      const ids = state.open?.signalIds;
      return command.id !== undefined && ids !== undefined && Object.hasOwn(ids, command.id)
        ? { events: [] }
        : null;
    }
    case "cancel":
      return state.status === "cancelled" ? { events: [] } : null;
    case "terminate":
      return state.status === "terminated" ? { events: [] } : null;
    case "completeStep":
    case "failStep": {
      const step = state.steps.get(stepKey(command.step.name, command.step.occurrence));
      if (step?.token !== command.token) return null;
      const ended =
        command.kind === "completeStep"
          ? step.status === "completed"
          : step.status !== "started" && step.status !== "completed";
      return ended ? { events: [] } : null;
    }
  }
}

function begin(state: RunState, command: Extract<Command, { kind: "begin" }>): Decision {
  const { step: ref, token, now, maxAttempts } = command;
  const step = state.steps.get(stepKey(ref.name, ref.occurrence));
  if (state.paused !== null) {
    const until = isoTime(now + pausedAgainMs);
    return { events: [], begin: { outcome: "wait", until, sequence: state.sequence } };
  }
  if (step?.status === "retrying" && step.nextAttemptAt !== null && step.nextAttemptAt > now) {
    return {
      events: [],
      begin: { outcome: "wait", until: isoTime(step.nextAttemptAt), sequence: state.sequence },
    };
  }
  // A step that is begun again was lost by a crashed driver: its old token must not be able to end it any more.
  const attempt = step === undefined ? 1 : step.attempt + 1;
  const idempotencyKey = `${state.id}/${state.run}/${ref.name}#${ref.occurrence}`;
  return {
    events: [
      {
        type: "StepStarted",
        data: { ...ref, attempt, token, ...(maxAttempts === undefined ? {} : { maxAttempts }) },
      },
    ],
    begin: { outcome: "execute", token, attempt, idempotencyKey, sequence: 0 },
  };
}

function currentAttempt(
  state: RunState,
  command: { readonly kind: string; readonly step: StepRef; readonly token: string },
): { readonly attempt: number; readonly maxAttempts: number | null } {
  const key = stepKey(command.step.name, command.step.occurrence);
  const step = state.steps.get(key);
  if (step === undefined) {
    throw new MillraceError(
      "step_not_begun",
      `${command.kind} refused: step ${key} of run ${state.id} was never begun. Call begin first and use its token.`,
    );
  }
  if (step.status !== "started" || step.token !== command.token) {
    throw new MillraceError(
      "attempt_superseded",
      `${command.kind} refused: the token is not that of the current attempt of step ${key} of run ${state.id} ` +
        `(${step.status}, attempt ${step.attempt}). Call begin to learn what to do.`,
      { details: { step: key, stepStatus: step.status, attempt: step.attempt } },
    );
  }
  return step;
}

function closed(state: RunState, kind: string): MillraceError {
  return new MillraceError(
    "workflow_closed",
    `${kind} refused: run ${state.id} is ${state.status} since ${isoTime(state.closedAt ?? state.updatedAt)}. ` +
      "Start a new run under another id.",
    { details: { runStatus: state.status, sequence: state.sequence } },
  );
}

function operator(command: { readonly reason?: string; readonly by?: string }): {
  reason?: string;
  by?: string;
} {
  return { ...reasonOf(command), ...(command.by === undefined ? {} : { by: command.by }) };
}

function reasonOf(command: { readonly reason?: string }): { reason?: string } {
  return command.reason === undefined ? {} : { reason: command.reason };
}

/** Equality of JSON values whatever the order of their keys. */
export function sameJson(a: unknown, b: unknown): boolean {
  return canonicalJson(a) === canonicalJson(b);
}

function canonicalJson(value: unknown): string {
  return JSON.stringify(value ?? null, (_key, inner: unknown) =>
    typeof inner === "object" && inner !== null && !Array.isArray(inner)
      ? Object.fromEntries(Object.entries(inner).sort(([x], [y]) => (x < y ? -1 : 1)))
      : inner,
  );
}
