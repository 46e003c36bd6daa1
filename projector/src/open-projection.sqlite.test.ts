import { createMemoryLog, type EventLog } from "@millrace/event-log";
import {
  evolveCommit,
  initialRunState,
  toRow,
  type AttributeChanges,
  type Attributes,
  type Filter,
  type WorkflowEvent,
} from "@millrace/schemas";
import BetterSqlite3 from "better-sqlite3";
import { describe, expect, onTestFinished, test, vi } from "vitest";
import { waitersMax } from "./checkpoint-waiters.ts";
import { threeStepRuns, type SampleCommit } from "./fixture/sample-history.ts";
import { createSampleLog } from "./fixture/sample-log.ts";
import {
  caughtUp,
  projectAll,
  startTestProjector,
  temporaryProjection,
} from "./fixture/temporary-projection.ts";
import { openProjection, type OpenedProjection } from "./open-projection.ts";
import type { RunFilter } from "./projection.ts";
import { verifyProjection } from "./rebuild.ts";
import { listRuns } from "./sqlite/list-runs.ts";
import type { PreparedQueries } from "./sqlite/prepared-queries.ts";

function open(path: string, log?: EventLog): OpenedProjection {
  const projection = openProjection({ path, ...(log === undefined ? {} : { log }) });
  onTestFinished(() => projection.close());
  return projection;
}

async function projected(history: readonly SampleCommit[]) {
  const sample = createSampleLog();
  await sample.fill(history);
  const path = temporaryProjection();
  await projectAll({ log: sample.log, path });
  return { ...sample, path, projection: open(path) };
}

const retyped = (commits: readonly SampleCommit[], type: string, prefix: string): SampleCommit[] =>
  commits.map((commit) => ({ ...commit, type, workflowId: prefix + commit.workflowId }));

describe("I2: before there is a file", () => {
  test("answers are those of an empty projection at 0", () => {
    const projection = open(temporaryProjection());
    expect(projection.checkpoint()).toEqual({ sequence: 0, commitId: "", streamCreated: "" });
    expect([projection.workflow("a"), projection.state("a"), projection.stateAt("a", 1)]).toEqual([
      null,
      null,
      null,
    ]);
    expect(projection.list({})).toEqual({ items: [], next: null, sequence: 0 });
    expect(projection.events("a", {})).toEqual({ items: [], next: null });
    expect(projection.commits({}, 0, 10, 1_000)).toEqual({ commits: [], upTo: 0 });
    expect(projection.snapshot({}, 10)).toEqual({ rows: [], sequence: 0 });
    expect(projection.quarantined()).toEqual([]);
  });

  test("waitFor waits for a projector that starts later", async () => {
    const { log, fill } = createSampleLog();
    const path = temporaryProjection();
    await fill(threeStepRuns(1));
    const projection = open(path, log);
    const waiting = projection.waitFor(4, 5_000);
    await startTestProjector({ log, path });
    expect(await waiting).toBe(4);
    expect(projection.workflow("order-0")?.status).toBe("completed");
  });
});

