import { MillraceError, type ErrorInfo, type RunState, type UpdateState } from "@millrace/schemas";
import { fromErrorInfo } from "./failures.ts";

interface Asker {
  readonly resolve: (output: unknown) => void;
  readonly reject: (error: Error) => void;
}

/** Who waits in this process for the answer to an update. Several may ask for one. */
export class UpdateAskers {
  /** Made on first use: most runs are never asked. */
  #askers: Map<string, Asker[]> | null = null;

  get size(): number {
    return this.#askers?.size ?? 0;
  }

  add(id: string): Promise<unknown> {
    return new Promise((resolve, reject) => {
      this.#askers ??= new Map();
      this.#askers.set(id, [...(this.#askers.get(id) ?? []), { resolve, reject }]);
    });
  }

  /** Answers those whose update has ended. */
  answer(state: RunState): void {
    for (const [id, askers] of this.#askers ?? []) {
      const update = updateOf(state, id);
      if (update === null || update.status === "accepted") continue;
      this.#askers?.delete(id);
      for (const { resolve, reject } of askers) {
        if (update.status === "completed") resolve(update.output);
        else reject(updateFailed(state.id, update.name, update.error));
      }
    }
  }

  refuse(id: string, error: Error): void {
    for (const { reject } of this.#askers?.get(id) ?? []) reject(error);
    this.#askers?.delete(id);
  }

  refuseAll(reason: () => Error): void {
    if (this.#askers === null || this.#askers.size === 0) return;
    const error = reason();
    for (const id of [...this.#askers.keys()]) this.refuse(id, error);
  }
}

/** An update that was taken in before; null when there is none. */
export function updateOf(state: RunState, id: string): UpdateState | null {
  const updates = state.open?.updates;
  return updates !== undefined && Object.hasOwn(updates, id) ? (updates[id] ?? null) : null;
}

export function updateFailed(id: string, name: string, error: ErrorInfo | null): MillraceError {
  const info = error ?? { message: "" };
  return new MillraceError("update_failed", `Update ${name} of ${id} failed: ${info.message}`, {
    cause: fromErrorInfo(info),
    details: { error: info },
  });
}
