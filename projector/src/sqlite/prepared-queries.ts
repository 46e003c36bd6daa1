import type { Database, Statement } from "better-sqlite3";
import type { Compilable } from "kysely";

/** Distinct texts kept prepared: more than all filters of a list and all lengths of a commit filter. */
const preparedMax = 512;

/** Runs built queries on one read-only handle and keeps their statements prepared. */
export class PreparedQueries {
  readonly #database: Database;
  readonly #statements = new Map<string, Statement>();
  readonly #runOf: Statement<[string], { run: number }>;
  readonly #scheduleOf: Statement<[string], { run: number }>;

  constructor(database: Database) {
    this.#database = database;
    this.#runOf = database.prepare("select run from workflows where id = ?");
    this.#scheduleOf = database.prepare("select run from schedules where id = ?");
  }

  /** Key of the rows of a run or schedule; null when none has this id. */
  runOf(workflowId: string): number | null {
    return this.#runOf.get(workflowId)?.run ?? this.#scheduleOf.get(workflowId)?.run ?? null;
  }

  all<Row>(query: Compilable): Row[] {
    const { sql, parameters } = query.compile();
    return this.#prepare(sql).all(...parameters) as Row[];
  }

  iterate<Row>(query: Compilable): IterableIterator<Row> {
    const { sql, parameters } = query.compile();
    return this.#prepare(sql).iterate(...parameters) as IterableIterator<Row>;
  }

  #prepare(sql: string): Statement {
    const known = this.#statements.get(sql);
    if (known !== undefined) return known;
    if (this.#statements.size >= preparedMax) this.#statements.clear();
    const statement = this.#database.prepare(sql);
    this.#statements.set(sql, statement);
    return statement;
  }
}