describe("waitFor", () => {
  test("is pushed by a projector in another process, by its hint", async () => {
    const { log, server, fill } = createSampleLog();
    const path = temporaryProjection();
    const projector = await startTestProjector({ log, path });
    const projection = open(path, createMemoryLog({ server }));
    const waiting = projection.waitFor(3, 5_000);
    const begun = performance.now();
    await fill(threeStepRuns(1));
    expect(await waiting).toBeGreaterThanOrEqual(3);
    // Far under the time-out: the hint did it and not the last look.
    expect(performance.now() - begun).toBeLessThan(2_500);
    await caughtUp(projector, log);
    expect(await projection.waitFor(2, 0)).toBe(4);
  });

  test("is pushed by a projector in this process without any log", async () => {
    const { log, fill } = createSampleLog();
    const path = temporaryProjection();
    const projection = open(path);
    await startTestProjector({ log, path, onAdvance: () => projection.advance() });
    const waiting = projection.waitFor(4, 60_000);
    await fill(threeStepRuns(1));
    expect(await waiting).toBe(4);
  });

  test("a lost hint costs time and no answer", async () => {
    const { log, fill } = createSampleLog();
    const path = temporaryProjection();
    const projection = open(path);
    const waiting = projection.waitFor(4, 300);
    await fill(threeStepRuns(1));
    await projectAll({ log, path });
    expect(await waiting).toBe(4);
  });

  test("hints that were lost with the connection are made up for when it is back", async () => {
    const { log, server, fill } = createSampleLog();
    const path = temporaryProjection();
    const projection = open(path, createMemoryLog({ server }));
    const waiting = projection.waitFor(4, 60_000);
    await fill(threeStepRuns(1));
    const deaf: EventLog = { ...log, announce: () => undefined };
    await projectAll({ log: deaf, path });
    server.disconnect();
    server.reconnect();
    expect(await waiting).toBe(4);
  });

  test("rejects with projector_behind, expected and actual", async () => {
    const { projection } = await projected(threeStepRuns(1));
    await expect(projection.waitFor(5, 20)).rejects.toMatchObject({
      code: "projector_behind",
      retryable: true,
      details: { expected: 5, actual: 4 },
    });
  });

  test("has room for a bounded number, and closing frees them all", async () => {
    const projection = open(temporaryProjection());
    const waiting = Array.from({ length: waitersMax }, () => projection.waitFor(1, 60_000));
    await expect(projection.waitFor(1, 60_000)).rejects.toMatchObject({ code: "overloaded" });
    projection.close();
    const settled = await Promise.allSettled(waiting);
    expect(settled.every((result) => result.status === "rejected")).toBe(true);
  });
});

