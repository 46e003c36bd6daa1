import { isFinalRow, type StateFields, type WorkflowRow } from "@millrace/schemas";

/**
 * The rows that one subscription was sent last: a state entry says only what changed since. A closed run is let go,
 * since the server sends all of it again should it be opened again: memory grows with the open runs only.
 */
export class HeldRows {
  readonly #rows = new Map<string, WorkflowRow>();

  get count(): number {
    return this.#rows.size;
  }

  /** For a subscription that is made anew: of each run all of the row comes first. */
  clear(): void {
    this.#rows.clear();
  }

  /** A row that came whole, in a snapshot. */
  keep(row: WorkflowRow): void {
    if (isFinalRow(row)) this.#rows.delete(row.id);
    else this.#rows.set(row.id, row);
  }

  /** The row after an entry. */
  merge(fields: StateFields): WorkflowRow {
    // The first entry of a run has all fields.
    const row = { ...this.#rows.get(fields.id), ...fields } as WorkflowRow;
    this.keep(row);
    return row;
  }
}
