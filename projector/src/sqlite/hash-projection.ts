import { createHash } from "node:crypto";
import type { Database } from "better-sqlite3";
import { buildQuery } from "./build-query.ts";
import { openForReading } from "./open-database.ts";
import { prepareCheckpoint } from "./projection-file.ts";
import { tableKeys } from "./tables.ts";

export interface ProjectionHash {
  /** The checkpoint that the hash is of. */
  readonly sequence: number;
  /** SHA-256 over all tables, in hex. */
  readonly hash: string;
  /** The same by table, to see where two projections differ. */
  readonly tables: Readonly<Record<keyof typeof tableKeys, { readonly rows: number; readonly hash: string }>>;
}

/**
 * Hashes every row of every table in the order of its key: equal for two files that hold the same facts, however
 * they came to hold them. Reads in one transaction; a large live file cannot fold back its WAL meanwhile.
 */
export function hashProjection(path: string): ProjectionHash {
  const database = openForReading(path);
  try {
    return database.transaction(() => hashOf(database)).deferred();
  } finally {
    database.close();
  }
}

function hashOf(database: Database): ProjectionHash {
  const total = createHash("sha256");
  const tables = Object.entries(tableKeys).map(([table, keys]) => {
    const name = table as keyof typeof tableKeys;
    const query = keys.reduce(
      (rows, key) => rows.orderBy(key as never),
      buildQuery.selectFrom(name).selectAll(),
    );
    const hash = createHash("sha256");
    let rows = 0;
    for (const row of database.prepare(query.compile().sql).raw().iterate()) {
      hash.update(`${JSON.stringify(row)}\n`);
      rows++;
    }
    const digest = hash.digest("hex");
    total.update(`${name} ${digest}\n`);
    return [name, { rows, hash: digest }];
  });
  return {
    sequence: prepareCheckpoint(database)().sequence,
    hash: total.digest("hex"),
    tables: Object.fromEntries(tables) as ProjectionHash["tables"],
  };
}
