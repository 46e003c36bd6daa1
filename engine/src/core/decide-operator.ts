/** Pause, resume, migrate: operators' commands as events. What holds for `decide.ts` holds here. */
import { isClosed, isoTime, MillraceError, type RunState, type WorkflowEvent } from "@millrace/schemas";

interface Operator {
  readonly reason?: string;
  readonly by?: string;
}

export type OperatorCommand =
  | ({ readonly kind: "pause" } & Operator)
  | ({ readonly kind: "resume" } & Operator)
  | ({ readonly kind: "migrate"; readonly toVersion: string } & Operator);

export function isOperatorCommand(command: { readonly kind: string }): command is OperatorCommand {
  return command.kind === "pause" || command.kind === "resume" || command.kind === "migrate";
}

/** Empty when it is so already. Throws `workflow_closed`, `invalid_request`. */
export function decideOperator(state: RunState, command: OperatorCommand): WorkflowEvent[] {
  const data = {
    ...(command.reason === undefined ? {} : { reason: command.reason }),
    ...(command.by === undefined ? {} : { by: command.by }),
  };
  if (isClosed(state.status)) {
    throw new MillraceError(
      "workflow_closed",
      `${command.kind} refused: run ${state.id} is ${state.status} since ${isoTime(state.closedAt ?? state.updatedAt)}. ` +
        "Retry or reset it, or fork a new run from it.",
      { details: { runStatus: state.status, sequence: state.sequence } },
    );
  }
  switch (command.kind) {
    case "pause":
      return state.paused === null ? [{ type: "WorkflowPaused", data }] : [];
    case "resume":
      return state.paused === null ? [] : [{ type: "WorkflowResumed", data }];
    case "migrate": {
      assertWhole(state, "migrate");
      const { toVersion } = command;
      if (state.version === toVersion) return [];
      if (state.driver === "external") {
        throw new MillraceError(
          "invalid_request",
          `migrate refused: run ${state.id} is driven from outside, so its driver alone says what its version means.`,
        );
      }
      return [{ type: "WorkflowMigrated", data: { ...data, from: state.version, to: toVersion } }];
    }
  }
}

/** Nobody may go on with a run whose history is not whole: `conflict`, to be tried again. */
export function assertWhole(state: RunState, kind: string): void {
  if (!state.copying) return;
  throw new MillraceError(
    "conflict",
    `${kind} refused: the history of run ${state.id} is being copied by a reset or fork. ` +
      "Wait for its end; if it was broken off, repeat that command to finish it.",
    { details: { sequence: state.sequence } },
  );
}