describe("list", () => {
  test("pages newest first, without holes or repeats, while runs are added", async () => {
    const { log, fill, path, projection } = await projected(threeStepRuns(5, 1));
    const first = projection.list({ limit: 2 });
    expect(first.items.map(({ id }) => id)).toEqual(["order-4", "order-3"]);
    expect(first.sequence).toBe(20);
    await fill(threeStepRuns(7, 1).slice(20));
    await projectAll({ log, path });
    const second = projection.list({ limit: 2, after: String(first.next) });
    const third = projection.list({ limit: 2, after: String(second.next) });
    expect([...second.items, ...third.items].map(({ id }) => id)).toEqual(["order-2", "order-1", "order-0"]);
    expect(third.next).toBeNull();
  });

  test("a last page that is just full says that it is the last", async () => {
    const { projection } = await projected(threeStepRuns(2, 1));
    expect(projection.list({ limit: 2 }).next).toBeNull();
  });

  test("filters by type, status and attributes, all of which must match", async () => {
    const orders = threeStepRuns(6, 1);
    const { projection } = await projected([
      ...orders.slice(0, 22),
      ...retyped(threeStepRuns(2, 1), "permit", "p-"),
    ]);
    const ids = (options: Parameters<OpenedProjection["list"]>[0]) =>
      projection.list(options).items.map(({ id }) => id);
    expect(ids({ type: "permit" })).toEqual(["p-order-1", "p-order-0"]);
    expect(ids({ status: "running" })).toEqual(["order-5"]);
    expect(ids({ type: "permit", status: "running" })).toEqual([]);
    expect(ids({ attributes: { customer: "1" } })).toEqual(["p-order-1", "order-1"]);
    expect(ids({ type: "order", attributes: { customer: "1" } })).toEqual(["order-1"]);
    expect(ids({ attributes: { customer: "1", region: "eu" } })).toEqual([]);
  });

  test("finds by what attributes are now: any of several values, ranges of numbers and dates, changed by code", async () => {
    const run = (n: number, attributes: Attributes, ...changes: AttributeChanges[]): SampleCommit[] => [
      {
        workflowId: `r-${n}`,
        type: "order",
        events: [{ type: "WorkflowStarted", data: { version: "1", driver: "code", attributes } }],
      },
      ...changes.map((changed): SampleCommit => ({
        workflowId: `r-${n}`,
        type: "order",
        events: [{ type: "AttributesUpserted", data: { attributes: changed } }],
      })),
    ];
    const { projection } = await projected([
      ...run(1, { customer: "7", amount: 9, due: "2026-03-01T00:00:00.000Z" }),
      ...run(2, { customer: 7, amount: 100, vip: true }),
      ...run(3, { customer: "8", amount: "100" }, { customer: "9" }, { vip: true }),
      ...run(4, { customer: "7", due: "2026-04-01T00:00:00.000Z" }, { customer: null, amount: 50 }),
      ...run(5, { customer: "9", amount: -1 }),
    ]);
    const ids = (options: Parameters<OpenedProjection["list"]>[0]) =>
      projection
        .list(options)
        .items.map(({ id }) => id)
        .join(" ");
    expect(ids({ attributes: { customer: "7" } })).toBe("r-2 r-1");
    expect(ids({ attributes: { customer: [9, "7"] } })).toBe("r-5 r-3 r-2 r-1");
    expect(ids({ attributes: { customer: [9, "7"] }, limit: 3 })).toBe("r-5 r-3 r-2");
    expect(ids({ attributes: { customer: [9, "7"] }, after: projection.list({ limit: 3 }).next ?? "" })).toBe(
      "r-2 r-1",
    );
    expect(ids({ attributes: { customer: ["9", "7"], vip: "true" } })).toBe("r-3 r-2");
    expect(ids({ attributes: { customer: "8" } })).toBe("");
    expect(ids({ ranges: { amount: { min: 9, max: 99 } } })).toBe("r-4 r-1");
    expect(ids({ ranges: { amount: { max: 8 } } })).toBe("r-5");
    expect(ids({ ranges: { due: { min: "2026-03-15" } } })).toBe("r-4");
    expect(ids({ attributes: { customer: "7" }, ranges: { amount: { min: 10 } } })).toBe("r-2");
    expect(ids({ workflow: ["r-1", "r-5"], attributes: { customer: "9" } })).toBe("r-5");
    const snapped = (filter: Filter) =>
      projection
        .snapshot(filter, 10)
        .rows.map(({ id }) => id)
        .sort();
    expect(snapped({ attr: { customer: "9" } })).toEqual(["r-3", "r-5"]);
    expect(snapped({ attr: { customer: "9" }, type: ["order"] })).toEqual(["r-3", "r-5"]);
    expect(snapped({ attr: { customer: "9" }, workflow: ["r-1", "r-3"] })).toEqual(["r-3"]);
    expect(projection.workflow("r-3")?.attributes).toEqual({ customer: "9", amount: "100", vip: true });
  });

  test("finds runs by what they wait for, and counts up to a limit", async () => {
    const begin = (n: number, ...events: WorkflowEvent[]): SampleCommit => ({
      workflowId: `r-${n}`,
      type: "order",
      events: [
        { type: "WorkflowStarted", data: { version: "1", driver: "code", attributes: { n, all: true } } },
        ...events,
      ],
    });
    const wait = (signal: string): WorkflowEvent => ({ type: "WaitStarted", data: { wait: "w#1", signal } });
    const { projection, log, path } = await projected([
      begin(1, wait("approve")),
      begin(2, wait("pay")),
      begin(3, { type: "TimerStarted", data: { timer: "sleep#1", dueAt: 5 } }),
      begin(4, wait("approve")),
      { workflowId: "r-4", type: "order", events: [{ type: "WaitSatisfied", data: { wait: "w#1" } }] },
      begin(5, wait("approve")),
      { workflowId: "r-5", type: "order", events: [{ type: "WorkflowTerminated", data: {} }] },
    ]);
    const ids = (options: RunFilter) => projection.list(options).items.map(({ id }) => id);
    expect(ids({ waits: { kind: "signal", name: "approve" } })).toEqual(["r-1"]);
    expect(ids({ waits: { kind: "signal" } })).toEqual(["r-2", "r-1"]);
    expect(ids({ waits: { kind: "timer" }, attributes: { all: true } })).toEqual(["r-3"]);
    expect(ids({ waits: { kind: "child" } })).toEqual([]);
    expect(projection.workflow("r-2")?.waits).toMatchObject([{ kind: "signal", name: "pay" }]);
    expect(projection.count({}, 100)).toBe(5);
    expect(projection.count({}, 3)).toBe(3);
    expect(projection.count({ attributes: { n: [1, 2, 9] } }, 100)).toBe(2);
    expect(projection.count({ attributes: { n: [] } }, 100)).toBe(0);
    expect((await verifyProjection({ log, path })).differing).toEqual([]);
  });

  test("a rare attribute is found without looking at all runs, one value or several", async () => {
    const { path } = await projected(threeStepRuns(3, 1));
    const database = new BetterSqlite3(path, { readonly: true });
    onTestFinished(() => void database.close());
    const queries: string[] = [];
    const spy: Pick<PreparedQueries, "all"> = {
      all: (query) => {
        const { sql, parameters } = query.compile();
        const plan = database
          .prepare<unknown[], { detail: string }>(`explain query plan ${sql}`)
          .all(...parameters);
        queries.push(plan.map(({ detail }) => detail).join("; "));
        return [];
      },
    };
    listRuns(spy as PreparedQueries, { attributes: { customer: "1" } }, 50, 10);
    listRuns(
      spy as PreparedQueries,
      { attributes: { customer: ["1", "2"], region: "eu" }, status: "failed" },
      null,
      10,
    );
    for (const plan of queries) {
      expect(plan).toContain("attributes_by_text (key=? AND text=? AND until=?");
      expect(plan).not.toMatch(/SCAN workflows|TEMP B-TREE/);
    }
    expect(queries).toHaveLength(2);
  });

  test("refuses a limit beyond the bounds and a cursor that is none", async () => {
    const { projection } = await projected([]);
    expect(() => projection.list({ limit: 1_001 })).toThrow(
      expect.objectContaining({ code: "limit_exceeded" }) as Error,
    );
    expect(() => projection.list({ limit: 0 })).toThrow(
      expect.objectContaining({ code: "limit_exceeded" }) as Error,
    );
    expect(() => projection.list({ after: "x" })).toThrow(
      expect.objectContaining({ code: "invalid_request" }) as Error,
    );
    expect(() => projection.events("a", { after: "1.x" })).toThrow(
      expect.objectContaining({ code: "invalid_request" }) as Error,
    );
  });
});

