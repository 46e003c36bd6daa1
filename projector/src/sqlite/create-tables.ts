import type { Database } from "better-sqlite3";
import { sql, type Compilable } from "kysely";
import { buildQuery } from "./build-query.ts";
import { schemaVersion } from "./tables.ts";

const { schema } = buildQuery;
const strict = sql`strict`;
// One lookup instead of two where the key is not one integer.
const strictByKey = sql`strict, without rowid`;

// Numbers that an event brings are `real`: the log allows 2.5 steps, and a strict integer column would refuse it.
const tables: readonly Compilable[] = [
  schema
    .createTable("workflows")
    .addColumn("run", "integer", (column) => column.primaryKey())
    .addColumn("id", "text", (column) => column.notNull().unique())
    .addColumn("type", "text", (column) => column.notNull())
    .addColumn("version", "text", (column) => column.notNull())
    .addColumn("status", "text", (column) => column.notNull())
    .addColumn("driver", "text", (column) => column.notNull())
    .addColumn("current_step", "real", (column) => column.notNull())
    .addColumn("total_steps", "real", (column) => column.notNull())
    .addColumn("message", "text", (column) => column.notNull())
    .addColumn("output", "text")
    .addColumn("error", "text")
    .addColumn("attributes", "text", (column) => column.notNull())
    .addColumn("started_at", "real", (column) => column.notNull())
    .addColumn("updated_at", "real", (column) => column.notNull())
    .addColumn("closed_at", "real")
    .addColumn("sequence", "integer", (column) => column.notNull())
    .addColumn("started_sequence", "integer", (column) => column.notNull())
    .addColumn("progress_current", "real")
    .addColumn("progress_total", "real")
    .addColumn("fold_state", "text")
    .addColumn("quarantined_sequence", "integer")
    .modifyEnd(strict),
  schema
    .createTable("starts")
    .addColumn("run", "integer", (column) => column.primaryKey())
    .addColumn("input", "text", (column) => column.notNull())
    .addColumn("plan", "text", (column) => column.notNull())
    .modifyEnd(strict),
  schema
    .createTable("steps")
    .addColumn("run", "integer", (column) => column.notNull())
    .addColumn("position", "integer", (column) => column.notNull())
    .addColumn("name", "text", (column) => column.notNull())
    .addColumn("occurrence", "real", (column) => column.notNull())
    .addColumn("status", "text", (column) => column.notNull())
    .addColumn("attempt", "real", (column) => column.notNull())
    .addColumn("started_at", "real")
    .addColumn("completed_at", "real")
    .addColumn("output", "text")
    .addColumn("error", "text")
    .addColumn("next_attempt_at", "real")
    .addColumn("token", "text")
    .addColumn("max_attempts", "real")
    .addColumn("kind", "text", (column) => column.notNull())
    .addColumn("task", "text")
    .addPrimaryKeyConstraint("steps_key", ["run", "position"])
    .modifyEnd(strictByKey),
  schema
    .createTable("commits")
    .addColumn("sequence", "integer", (column) => column.primaryKey())
    .addColumn("run", "integer", (column) => column.notNull())
    .addColumn("workflow_id", "text", (column) => column.notNull())
    .addColumn("type", "text", (column) => column.notNull())
    .addColumn("at", "real", (column) => column.notNull())
    .addColumn("commit_id", "text", (column) => column.notNull())
    .addColumn("condition", "text")
    .addColumn("body", "text", (column) => column.notNull())
    .modifyEnd(strict),
  schema
    .createTable("attributes")
    .addColumn("run", "integer", (column) => column.notNull())
    .addColumn("key", "text", (column) => column.notNull())
    .addColumn("text", "text", (column) => column.notNull())
    .addColumn("number", "real")
    .addColumn("since", "integer", (column) => column.notNull())
    .addColumn("until", "integer", (column) => column.notNull())
    .addPrimaryKeyConstraint("attributes_key", ["run", "key", "since"])
    .modifyEnd(strictByKey),
  schema
    .createTable("schedules")
    .addColumn("run", "integer", (column) => column.primaryKey())
    .addColumn("id", "text", (column) => column.notNull().unique())
    .addColumn("status", "text")
    .addColumn("workflow_type", "text")
    .addColumn("state", "text")
    .addColumn("quarantined_sequence", "integer")
    .modifyEnd(strict),
  schema
    .createTable("waits")
    .addColumn("run", "integer", (column) => column.notNull())
    .addColumn("position", "integer", (column) => column.notNull())
    .addColumn("kind", "text", (column) => column.notNull())
    .addColumn("name", "text", (column) => column.notNull())
    .addColumn("since", "real")
    .addColumn("due", "real")
    .addColumn("queue", "text")
    .addColumn("worker", "text")
    .addPrimaryKeyConstraint("waits_key", ["run", "position"])
    .modifyEnd(strictByKey),
  schema
    .createTable("checkpoint")
    .addColumn("id", "integer", (column) => column.primaryKey())
    .addColumn("sequence", "integer", (column) => column.notNull())
    .addColumn("commit_id", "text", (column) => column.notNull())
    .addColumn("stream_created", "text", (column) => column.notNull())
    .modifyEnd(strict),
  schema
    .createTable("quarantine")
    .addColumn("sequence", "integer", (column) => column.primaryKey())
    .addColumn("workflow_id", "text", (column) => column.notNull())
    .addColumn("type", "text", (column) => column.notNull())
    .addColumn("at", "real", (column) => column.notNull())
    .addColumn("error", "text", (column) => column.notNull())
    .modifyEnd(strict),
];

// Every index ends with the table's integer key by itself, so that each is read in the order of sequences.
const indexes: readonly Compilable[] = [
  schema.createIndex("commits_by_run").on("commits").column("run"),
  schema.createIndex("commits_by_type").on("commits").column("type"),
  schema.createIndex("attributes_by_text").on("attributes").columns(["key", "text", "until", "run"]),
  schema.createIndex("waits_by_name").on("waits").columns(["kind", "name", "run"]),
  schema.createIndex("workflows_by_type").on("workflows").columns(["type"]),
  schema.createIndex("workflows_by_status").on("workflows").columns(["status"]),
  schema.createIndex("workflows_by_type_status").on("workflows").columns(["type", "status"]),
];

/** Creates the tables with a checkpoint at the log's beginning, in one transaction. */
export function createTables(database: Database, streamCreated: string): void {
  const checkpoint = buildQuery
    .insertInto("checkpoint")
    .values({ id: 1, sequence: 0, commit_id: "", stream_created: streamCreated })
    .compile();
  database
    .transaction(() => {
      for (const table of tables) database.exec(table.compile().sql);
      database.prepare(checkpoint.sql).run(checkpoint.parameters);
      database.pragma(`user_version = ${schemaVersion}`);
    })
    .immediate();
}

/** Apart from the tables: a rebuild creates them last, over the finished rows. */
export function createIndexes(database: Database): void {
  database.transaction(() => indexes.forEach((index) => void database.exec(index.compile().sql))).immediate();
}
