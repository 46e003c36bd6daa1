/** What operators do to one run. Every command is an event of its history, with who and why. */
import type { EventLog } from "@millrace/event-log";
import { assertWorkflowId, MillraceError, parseStepRef, stepKey } from "@millrace/schemas";
import { newUlid } from "./new-ulid.ts";
import { forkRun, resetRun } from "./copy-history.ts";
import type { Commands } from "./commands.ts";
import type { OperatorReason } from "./millrace.ts";

export interface ResetOptions extends OperatorReason {
  /** `name` or `name#occurrence`: it is done anew, with all that followed it. Default: everything but the start. */
  readonly step?: string;
  /** Version of the code that goes on. Default: the run's present one. */
  readonly version?: string;
  /** Also when compensations ran for what is kept. Default false. */
  readonly force?: boolean;
}

export interface ForkOptions extends Omit<ResetOptions, "force"> {
  /** Of the new run: the same fork under it again is the same run. Default: a ULID. */
  readonly id?: string;
}

export interface ResetResult {
  readonly sequence: number;
  /** The run number that began. */
  readonly run: number;
  /** The step that is done anew; null when it is none in particular. */
  readonly step: string | null;
}

export interface ForkResult {
  readonly id: string;
  readonly sequence: number;
  /** False when the same fork had been made before. */
  readonly created: boolean;
}

export interface OperatorHandle {
  /**
   * Holds the run: outcomes of what runs are recorded, nothing new begins. Signals and updates wait, timers fire when it
   * is resumed. Idempotent. `workflow_closed`.
   */
  pause(reason?: OperatorReason): Promise<{ readonly sequence: number }>;
  /** Lets a held run go on. Idempotent. `workflow_closed`. */
  resume(reason?: OperatorReason): Promise<{ readonly sequence: number }>;
  /**
   * A run that failed, timed out or is stuck goes on from its failed step, under the same id with the next run number.
   * What was recorded before stays; the step and what followed it are done anew. Idempotent until the run moves on.
   * `workflow_not_failed`; `reset_unsafe` when compensations ran since.
   */
  retry(options?: Omit<ResetOptions, "step">): Promise<ResetResult>;
  /**
   * The run goes back to before a step, whatever it does now. Signals that came later are kept. Idempotent until the run
   * moves on. `step_not_begun`, `reset_unsafe`.
   */
  reset(options?: ResetOptions): Promise<ResetResult>;
  /** A new run with the history of this one before a step. `step_not_begun`, `workflow_exists`, `reset_unsafe`. */
  fork(options?: ForkOptions): Promise<ForkResult>;
  /**
   * The run goes on with the code of another version. Where that does not fit its history, it is stuck and says where:
   * replay the history on the new code first. `workflow_closed`.
   */
  migrate(toVersion: string, reason?: OperatorReason): Promise<{ readonly sequence: number }>;
}

export function createOperatorHandle(log: EventLog, commands: Commands, id: string): OperatorHandle {
  return {
    async pause(reason = {}) {
      const { sequence } = await commands.execute(id, () => ({ kind: "pause", ...reason }));
      return { sequence };
    },
    async resume(reason = {}) {
      const { sequence } = await commands.execute(id, () => ({ kind: "resume", ...reason }));
      return { sequence };
    },
    async migrate(toVersion, reason = {}) {
      assertVersion(toVersion);
      const { sequence } = await commands.execute(id, () => ({ kind: "migrate", toVersion, ...reason }));
      return { sequence };
    },
    retry: (options = {}) =>
      commands.inTurn(id, () => resetRun(log, id, { kind: "retry", ...checked(options) })),
    reset: (options = {}) =>
      commands.inTurn(id, () => resetRun(log, id, { kind: "reset", ...checked(options) })),
    async fork({ id: target = newUlid(), ...options } = {}) {
      assertWorkflowId(target);
      const { sequence, created } = await commands.inTurn(target, () =>
        forkRun(log, id, target, checked(options)),
      );
      return { id: target, sequence, created };
    },
  };
}

/** The step by its key: `charge#1` is `charge`. */
function checked<Options extends { readonly step?: string; readonly version?: string }>(
  options: Options,
): Options {
  const { step, version } = options;
  if (version !== undefined) assertVersion(version);
  if (step === undefined) return options;
  const { name, occurrence } = parseStepRef(step);
  return { ...options, step: stepKey(name, occurrence) };
}

function assertVersion(version: string): void {
  if (version.length >= 1 && version.length <= 64) return;
  throw new MillraceError(
    "invalid_request",
    `Version ${JSON.stringify(version.slice(0, 80))} is not valid: 1 to 64 characters.`,
    { details: { limit: 64, actual: version.length } },
  );
}