describe("events", () => {
  test("pages through a commit of several events", async () => {
    const { projection } = await projected(threeStepRuns(2));
    const seen: string[] = [];
    let after: string | null = null;
    do {
      const page = projection.events("order-1", { limit: 1, ...(after === null ? {} : { after }) });
      seen.push(...page.items.map(({ sequence, index, type }) => `${sequence}.${index} ${type}`));
      after = page.next;
    } while (after !== null);
    expect(seen).toEqual([
      "2.0 WorkflowStarted",
      "4.0 StepCompleted",
      "6.0 StepCompleted",
      "8.0 StepCompleted",
      "8.1 WorkflowCompleted",
    ]);
    expect(projection.events("order-1", { after: "6" }).items.map(({ sequence }) => sequence)).toEqual([
      8, 8,
    ]);
    expect(projection.events("order-1", {}).items[0]).toMatchObject({ at: "2026-01-01T00:00:03.000Z" });
    expect(projection.events("nobody", {}).items).toEqual([]);
  });
});

describe("commits", () => {
  const history = [
    ...threeStepRuns(6, 3),
    ...retyped(threeStepRuns(3, 3), "permit", "p-"),
    ...retyped(threeStepRuns(2, 2), "claim", "c-"),
  ];
  const filters: readonly Filter[] = [
    {},
    { workflow: ["order-1"] },
    { workflow: ["order-4", "p-order-0", "nobody", "order-4"] },
    { type: ["permit"] },
    { type: ["claim", "order", "nothing"] },
    { workflow: ["order-1", "p-order-1"], type: ["permit"] },
    { workflow: ["nobody"] },
    { type: ["nothing"] },
    { event: ["WorkflowCompleted"] },
  ];

  test.each(filters.map((filter) => [JSON.stringify(filter), filter] as const))(
    "everything in (after, upTo] that matches is in the page, for %s",
    async (_, filter) => {
      const { projection } = await projected(history);
      const all = history
        .map((commit, index) => ({ ...commit, sequence: index + 1 }))
        .filter(
          ({ workflowId, type }) =>
            (filter.workflow?.includes(workflowId) ?? true) && (filter.type?.includes(type) ?? true),
        )
        .map(({ sequence }) => sequence);
      for (const maxCommits of [1, 2, 7, 1_000]) {
        for (const maxBytes of [1, 700, 1e6]) {
          for (let after = 0; after <= history.length + 1; after += 5) {
            const { commits, upTo } = projection.commits(filter, after, maxCommits, maxBytes);
            const given = commits.map(({ sequence }) => sequence);
            expect(given).toEqual(all.filter((sequence) => sequence > after && sequence <= upTo));
            expect(given.length).toBeLessThanOrEqual(maxCommits);
            expect(upTo).toBeLessThanOrEqual(history.length);
            // A page always moves on, and says "the checkpoint" when there is nothing more.
            const complete = all.every((sequence) => sequence <= after || given.includes(sequence));
            expect(upTo > after || after >= history.length).toBe(true);
            expect(upTo === history.length || !complete).toBe(true);
            const bytes = commits.slice(0, -1).reduce((sum, { body }) => sum + body.length, 0);
            expect(bytes).toBeLessThanOrEqual(maxBytes);
          }
        }
      }
    },
  );

  test("a commit is given as it stands in the log", async () => {
    const { projection, log } = await projected(threeStepRuns(1));
    const { sequence, workflowId, type, at, commitId, condition, body } =
      (await log.load("order-0"))[1] ?? {};
    expect(projection.commits({}, 1, 1, 1).commits).toEqual([
      { sequence, workflowId, type, at, commitId, condition, body },
    ]);
  });

  test("no filter reads the whole table: each arm is an index, merged in order", async () => {
    const { path } = await projected(threeStepRuns(1));
    const file = new BetterSqlite3(path, { readonly: true });
    onTestFinished(() => void file.close());
    const plan = (sql: string) =>
      file
        .prepare<[], { detail: string }>(`explain query plan ${sql}`)
        .all()
        .map(({ detail }) => detail)
        .join("\n");
    const arm = (where: string) => `select sequence, body from commits where sequence > 5 and ${where}`;
    for (const [where, index] of [
      ["run = ", "commits_by_run"],
      ["type = ", "commits_by_type"],
    ] as const) {
      const merged = plan(`${arm(`${where}'1'`)} union all ${arm(`${where}'2'`)} order by sequence`);
      expect(merged).toContain("MERGE (UNION ALL)");
      expect(merged.match(new RegExp(`USING INDEX ${index} \\(.*rowid>`, "g"))).toHaveLength(2);
      expect(merged).not.toMatch(/SCAN|TEMP B-TREE/);
    }
    expect(
      plan("select id from workflows where type = 'a' and status = 'b' and run < 9 order by run desc"),
    ).toMatch(/SEARCH .*USING INDEX(?!.*TEMP)/s);
  });
});

