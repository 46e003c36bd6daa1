/**
 * Writes a batch: rows, history and checkpoint in one transaction.
 *
 * Owns: the writer's prepared statements. Does not own: the handle, what is in a batch.
 *
 * I1 Rows and checkpoint move together or not at all.
 * I2 One writer a file: the checkpoint moves only from where this writer left it, else `data_folder_in_use`.
 */
import { MillraceError, waitsOf } from "@millrace/schemas";
import type { Database } from "better-sqlite3";
import type { FoldBatch } from "../core/fold-batch.ts";
import type { FoldedRun } from "../core/folded-run.ts";
import type { FoldedSchedule } from "../core/folded-schedule.ts";
import { buildQuery } from "./build-query.ts";
import { bound, excluded, prepareRow, type Columns } from "./prepare-row.ts";
import { heldAttributes, type HeldAttribute } from "./attribute-history.ts";
import {
  toAttributeRecord,
  toFoldedRun,
  toStartRecord,
  toStepRecord,
  toWorkflowRecord,
} from "./run-record.ts";
import { toFoldedSchedule, toScheduleRecord } from "./schedule-record.ts";
import { createRunReader } from "./run-reader.ts";
import {
  stillHolds,
  type AttributesTable,
  type CommitsTable,
  type QuarantineTable,
  type SchedulesTable,
  type StartsTable,
  type StepsTable,
  type WaitsTable,
  type WorkflowsTable,
} from "./tables.ts";

export interface BatchWriter {
  /** A run as the tables have it; null when they have none under this id. */
  find(workflowId: string): FoldedRun | null;
  /** A schedule as the tables have it. */
  findSchedule(id: string): FoldedSchedule | null;
  /** Stores the batch. When it throws, nothing of it is stored, and the batch and its runs must be thrown away. */
  write(batch: FoldBatch, from: number): void;
}

export function createBatchWriter(database: Database): BatchWriter {
  const begin = database.prepare("begin immediate");
  const commit = database.prepare("commit");
  const rollback = database.prepare("rollback");
  const statements = prepareStatements(database);
  const runs = createRunReader(database);
  const findSchedule = database.prepare<[string], SchedulesTable>(scheduleOf.sql);
  const findAttributes = database.prepare<[number, number], HeldAttribute>(heldAttributes.sql);

  function writeRun(folded: FoldedRun): void {
    const record = toWorkflowRecord(folded);
    if (folded.storedStart === record.started_sequence) statements.updateWorkflow(record);
    else {
      statements.putWorkflow(record);
      statements.putStart(toStartRecord(folded));
      folded.storedStart = record.started_sequence;
    }
    if (folded.stepsReplaced) {
      statements.deleteSteps.run(folded.run);
      folded.stepsReplaced = false;
    }
    for (const key of folded.changedSteps) {
      const step = folded.state.steps.get(key);
      const position = folded.positions.get(key);
      if (step === undefined || position === undefined) continue;
      statements.putStep(toStepRecord(folded.run, position, step));
    }
    folded.changedSteps.clear();
    for (const { key, sequence, value } of folded.attributeChanges) {
      if (value === null)
        statements.endAttribute({ run: folded.run, key, until: sequence, open: stillHolds });
      else statements.putAttribute(toAttributeRecord(folded.run, key, value, sequence));
    }
    folded.attributeChanges.length = 0;
    if (folded.waitsChanged) writeWaits(folded);
  }

  /** All of them anew: a run has few, and most have none. */
  function writeWaits(folded: FoldedRun): void {
    const waits = waitsOf(folded.state);
    if (folded.storedWaits !== 0) statements.deleteWaits.run(folded.run);
    for (const [position, wait] of waits.entries())
      statements.putWait({ run: folded.run, position, ...wait });
    folded.storedWaits = waits.length;
    folded.waitsChanged = false;
  }

  return {
    find(workflowId) {
      const found = runs.byId(workflowId);
      if (found === null) return null;
      return toFoldedRun(found.record, found.steps, findAttributes.all(found.record.run, stillHolds));
    },
    findSchedule(id) {
      const record = findSchedule.get(id);
      return record === undefined ? null : toFoldedSchedule(record);
    },
    write(batch, from) {
      const { last } = batch;
      if (last === null) return;
      begin.run();
      try {
        // First, so that a second writer is told apart from broken rows.
        const moved = statements.moveCheckpoint({ sequence: last.sequence, commit_id: last.commitId, from });
        if (moved.changes !== 1) throw foreignWriter(database.name, from);
        for (const { run, commit: stored } of batch.commits) {
          statements.putCommit({
            sequence: stored.sequence,
            run,
            workflow_id: stored.workflowId,
            type: stored.type,
            at: stored.at,
            commit_id: stored.commitId,
            condition: stored.condition,
            body: stored.body,
          });
        }
        for (const folded of batch.runs) writeRun(folded);
        for (const folded of batch.schedules.values()) statements.putSchedule(toScheduleRecord(folded));
        for (const { sequence, workflowId, type, at, error } of batch.quarantined) {
          statements.putQuarantined({ sequence, workflow_id: workflowId, type, at, error });
        }
        commit.run();
      } catch (error) {
        if (database.open && database.inTransaction) rollback.run();
        throw error;
      }
    },
  };
}

const changingColumns = {
  version: "version",
  status: "status",
  driver: "driver",
  current_step: "current_step",
  total_steps: "total_steps",
  message: "message",
  output: "output",
  error: "error",
  attributes: "attributes",
  started_at: "started_at",
  updated_at: "updated_at",
  closed_at: "closed_at",
  sequence: "sequence",
  started_sequence: "started_sequence",
  progress_current: "progress_current",
  progress_total: "progress_total",
  fold_state: "fold_state",
  quarantined_sequence: "quarantined_sequence",
} as const;
const workflowColumns: Columns<WorkflowsTable> = { run: "run", id: "id", type: "type", ...changingColumns };

