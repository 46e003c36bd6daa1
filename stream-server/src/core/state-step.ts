/**
 * What one commit does to a run's row, as text: all of the row, or only the fields that it changed. Each text is
 * made once, when somebody asks, whoever is sent it.
 */
import { isFinalRow, type StatusAround, type WorkflowRow } from "@millrace/schemas";

/** A row that does not change any more, and its fields as JSON. */
export class FoldedRow {
  readonly row: WorkflowRow;
  #texts: readonly string[] | null = null;

  constructor(row: WorkflowRow) {
    this.row = row;
  }

  /** The JSON of each field, in the order of the keys. What is the same value as in `before` is not written again. */
  texts(before: FoldedRow | null): readonly string[] {
    this.#texts ??= this.#write(before);
    return this.#texts;
  }

  #write(before: FoldedRow | null): readonly string[] {
    const known = before === null ? null : before.texts(null);
    const values = Object.values(this.row) as readonly unknown[];
    const valuesBefore = before === null ? [] : (Object.values(before.row) as readonly unknown[]);
    return values.map((value, n) =>
      known !== null && value === valuesBefore[n] ? (known[n] ?? "null") : JSON.stringify(value),
    );
  }
}

export class StateStep {
  readonly #before: FoldedRow | null;
  readonly #now: FoldedRow;
  #whole: string | null = null;
  #changed: string | null = null;

  /** The run's status around the commit. */
  readonly status: StatusAround;

  /** `before` is the row exactly one commit of the run earlier; null: there was none. */
  constructor(before: FoldedRow | null, now: FoldedRow, status: StatusAround) {
    this.#before = before;
    this.#now = now;
    this.status = status;
  }

  get row(): WorkflowRow {
    return this.#now.row;
  }

  /** Who has the row as of this sequence can do with what changed. 0: nobody, all of it is to be sent. */
  get base(): number {
    if (this.#before === null || isFinalRow(this.#before.row)) return 0;
    return this.#before.row.sequence;
  }

  whole(): string {
    this.#whole ??= this.#text(null);
    return this.#whole;
  }

  changed(): string {
    this.#changed ??= this.#text(this.#before);
    return this.#changed;
  }

  #text(since: FoldedRow | null): string {
    const texts = this.#now.texts(this.#before);
    const old = since === null ? null : since.texts(null);
    let text = "";
    for (const [n, key] of Object.keys(this.row).entries()) {
      if (old !== null && old[n] === texts[n] && key !== "id" && key !== "sequence") continue;
      text += `${text === "" ? "" : ","}"${key}":${texts[n] ?? "null"}`;
    }
    return `{${text}}`;
  }
}
