import { DummyDriver, Kysely, SqliteAdapter, SqliteIntrospector, SqliteQueryCompiler } from "kysely";
import type { ProjectionTables } from "./tables.ts";

/**
 * Builds typed SQL and never runs it: statements are prepared once on a better-sqlite3 handle. Kysely itself prepares
 * on every execution (22 µs against 2 µs a row), and its promises would let another statement into a transaction.
 */
export const buildQuery = new Kysely<ProjectionTables>({
  dialect: {
    createAdapter: () => new SqliteAdapter(),
    createDriver: () => new DummyDriver(),
    createIntrospector: (database) => new SqliteIntrospector(database),
    createQueryCompiler: () => new SqliteQueryCompiler(),
  },
});