const startFacts = { input: "input", plan: "plan" } as const;
const startColumns: Columns<StartsTable> = { run: "run", ...startFacts };

const stepOutcome = {
  status: "status",
  attempt: "attempt",
  started_at: "started_at",
  completed_at: "completed_at",
  output: "output",
  error: "error",
  next_attempt_at: "next_attempt_at",
  token: "token",
  max_attempts: "max_attempts",
  kind: "kind",
  task: "task",
} as const;
const stepColumns: Columns<StepsTable> = {
  run: "run",
  position: "position",
  name: "name",
  occurrence: "occurrence",
  ...stepOutcome,
};

const commitColumns: Columns<CommitsTable> = {
  sequence: "sequence",
  run: "run",
  workflow_id: "workflow_id",
  type: "type",
  at: "at",
  commit_id: "commit_id",
  condition: "condition",
  body: "body",
};
const attributeColumns: Columns<AttributesTable> = {
  run: "run",
  key: "key",
  text: "text",
  number: "number",
  since: "since",
  until: "until",
};

const waitColumns: Columns<WaitsTable> = {
  run: "run",
  position: "position",
  kind: "kind",
  name: "name",
  since: "since",
  due: "due",
  queue: "queue",
  worker: "worker",
};

interface AttributeEnd {
  readonly run: number;
  readonly key: string;
  readonly until: number;
  readonly open: number;
}
const endColumns: AttributeEnd = bound<AttributeEnd>({
  run: "run",
  key: "key",
  until: "until",
  open: "open",
});
const scheduleFacts = {
  status: "status",
  workflow_type: "workflow_type",
  state: "state",
  quarantined_sequence: "quarantined_sequence",
} as const;
const scheduleColumns: Columns<SchedulesTable> = { run: "run", id: "id", ...scheduleFacts };
const scheduleOf = buildQuery.selectFrom("schedules").selectAll().where("id", "=", "").compile();
const quarantineColumns: Columns<QuarantineTable> = {
  sequence: "sequence",
  workflow_id: "workflow_id",
  type: "type",
  at: "at",
  error: "error",
};

interface CheckpointMove {
  readonly sequence: number;
  readonly commit_id: string;
  readonly from: number;
}
const moveColumns: CheckpointMove = bound<CheckpointMove>({
  sequence: "sequence",
  commit_id: "commit_id",
  from: "from",
});

function prepareStatements(database: Database) {
  return {
    putCommit: prepareRow<CommitsTable>(
      database,
      buildQuery.insertInto("commits").values(bound(commitColumns)),
    ),
    // The whole row only when the run is new or its start came late.
    putWorkflow: prepareRow<WorkflowsTable>(
      database,
      buildQuery
        .insertInto("workflows")
        .values(bound(workflowColumns))
        .onConflict((conflict) => conflict.column("run").doUpdateSet(excluded(changingColumns))),
    ),
    updateWorkflow: prepareRow<WorkflowsTable>(
      database,
      buildQuery
        .updateTable("workflows")
        .set(bound<Omit<WorkflowsTable, "run" | "id" | "type">>(changingColumns))
        .where("run", "=", bound(workflowColumns).run),
    ),
    putStart: prepareRow<StartsTable>(
      database,
      buildQuery
        .insertInto("starts")
        .values(bound(startColumns))
        .onConflict((conflict) => conflict.column("run").doUpdateSet(excluded(startFacts))),
    ),
    putStep: prepareRow<StepsTable>(
      database,
      buildQuery
        .insertInto("steps")
        .values(bound(stepColumns))
        .onConflict((conflict) => conflict.columns(["run", "position"]).doUpdateSet(excluded(stepOutcome))),
    ),
    deleteSteps: database.prepare<[number]>(
      buildQuery.deleteFrom("steps").where("run", "=", 0).compile().sql,
    ),
    putAttribute: prepareRow<AttributesTable>(
      database,
      buildQuery.insertInto("attributes").values(bound(attributeColumns)),
    ),
    putWait: prepareRow<WaitsTable>(database, buildQuery.insertInto("waits").values(bound(waitColumns))),
    deleteWaits: database.prepare<[number]>(
      buildQuery.deleteFrom("waits").where("run", "=", 0).compile().sql,
    ),
    endAttribute: prepareRow<AttributeEnd>(
      database,
      buildQuery
        .updateTable("attributes")
        .set({ until: endColumns.until })
        .where("run", "=", endColumns.run)
        .where("key", "=", endColumns.key)
        .where("until", "=", endColumns.open),
    ),
    putSchedule: prepareRow<SchedulesTable>(
      database,
      buildQuery
        .insertInto("schedules")
        .values(bound(scheduleColumns))
        .onConflict((conflict) => conflict.column("run").doUpdateSet(excluded(scheduleFacts))),
    ),
    putQuarantined: prepareRow<QuarantineTable>(
      database,
      buildQuery.insertInto("quarantine").values(bound(quarantineColumns)),
    ),
    moveCheckpoint: prepareRow<CheckpointMove>(
      database,
      buildQuery
        .updateTable("checkpoint")
        .set({ sequence: moveColumns.sequence, commit_id: moveColumns.commit_id })
        .where("sequence", "=", moveColumns.from),
    ),
  };
}

function foreignWriter(path: string, from: number): MillraceError {
  return new MillraceError(
    "data_folder_in_use",
    `Write to ${path} refused: its checkpoint is no longer at ${from}, where this projector left it. ` +
      "Another projector writes this file: stop one of the two.",
    { details: { expected: from } },
  );
}
