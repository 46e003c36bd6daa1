import type { Database, RunResult } from "better-sqlite3";
import { sql, type Compilable, type RawBuilder } from "kysely";

/** Each column's own name: stands for the value of that column until a row is bound. */
export type Columns<Row> = { readonly [K in keyof Row]: K };

/** Columns in the place of values. They are bound by {@link prepareRow}, so the lie about their type ends there. */
export function bound<Row>(columns: Columns<Row>): Row {
  return columns as unknown as Row;
}

/** For an upsert: every column takes the value of the row that could not be inserted. */
export function excluded<C extends object>(columns: C): { [K in keyof C]: RawBuilder<never> } {
  const entries = Object.keys(columns).map((column) => [column, sql.ref(`excluded.${column}`)]);
  return Object.fromEntries(entries) as { [K in keyof C]: RawBuilder<never> };
}

/** Prepares a query whose values are {@link bound} columns; the answer binds a row by position, which is fastest. */
export function prepareRow<Row extends object>(
  database: Database,
  query: Compilable,
): (row: Row) => RunResult {
  const { sql: text, parameters } = query.compile();
  const statement = database.prepare(text);
  const columns = parameters as readonly (keyof Row)[];
  return (row) => statement.run(columns.map((column) => row[column]));
}