describe("state as of a sequence", () => {
  test("is the fold of the run's commits up to it, at every sequence", async () => {
    const history = threeStepRuns(3, 2);
    const { projection, log } = await projected(history);
    for (const id of ["order-0", "order-1", "order-2"]) {
      const commits = await log.load(id);
      for (let sequence = 0; sequence <= history.length; sequence++) {
        const state = initialRunState(id, "order");
        for (const commit of commits.filter((stored) => stored.sequence <= sequence))
          evolveCommit(state, commit);
        expect(projection.stateAt(id, sequence)).toEqual(state.startedSequence === 0 ? null : state);
      }
    }
    expect(projection.stateAt("nobody", 3)).toBeNull();
  });

  test("is not guessed for a sequence that is not projected yet", async () => {
    const { projection } = await projected(threeStepRuns(1));
    expect(() => projection.stateAt("order-0", 5)).toThrow(
      expect.objectContaining({ code: "projector_behind" }) as Error,
    );
  });
});

describe("snapshot", () => {
  test("gives the rows that match and the sequence at which they are exact", async () => {
    const { projection } = await projected([
      ...threeStepRuns(3),
      ...retyped(threeStepRuns(2), "permit", "p-"),
    ]);
    const ids = (filter: Filter) =>
      projection
        .snapshot(filter, 10)
        .rows.map(({ id }) => id)
        .sort();
    expect(ids({})).toEqual(["order-0", "order-1", "order-2", "p-order-0", "p-order-1"]);
    expect(ids({ type: ["permit", "permit", "none"] })).toEqual(["p-order-0", "p-order-1"]);
    expect(ids({ workflow: ["order-1", "order-1", "nobody", "p-order-0"] })).toEqual([
      "order-1",
      "p-order-0",
    ]);
    expect(ids({ workflow: ["order-1", "p-order-0"], type: ["permit"] })).toEqual(["p-order-0"]);
    expect(projection.snapshot({ workflow: ["nobody"] }, 10)).toEqual({ rows: [], sequence: 20 });
    expect(projection.snapshot({}, 5).rows).toHaveLength(5);
    expect(() => projection.snapshot({}, 4)).toThrow(
      expect.objectContaining({ code: "limit_exceeded" }) as Error,
    );
    expect(() => projection.snapshot({ type: ["order", "permit"] }, 4)).toThrow(
      expect.objectContaining({ code: "limit_exceeded" }) as Error,
    );
  });

  test("I1: rows and sequence fit each other at every moment while the projector writes", async () => {
    const { log, fill } = createSampleLog();
    const path = temporaryProjection();
    const history = threeStepRuns(60, 7);
    await fill(history);
    const projection = open(path);
    const rowsAt = new Map<number, string>();
    const projector = await startTestProjector({
      log,
      path,
      batchMax: 11,
      // Reads from within the writer's turn, on the reader's own handle.
      onAdvance: () => {
        const { rows, sequence } = projection.snapshot({}, 1_000);
        rowsAt.set(sequence, JSON.stringify(rows));
      },
    });
    await caughtUp(projector, log);
    expect(rowsAt.size).toBeGreaterThan(15);
    for (const [upTo, rows] of rowsAt) {
      const states = new Map<string, ReturnType<typeof initialRunState>>();
      for (let sequence = 1; sequence <= upTo; sequence++) {
        const commit = await log.read(sequence);
        if (commit === null) throw new Error(`No commit at ${sequence}`);
        const state = states.get(commit.workflowId) ?? initialRunState(commit.workflowId, commit.type);
        states.set(commit.workflowId, evolveCommit(state, commit));
      }
      expect(JSON.parse(rows)).toEqual([...states.values()].map(toRow));
    }
  });

  test("I1: a reader's transaction sees one moment though another process commits in between", async () => {
    const { log, fill, path, projection } = await projected(threeStepRuns(2, 1).slice(0, 6));
    // A query that yields to the writer between its two reads.
    const reader = new BetterSqlite3(path, { readonly: true });
    onTestFinished(() => void reader.close());
    reader.exec("begin");
    const before = reader.prepare("select sequence from checkpoint").get();
    await fill(threeStepRuns(2, 1).slice(6));
    await projectAll({ log, path });
    expect(reader.prepare("select max(sequence) as sequence from commits").get()).toEqual(before);
    reader.exec("commit");
    expect(projection.checkpoint().sequence).toBe(8);
  });
});

test("I3: a reader notices a file that was put in the place of its own", async () => {
  const { log, server, fill, path, projection } = await projected(threeStepRuns(2));
  expect(projection.workflow("order-1")?.status).toBe("completed");
  const waiting = projection.waitFor(99, 5_000);
  server.recreate(log.namespace);
  const now = createMemoryLog({ server });
  await fill(threeStepRuns(30));
  await projectAll({ log: now, path });
  expect(projection.checkpoint().sequence).toBe(120);
  expect(projection.workflow("order-29")?.status).toBe("completed");
  projection.advance();
  expect(await waiting).toBe(120);
  await vi.waitFor(() => expect(projection.list({ limit: 1 }).items).toHaveLength(1));
});

test("a closed projection refuses further questions", async () => {
  const { projection } = await projected(threeStepRuns(1));
  projection.close();
  expect(() => projection.checkpoint()).toThrow("was closed");
  projection.close();
});
