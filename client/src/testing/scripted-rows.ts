import type { Filter, WorkflowRow } from "@millrace/schemas";
import type { StreamStatus } from "../subscription.ts";
import type { SubscribeOptions } from "../subscribe.ts";
import type { RowClient } from "../workflow-store.ts";

/** A row with fields of the test's choice. */
export function workflowRow(id: string, changes: Partial<WorkflowRow> = {}): WorkflowRow {
  return {
    id,
    type: "order",
    version: "1",
    status: "running",
    currentStep: 1,
    totalSteps: 4,
    message: "packing",
    input: null,
    output: null,
    error: null,
    attributes: {},
    run: 1,
    driver: "code",
    paused: null,
    cancelRequested: false,
    copying: false,
    plan: [],
    waits: [],
    startedAt: "2026-01-01T00:00:00.000Z",
    updatedAt: "2026-01-01T00:00:00.000Z",
    closedAt: null,
    sequence: 1,
    steps: [],
    ...changes,
  };
}

/** One subscription of a {@link ScriptedRows} client, fed by the test. */
export class ScriptedSubscription {
  readonly filter: Filter;
  readonly #options: SubscribeOptions;
  closed = false;

  constructor(filter: Filter, options: SubscribeOptions) {
    this.filter = filter;
    this.#options = options;
  }

  snapshot(rows: readonly WorkflowRow[], { first = true, last = true } = {}): void {
    this.#mind(this.#options.onSnapshot?.({ kind: "snapshot", rows, first, last, cursor: null }));
  }

  row(row: WorkflowRow): void {
    const { sequence, updatedAt: at, id: workflowId } = row;
    this.#mind(this.#options.onState?.({ kind: "state", sequence, workflowId, at, cursor: "9f3a.1", row }));
  }

  status(status: StreamStatus): void {
    this.#options.onStatus?.(status);
  }

  fail(error: unknown): void {
    this.#options.onError(error);
  }

  end(): void {
    this.#options.onEnd?.();
  }

  /** The real client gives an error of a handler to `onError`. */
  #mind(handled: void | Promise<void>): void {
    if (handled !== undefined) throw new Error("The handlers of rows are expected to be synchronous.");
  }
}

/** A client whose subscriptions the test answers. */
export class ScriptedRows implements RowClient {
  readonly subscriptions: ScriptedSubscription[] = [];

  subscribe: RowClient["subscribe"] = (filter, options) => {
    const subscription = new ScriptedSubscription(filter, options);
    this.subscriptions.push(subscription);
    return {
      cursor: null,
      status: "connecting",
      close() {
        subscription.closed = true;
      },
    };
  };

  /** The newest subscription. */
  get last(): ScriptedSubscription {
    const last = this.subscriptions.at(-1);
    if (last === undefined) throw new Error("Nothing was subscribed to.");
    return last;
  }

  get open(): number {
    return this.subscriptions.filter(({ closed }) => !closed).length;
  }
}
