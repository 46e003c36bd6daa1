/**
 * The rows that match a filter, newest start first, as snapshot pages and row updates make them.
 *
 * Owns: the rows. Does not own: the subscription, who looks at them (`workflow-store.ts`).
 *
 * R1 While a snapshot comes in, the rows before it stay: they are replaced at once, with its last page.
 * R2 A row that does not match any more is gone; the server sends it once more when it leaves.
 * R3 `rows` is the same array as long as nothing has changed: renderers compare by identity.
 * R4 Updating a row costs the same whatever their number; they are put in order when somebody looks.
 *
 * Tested by `workflow-rows.prop.test.ts`.
 */
import { hasAttributes, MillraceError, type Filter, type WorkflowRow } from "@millrace/schemas";
import type { SnapshotItem } from "./items.ts";

export class WorkflowRows {
  readonly #filter: Filter;
  readonly #rowsMax: number;
  #byId = new Map<string, WorkflowRow>();
  /** Rows of a snapshot whose last page has not come; null outside of one. */
  #incoming: Map<string, WorkflowRow> | null = null;
  #sorted: readonly WorkflowRow[] = [];
  #current: "yes" | "rows differ" | "order differs" = "yes";

  constructor(filter: Filter, rowsMax: number) {
    this.#filter = filter;
    this.#rowsMax = rowsMax;
  }

  get rows(): readonly WorkflowRow[] {
    if (this.#current === "rows differ") {
      this.#sorted = this.#sorted.map((row) => this.#byId.get(row.id) ?? row);
    } else if (this.#current === "order differs") {
      this.#sorted = [...this.#byId.values()].sort(newestFirst);
    }
    this.#current = "yes";
    return this.#sorted;
  }

  /** Throws `limit_exceeded` when there are more than `rowsMax`. */
  takePage(page: SnapshotItem): void {
    if (page.first || this.#incoming === null) this.#incoming = new Map();
    for (const row of page.rows) this.#incoming.set(row.id, row);
    this.#assertBounded(this.#incoming.size);
    if (!page.last) return;
    this.#byId = this.#incoming;
    this.#incoming = null;
    this.#current = "order differs";
  }

  /** Throws `limit_exceeded` when there are more than `rowsMax`. */
  takeRow(row: WorkflowRow): void {
    const known = this.#byId.get(row.id);
    if (!this.#wants(row)) {
      if (this.#byId.delete(row.id)) this.#current = "order differs";
      return;
    }
    if (known === undefined) this.#assertBounded(this.#byId.size + 1);
    this.#byId.set(row.id, row);
    if (known?.startedAt !== row.startedAt) this.#current = "order differs";
    else if (this.#current === "yes") this.#current = "rows differ";
  }

  #wants(row: WorkflowRow): boolean {
    const { workflow, type, status, attr } = this.#filter;
    return (
      (workflow === undefined || workflow.includes(row.id)) &&
      (type === undefined || type.includes(row.type)) &&
      (status === undefined || status.includes(row.status)) &&
      (attr === undefined || hasAttributes(attr, row.attributes))
    );
  }

  #assertBounded(actual: number): void {
    if (actual <= this.#rowsMax) return;
    throw new MillraceError(
      "limit_exceeded",
      `Rows given up: ${actual} match the filter, the limit is ${this.#rowsMax}. Narrow the filter or raise rowsMax.`,
      { details: { limit: this.#rowsMax, actual } },
    );
  }
}

/** As the list of the HTTP API: by time of start, then by id. */
function newestFirst(a: WorkflowRow, b: WorkflowRow): number {
  if (a.startedAt !== b.startedAt) return a.startedAt < b.startedAt ? 1 : -1;
  return a.id < b.id ? -1 : 1;
}
