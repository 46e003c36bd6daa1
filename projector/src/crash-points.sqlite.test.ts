/** Every point at which the process can end between the fold of a batch and the commit of its transaction. */
import type { StoredCommit } from "@millrace/event-log";
import type { Database, Statement } from "better-sqlite3";
import { expect, onTestFinished, test } from "vitest";
import { threeStepRuns } from "./fixture/sample-history.ts";
import { createSampleLog } from "./fixture/sample-log.ts";
import { projectAll, temporaryProjection } from "./fixture/temporary-projection.ts";
import { openProjection } from "./open-projection.ts";
import { ProjectionWriter } from "./projection-writer.ts";
import { rebuildProjection } from "./rebuild.ts";
import { hashProjection, type ProjectionHash } from "./sqlite/hash-projection.ts";
import { openForWriting } from "./sqlite/open-database.ts";
import { createProjectionFile } from "./sqlite/projection-file.ts";

class Crash extends Error {}

/** A handle that dies instead of running its nth statement; transaction statements count too. */
function dyingDatabase(path: string, statementsMax: number): { database: Database; ran: () => number } {
  const database = openForWriting(path);
  let ran = 0;
  let dead = false;
  const dying = (statement: Statement): Statement =>
    new Proxy(statement, {
      get(target, property) {
        const value: unknown = Reflect.get(target, property, target);
        if (typeof value !== "function") return value;
        if (property !== "run") return value.bind(target) as unknown;
        return (...values: unknown[]) => {
          if (dead || ran === statementsMax) {
            // As the process would leave it: no rollback, no further statement.
            dead = true;
            database.close();
            throw new Crash(`died before statement ${ran + 1}: ${target.source}`);
          }
          ran++;
          return target.run(...values);
        };
      },
    });
  const proxy = new Proxy(database, {
    get(target, property) {
      const value: unknown = Reflect.get(target, property, target);
      if (property === "prepare") return (sql: string) => dying(target.prepare(sql));
      return typeof value === "function" ? (value.bind(target) as unknown) : value;
    },
  });
  return { database: proxy, ran: () => ran };
}

test("I1: a crash at any statement of any transaction, then a restart, equals a rebuild from zero", async () => {
  const { log, fill, put } = createSampleLog();
  const history = threeStepRuns(2);
  await fill(history.slice(0, 5));
  await put("order-1", "order", "nonsense");
  await fill(history.slice(5));
  const commits: StoredCommit[] = [];
  for (let sequence = 1; sequence <= 9; sequence++) {
    const commit = await log.read(sequence);
    if (commit !== null) commits.push(commit);
  }
  const { created } = await log.info();
  const wholePath = temporaryProjection();
  await projectAll({ log, path: wholePath });
  const whole = hashProjection(wholePath);
  const rebuilt = await rebuildProjection({ log, path: temporaryProjection(), poison: "quarantine" });
  expect(whole).toEqual(rebuilt);

  let points = 0;
  let lastPoint: object | null = null;
  const rebuiltUpTo = new Map<number, ProjectionHash>();
  for (let statementsMax = 0; ; statementsMax++) {
    const path = temporaryProjection();
    createProjectionFile(path, created);
    const { database, ran } = dyingDatabase(path, statementsMax);
    const writer = new ProjectionWriter({ database, batchMax: 3, poison: "quarantine" });
    const crashed = foldInThrees(writer, commits);
    if (crashed === null) {
      writer.close();
      lastPoint = { ran: ran(), statementsMax, hash: hashProjection(path) };
      break;
    }
    expect(crashed).toBeInstanceOf(Crash);
    points++;
    // What the crash left is exactly the rows of its checkpoint …
    const left = hashProjection(path);
    const upTo =
      rebuiltUpTo.get(left.sequence) ??
      (await rebuildProjection({
        log,
        path: temporaryProjection(),
        upTo: left.sequence,
        poison: "quarantine",
      }));
    rebuiltUpTo.set(left.sequence, upTo);
    expect(left, crashed.message).toEqual(upTo);
    // … and a restart makes it whole.
    await projectAll({ log, path, batchMax: 2 });
    expect(hashProjection(path), crashed.message).toEqual(rebuilt);
  }
  expect(lastPoint).toEqual({ ran: points, statementsMax: points, hash: whole });
  // Three transactions of begin, checkpoint, three commits, rows, commit.
  expect(points).toBeGreaterThan(30);
  expect([...rebuiltUpTo.keys()]).toEqual([0, 3, 6]);
});

test("I2: after a failed write the file is as before, the writer is closed, and a reader goes on", async () => {
  const { log, fill } = createSampleLog();
  await fill(threeStepRuns(1));
  const path = temporaryProjection();
  createProjectionFile(path, (await log.info()).created);
  const projection = openProjection({ path });
  onTestFinished(() => projection.close());
  const database = openForWriting(path);
  const writer = new ProjectionWriter({ database, batchMax: 10, poison: "stop" });
  database.exec(
    "create temp trigger fail before insert on steps begin select raise(abort, 'no steps today'); end",
  );
  for (const commit of await log.load("order-0")) writer.add(commit);
  expect(() => writer.flush()).toThrow("no steps today");
  expect(database.open).toBe(false);
  expect(() => writer.flush()).toThrow("not open");
  expect([projection.checkpoint().sequence, projection.list({}).items]).toEqual([0, []]);
  await projectAll({ log, path });
  expect(projection.workflow("order-0")?.status).toBe("completed");
});

function foldInThrees(writer: ProjectionWriter, commits: readonly StoredCommit[]): Error | null {
  try {
    for (const commit of commits) {
      writer.add(commit);
      if (writer.full) writer.flush();
    }
    writer.flush();
    return null;
  } catch (error) {
    return error instanceof Error ? error : new Error(String(error));
  }
}
