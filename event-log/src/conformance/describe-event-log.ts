/**
 * What every adapter of the event log must do, L1 to L4 of the port among it: run it over each adapter.
 *
 * Random tests print their seed; give it back with `MILLRACE_TEST_SEED`.
 */
import fc from "fast-check";
import { ulid } from "ulid";
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from "vitest";
import { isMillraceError, limits, shardOf, type ErrorCode } from "@millrace/schemas";
import { processEnvironment } from "../broker/config.ts";
import type {
  AppendRequest,
  Checkpoint,
  EventLog,
  FollowOptions,
  FollowStatus,
  HeadsOptions,
  PageOptions,
  StoredCommit,
} from "../event-log.ts";
import { appendFaults, type EventLogHarness } from "./event-log-harness.ts";
import { factOf, startOf, stepOf } from "./sample-append.ts";

/** Deadline for what a test waits for: far above what it takes, since the machine may be busy. */
const deadline = { timeout: 20_000, interval: 10 };

async function rejection(promise: Promise<unknown>): Promise<{ code?: ErrorCode; details?: unknown }> {
  return await promise.then(
    (value) => expect.fail(`resolved with ${JSON.stringify(value)}`),
    (error: unknown) => error as { code?: ErrorCode; details?: unknown },
  );
}

function present<T>(value: T | null | undefined): T {
  if (value === null || value === undefined) throw new Error("It is not there.");
  return value;
}

/** One of several, by turns. */
function pick<T>(list: readonly T[], turn: number): T {
  return present(list[turn % list.length]);
}

/** For a writer that may lose: null instead of a conflict. */
async function unlessConflict<T>(append: Promise<T>): Promise<T | null> {
  try {
    return await append;
  } catch (error) {
    if (isMillraceError(error, "conflict")) return null;
    throw error;
  }
}

function bySequence(a: readonly [string, number], b: readonly [string, number]): number {
  return a[1] - b[1];
}

/** Everything but the body's methods: what two ways of reading must agree on. */
function plain(commit: StoredCommit) {
  const { sequence, workflowId, type, at, commitId, writer, condition, dueAt, parent, traceparent, body } =
    commit;
  return { sequence, workflowId, type, at, commitId, writer, condition, dueAt, parent, traceparent, body };
}

/** A follower that keeps what it was given. */
async function collect(log: EventLog, options: Partial<FollowOptions> = {}) {
  const commits: StoredCommit[] = [];
  const pendings: number[] = [];
  const statuses: FollowStatus[] = [];
  const errors: Error[] = [];
  const follower = await log.follow({
    after: 0,
    ...options,
    onCommit: (commit, pending) => {
      commits.push(commit);
      pendings.push(pending);
      options.onCommit?.(commit, pending);
    },
    onStatus: (status, error) => {
      statuses.push(status);
      if (error !== undefined) errors.push(error);
    },
  });
  return {
    follower,
    commits,
    pendings,
    statuses,
    errors,
    sequences: () => commits.map(({ sequence }) => sequence),
  };
}

async function checkpointAt(log: EventLog, commit: StoredCommit): Promise<Checkpoint> {
  const { created } = await log.info();
  return { sequence: commit.sequence, commitId: commit.commitId, streamCreated: created };
}

/** Describes the port's promises over one adapter. `makeHarness` is called once. */
export function describeEventLog(name: string, makeHarness: () => Promise<EventLogHarness>): void {
  describe(`${name}: the event log`, () => {
    let harness: EventLogHarness;
    let spaces = 0;
    const opened: EventLog[] = [];
    beforeAll(async () => {
      const made = await makeHarness();
      const keep = (log: EventLog): EventLog => {
        opened.push(log);
        return log;
      };
      harness = {
        ...made,
        open: async (...of) => keep(await made.open(...of)),
        openCapped: async (...of) => keep(await made.openCapped(...of)),
      };
    });
    afterEach(async () => {
      await Promise.all(opened.splice(0).map((log) => log.close()));
    });
    afterAll(async () => {
      await harness.stop();
    });
    const space = (): string => `t${++spaces}`;
    const open = async (): Promise<EventLog> => await harness.open(space());

    describe("questions", () => {
      test("are answered by whoever they concern, in any connection; the others stay silent", async () => {
        const log = await open();
        const other = await harness.open(log.namespace);
        const stop = [
          log.answer("runs", async () => null),
          other.answer("runs", async (question) => (question === "mine" ? "yes" : null)),
        ];
        await vi.waitFor(
          async () => expect(await log.ask("runs", "mine", { timeoutMs: 500 })).toBe("yes"),
          deadline,
        );
        await expect(log.ask("runs", "nobody's", { timeoutMs: 50 })).rejects.toMatchObject({
          code: "timeout",
          details: { limit: 50 },
        });
        await expect(log.ask("other", "mine", { timeoutMs: 500 })).rejects.toMatchObject({
          code: "unavailable",
          details: { listeners: 0 },
        });
        for (const each of stop) each();
        await vi.waitFor(
          async () =>
            await expect(log.ask("runs", "mine", { timeoutMs: 500 })).rejects.toMatchObject({
              code: "unavailable",
            }),
          deadline,
        );
      });
    });

    describe("append", () => {
      test("stores a commit as it was given, and every way of reading gives the same", async () => {
        const log = await open();
        const traced = { traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01" };
        const start = startOf("order-1", {
          condition: "running",
          dueAt: 1_700_000_000_123,
          parent: "parent-1",
          writer: "engine-1",
          ...traced,
        });
        const before = Date.now();
        const first = await log.append(start);
        const step = stepOf("order-1", first.sequence, { condition: "waiting" });
        const second = await log.append(step);
        expect(first).toEqual({ sequence: 1, recovered: false });
        expect(second).toEqual({ sequence: 2, recovered: false });

        const loaded = await log.load("order-1");
        expect(loaded.map((commit) => commit.events)).toEqual([start.events, step.events]);
        expect(loaded.map(plain)).toMatchObject([
          {
            sequence: 1,
            workflowId: "order-1",
            type: "order",
            commitId: start.commitId,
            writer: "engine-1",
            condition: "running",
            dueAt: 1_700_000_000_123,
            parent: "parent-1",
          },
          {
            sequence: 2,
            commitId: step.commitId,
            writer: null,
            condition: "waiting",
            dueAt: null,
            parent: null,
          },
        ]);
        expect(Math.abs((loaded[0]?.at ?? 0) - before)).toBeLessThan(10_000);
        const followed = await collect(log);
        await vi.waitFor(() => expect(followed.commits).toHaveLength(2), deadline);
        expect(followed.commits.map(plain)).toEqual(loaded.map(plain));
        expect(
          [await log.read(1), await log.last("order-1")].map((commit) => commit && plain(commit)),
        ).toEqual(loaded.map(plain));
      });

      test("L3: refuses a stale expectation and says where the run stands", async () => {
        const log = await open();
        await log.append(startOf("order-1"));
        await log.append(stepOf("order-1", 1));
        const stale = await rejection(log.append(stepOf("order-1", 1)));
        expect(stale).toMatchObject({
          code: "conflict",
          retryable: true,
          details: { expected: 1, actual: 2 },
        });
        const tooFar = await rejection(log.append(stepOf("order-1", 7)));
        expect(tooFar).toMatchObject({ code: "conflict", details: { expected: 7, actual: 2 } });
        const unknown = await rejection(log.append(stepOf("order-2", 1)));
        expect(unknown).toMatchObject({ code: "conflict", details: { expected: 1, actual: 0 } });
        expect(await log.load("order-1")).toHaveLength(2);
      });

      test("refuses to start an id twice, also under another type", async () => {
        const log = await open();
        await log.append(startOf("order-1"));
        for (const type of ["order", "refund"]) {
          expect(await rejection(log.append(startOf("order-1", { type })))).toMatchObject({
            code: "conflict",
            details: { expected: "new", actual: 1 },
          });
        }
      });

      test("L1: the same commit again is the same commit, also below later ones", async () => {
        const log = await open();
        const start = startOf("order-1");
        const step = stepOf("order-1", 1);
        const fact = factOf("order-1");
        await log.append(start);
        expect(await log.append(start)).toEqual({ sequence: 1, recovered: true });
        await log.append(step);
        expect(await log.append(step)).toEqual({ sequence: 2, recovered: true });
        await log.append(fact);
        expect(await log.append(fact)).toEqual({ sequence: 3, recovered: true });
        await log.append(stepOf("order-1", 3));
        for (const [index, request] of [start, step, fact].entries()) {
          expect(await log.append(request)).toEqual({ sequence: index + 1, recovered: true });
        }
        expect(await log.load("order-1")).toHaveLength(4);
      });

      test("takes a fact from outside wherever the run stands, and only for a run that there is", async () => {
        const log = await open();
        await log.append(startOf("order-1"));
        await log.append(stepOf("order-1", 1));
        expect(await log.append(factOf("order-1"))).toEqual({ sequence: 3, recovered: false });
        expect(await rejection(log.append(factOf("order-2")))).toMatchObject({ code: "workflow_not_found" });
        expect((await log.info()).lastSequence).toBe(3);
      });

      test("names the limit and the actual size", async () => {
        const log = await open();
        const text = "x".repeat(limits.commitBytes);
        const large = stepOf("order-1", 1, {
          events: [{ type: "StepCompleted", data: { name: "a", occurrence: 1, attempt: 1, output: text } }],
        });
        const tooLarge = await rejection(log.append(large));
        expect(tooLarge).toMatchObject({ code: "payload_too_large", details: { limit: limits.commitBytes } });
        expect((tooLarge.details as { actual: number }).actual).toBeGreaterThan(limits.commitBytes);
        expect(await rejection(log.append(startOf("order-1", { events: [] })))).toMatchObject({
          code: "limit_exceeded",
        });
        for (const id of ["a.b", "a*", ">", "", "x".repeat(129)]) {
          expect(await rejection(log.append(startOf(id)))).toMatchObject({ code: "invalid_id" });
          expect(await rejection(log.load(id))).toMatchObject({ code: "invalid_id" });
        }
        expect(await rejection(log.append(startOf("a", { commitId: "1" })))).toMatchObject({
          code: "invalid_request",
        });
        expect(await rejection(log.append(stepOf("a", 0)))).toMatchObject({ code: "invalid_request" });
        expect((await log.info()).lastSequence).toBe(0);
      });

      test("caps the commits of one run", async () => {
        const log = await harness.openCapped(space(), 3);
        await log.append(startOf("order-1"));
        await log.append(stepOf("order-1", 1));
        await log.append(factOf("order-1"));
        const error = await rejection(log.append(stepOf("order-1", 3)));
        expect(error).toMatchObject({ code: "limit_exceeded", retryable: false });
        expect(await log.append(startOf("order-2"))).toEqual({ sequence: 4, recovered: false });
      });

      test("L3: of many writers with one expectation one wins, the others learn of the conflict", async () => {
        const namespace = space();
        const logs = await Promise.all([1, 2, 3].map(() => harness.open(namespace)));
        let expected = (await pick(logs, 0).append(startOf("order-1"))).sequence;
        for (let round = 0; round < 10; round++) {
          const results = await Promise.allSettled(
            Array.from({ length: 12 }, (_, index) => pick(logs, index).append(stepOf("order-1", expected))),
          );
          const won = results.filter((result) => result.status === "fulfilled");
          const codes = results.flatMap((result) =>
            result.status === "rejected" ? [result.reason.code] : [],
          );
          expect(won).toHaveLength(1);
          expect(new Set(codes)).toEqual(new Set(["conflict"]));
          expected = present(won[0]).value.sequence;
        }
        expect(await pick(logs, 1).load("order-1")).toHaveLength(11);
      });

      test("L3: of many starts of one id under several types one wins", async () => {
        const namespace = space();
        const logs = await Promise.all([1, 2].map(() => harness.open(namespace)));
        const ids = Array.from({ length: 40 }, (_, index) => `order-${index}`);
        const winners = await Promise.all(
          ids.map(async (id) => {
            const results = await Promise.allSettled(
              ["a", "b", "c", "d"].map((type, index) => pick(logs, index).append(startOf(id, { type }))),
            );
            return results.filter((result) => result.status === "fulfilled").length;
          }),
        );
        expect(winners).toEqual(ids.map(() => 1));
        expect((await pick(logs, 0).info()).lastSequence).toBe(40);
      });

      test("L1: facts from many connections at once are all stored, each once", async () => {
        const namespace = space();
        const logs = await Promise.all([1, 2, 3].map(() => harness.open(namespace)));
        await pick(logs, 0).append(startOf("order-1"));
        const facts = Array.from({ length: 24 }, () => factOf("order-1"));
        await Promise.all(facts.map((fact, index) => pick(logs, index).append(fact)));
        const stored = (await pick(logs, 0).load("order-1")).slice(1).map((commit) => commit.commitId);
        expect(stored.sort()).toEqual(facts.map((fact) => fact.commitId).sort());
      });
    });

    describe("append under faults", () => {
      const kinds: readonly (readonly [string, (expected: number) => AppendRequest])[] = [
        ["a start", () => startOf(`order-${ulid()}`)],
        ["an expected sequence", (expected) => stepOf("order-1", expected)],
        ["a fact from outside", () => factOf("order-1")],
      ];
      for (const fault of appendFaults) {
        for (const [kind, request] of kinds) {
          test(`L1, L2: ${fault} of ${kind}: stored once, and said so`, async () => {
            const log = await open();
            const { sequence } = await log.append(startOf("order-1"));
            const struck = harness.strikeNext(fault);
            const append = request(sequence);
            const answer = await log.append(append);
            await struck;
            const commits = await log.load(append.workflowId);
            expect(
              commits.filter((commit) => commit.commitId === append.commitId).map((each) => each.sequence),
            ).toEqual([answer.sequence]);
            expect((await log.info()).lastSequence).toBe(2);
            const storedBefore =
              fault === "lose-answer" || fault === "delay-answer" || fault === "cut-before-answer";
            expect(answer.recovered).toBe(storedBefore);
          });
        }
      }

      test("L2: finds its own commit below a fact that somebody put on top before it looked", async () => {
        const namespace = space();
        const [log, other] = [await harness.open(namespace), await harness.open(namespace)];
        await log.append(startOf("order-1"));
        const struck = harness.strikeNext("lose-answer");
        const step = log.append(stepOf("order-1", 1));
        await struck;
        expect(await other.append(factOf("order-1"))).toMatchObject({ sequence: 3 });
        expect(await step).toEqual({ sequence: 2, recovered: true });
      });

      test("L2: a lost answer and somebody else's commit at its place are a conflict", async () => {
        const namespace = space();
        const [log, other] = [await harness.open(namespace), await harness.open(namespace)];
        await log.append(startOf("order-1"));
        const struck = harness.strikeNext("lose-append");
        const step = log.append(stepOf("order-1", 1));
        await struck;
        await other.append(stepOf("order-1", 1));
        expect(await rejection(step)).toMatchObject({
          code: "conflict",
          details: { expected: 1, actual: 2 },
        });
      });

      test("says that it is in doubt when nobody answers, and settles when the commit is sent again", async () => {
        const namespace = space();
        const log = await harness.open(namespace, { appendBudgetMs: 600 });
        await log.append(startOf("order-1"));
        const struck = harness.strikeNext("lose-answer");
        const step = stepOf("order-1", 1);
        const inDoubt = rejection(log.append(step));
        await struck;
        await harness.kill();
        expect(await inDoubt).toMatchObject({ code: "append_in_doubt", retryable: true });
        expect(await rejection(log.append(factOf("order-1")))).toMatchObject({
          code: "unavailable",
          retryable: true,
        });
        await harness.start();
        await vi.waitFor(() => expect(log.status()).toBe("connected"), deadline);
        expect(await log.append(step)).toEqual({ sequence: 2, recovered: true });
      });

      test("waits for a server that is away", async () => {
        const log = await open();
        await log.append(startOf("order-1"));
        await harness.kill();
        await vi.waitFor(() => expect(log.status()).toBe("disconnected"), deadline);
        const append = log.append(stepOf("order-1", 1));
        await harness.start();
        expect(await append).toEqual({ sequence: 2, recovered: false });
      });

      test("L1 to L3: whatever befalls appends and answers, histories are whole and nothing is there twice", async () => {
        const seed = Number(processEnvironment["MILLRACE_TEST_SEED"] ?? Math.floor(Math.random() * 2 ** 31));
        const picks = fc.sample(fc.constantFrom(null, null, ...appendFaults), { seed, numRuns: 60 });
        const namespace = space();
        const logs = await Promise.all([1, 2, 3].map(() => harness.open(namespace)));
        const acknowledged = new Map<string, number>();
        const keep = (request: AppendRequest, sequence: number): void => {
          expect(acknowledged.has(request.commitId), `seed ${seed}`).toBe(false);
          acknowledged.set(request.commitId, sequence);
        };
        for (const id of ["order-1", "order-2"]) {
          const start = startOf(id);
          keep(start, (await pick(logs, 0).append(start)).sequence);
        }
        const strikes: Promise<void>[] = [];
        const striking = picks.flatMap((fault) => (fault === null ? [] : [fault]));
        await Promise.all(
          logs.map(async (log, writer) => {
            for (let turn = 0; turn < 12; turn++) {
              const fault = striking.pop();
              if (fault !== undefined) strikes.push(harness.strikeNext(fault));
              const id = (turn + writer) % 2 === 0 ? "order-1" : "order-2";
              const fact = factOf(id);
              if (turn % 3 === 0) keep(fact, (await log.append(fact)).sequence);
              const last = await vi.waitFor(() => log.last(id), deadline);
              const step = stepOf(id, last?.sequence ?? 0);
              const answer = await unlessConflict(log.append(step));
              if (answer !== null) keep(step, answer.sequence);
            }
          }),
        );
        const stored = await vi.waitFor(
          async () => (await Promise.all(["order-1", "order-2"].map((id) => pick(logs, 0).load(id)))).flat(),
          deadline,
        );
        const found = new Map(stored.map((commit) => [commit.commitId, commit.sequence] as const));
        expect(found.size, `seed ${seed}: a commit is there twice`).toBe(stored.length);
        expect([...found].sort(bySequence), `seed ${seed}`).toEqual([...acknowledged].sort(bySequence));
      });
    });

    describe("load, last, read", () => {
      test("give nothing for what is not there", async () => {
        const log = await open();
        expect(await log.load("order-1")).toEqual([]);
        expect(await log.last("order-1")).toBeNull();
        expect(await log.read(1)).toBeNull();
        expect(await log.read(0)).toBeNull();
      });

      test("load gives one run's commits in order, after any of them", async () => {
        const log = await open();
        const sequences: number[] = [];
        for (let index = 0; index < 12; index++) {
          const request = index === 0 ? startOf("order-1") : stepOf("order-1", sequences.at(-1) ?? 0);
          sequences.push((await log.append(request)).sequence);
          await log.append(startOf(`other-${index}`));
        }
        for (const after of [0, ...sequences, 1_000]) {
          const commits = await log.load("order-1", { after });
          expect(commits.map((commit) => commit.sequence)).toEqual(
            sequences.filter((sequence) => sequence > after),
          );
        }
      });

      test("load gives a history of more commits than one request brings", async () => {
        const log = await open();
        let { sequence } = await log.append(startOf("order-1"));
        for (let index = 0; index < 2_100; index++)
          sequence = (await log.append(stepOf("order-1", sequence))).sequence;
        const commits = await log.load("order-1");
        expect(commits.map((commit) => commit.sequence)).toEqual(
          Array.from({ length: 2_101 }, (_, index) => index + 1),
        );
      });
    });

    describe("page", () => {
      test("gives what was asked for in pages that leave nothing out and say how far they reach", async () => {
        const log = await open();
        const runs = ["a", "b", "c", "d"].map((id, n) =>
          startOf(id, { type: n % 2 === 0 ? "order" : "permit" }),
        );
        const ends = new Map<string, number>();
        for (const run of runs) ends.set(run.workflowId, (await log.append(run)).sequence);
        for (let n = 0; n < 60; n++) {
          const run = pick(runs, n);
          const expected = present(ends.get(run.workflowId));
          const step = { ...stepOf(run.workflowId, expected), type: run.type };
          ends.set(run.workflowId, (await log.append(step)).sequence);
        }
        const all: StoredCommit[] = [];
        for (let sequence = 1; sequence <= 64; sequence++) all.push(present(await log.read(sequence)));
        const cases: [Pick<PageOptions, "workflows" | "types">, (commit: StoredCommit) => boolean][] = [
          [{}, () => true],
          [{ workflows: ["b"] }, ({ workflowId }) => workflowId === "b"],
          [{ workflows: ["a", "d", "nobody"] }, ({ workflowId }) => workflowId === "a" || workflowId === "d"],
          [{ types: ["permit"] }, ({ type }) => type === "permit"],
          [{ types: ["order", "permit"] }, () => true],
          [{ workflows: ["nobody"] }, () => false],
        ];
        for (const [which, matches] of cases) {
          for (const most of [
            { commitsMax: 7, bytesMax: 1_000_000 },
            { commitsMax: 1_000, bytesMax: 1 },
          ]) {
            const got: StoredCommit[] = [];
            for (let after = 2, pages = 0; after < 50; pages++) {
              expect(pages).toBeLessThan(60);
              const page = await log.page({ ...which, ...most, after, upTo: 50 });
              expect(page.upTo).toBeGreaterThan(after);
              expect(page.upTo).toBeLessThanOrEqual(50);
              expect(page.commits.length).toBeLessThanOrEqual(most.commitsMax);
              expect(page.commits.every(({ sequence }) => sequence > after && sequence <= page.upTo)).toBe(
                true,
              );
              got.push(...page.commits);
              after = page.upTo;
            }
            const wanted = all.filter((each) => each.sequence > 2 && each.sequence <= 50 && matches(each));
            expect(got.map(plain)).toEqual(wanted.map(plain));
          }
        }
      });
    });

    describe("heads", () => {
      test("give the last head of each run and the end to follow from", async () => {
        const log = await open();
        expect(await log.heads(() => expect.fail("there is no run"))).toBe(0);
        for (let index = 0; index < 20; index++) {
          const type = index % 2 === 0 ? "order" : "refund";
          const { sequence } = await log.append(startOf(`run-${index}`, { type, condition: "running" }));
          await log.append(
            stepOf(`run-${index}`, sequence, { type, condition: "waiting", dueAt: index + 1 }),
          );
        }
        await log.append(factOf("run-0"));
        const heads = new Map<string, unknown>();
        expect(
          await log.heads((head) => heads.set(head.workflowId, [head.sequence, head.condition, head.dueAt])),
        ).toBe(41);
        expect(heads.size).toBe(20);
        expect(heads.get("run-0")).toEqual([41, null, null]);
        expect(heads.get("run-7")).toEqual([16, "waiting", 8]);
        const refunds: string[] = [];
        await log.heads((head) => refunds.push(head.workflowId), { types: ["refund"] });
        expect(refunds).toHaveLength(10);
        const nothing = await log.heads(() => expect.fail("there is no such run"), { types: ["none"] });
        expect(nothing).toBe(41);
      });

      test("of some shards only, whatever the types", async () => {
        const log = await open();
        const { shardCount } = await log.info();
        const ids = Array.from({ length: 40 }, (_, index) => `run-${index}`);
        for (const [index, id] of ids.entries())
          await log.append(startOf(id, { type: index < 20 ? "a" : "b" }));
        const shards = [...new Set(ids.slice(0, 30).map((id) => shardOf(id, shardCount)))].slice(0, 9);
        const headsOf = async (options: HeadsOptions): Promise<string[]> => {
          const found: string[] = [];
          expect(await log.heads((head) => found.push(head.workflowId), options)).toBe(40);
          return found.toSorted();
        };
        const inShards = ids.filter((id) => shards.includes(shardOf(id, shardCount)));
        expect(inShards.length).toBeGreaterThan(8);
        expect(await headsOf({ shards })).toEqual(inShards.toSorted());
        const ofA = inShards.filter((id) => ids.indexOf(id) < 20);
        expect(await headsOf({ shards, types: ["a"] })).toEqual(ofA.toSorted());
        expect(await headsOf({ shards: [] })).toEqual([]);
        const all = Array.from({ length: shardCount }, (_, shard) => shard);
        expect(await headsOf({ shards: all, types: ["b"] })).toEqual(ids.slice(20).toSorted());
      });
    });

    describe("follow", () => {
      async function filled(log: EventLog, commits: number): Promise<void> {
        let sequence = (await log.append(startOf("order-1"))).sequence;
        for (let index = 1; index < commits; index++) {
          const request =
            index % 3 === 0 ? startOf(`refund-${index}`, { type: "refund" }) : stepOf("order-1", sequence);
          const answer = await log.append(request);
          if (request.workflowId === "order-1") sequence = answer.sequence;
        }
      }

      test("L4: from every position delivers exactly what comes after it, and says when it is live", async () => {
        const log = await open();
        await filled(log, 25);
        for (let after = 0; after <= 25; after++) {
          const { follower, sequences, pendings } = await collect(log, { after });
          const expected = Array.from({ length: 25 - after }, (_, index) => after + index + 1);
          await vi.waitFor(() => expect(sequences()).toEqual(expected), deadline);
          expect(pendings).toEqual(expected.map((sequence) => 25 - sequence));
          expect(follower.position).toBe(25);
          await follower.stop();
        }
      });

      test("L4: goes on with what is appended meanwhile, by every connection", async () => {
        const namespace = space();
        const [writer, reader] = [await harness.open(namespace), await harness.open(namespace)];
        const { follower, sequences } = await collect(reader);
        await Promise.all(
          Array.from({ length: 200 }, (_, index) => writer.append(startOf(`order-${index}`))),
        );
        await vi.waitFor(() => expect(sequences()).toHaveLength(200), deadline);
        expect(sequences()).toEqual(Array.from({ length: 200 }, (_, index) => index + 1));
        expect(follower.position).toBe(200);
      });

      test("delivers only the types asked for, and heads when no bodies are asked for", async () => {
        const log = await open();
        await filled(log, 20);
        const { commits } = await collect(log, { types: ["refund"], headersOnly: true });
        await vi.waitFor(() => expect(commits).toHaveLength(6), deadline);
        expect(new Set(commits.map((commit) => commit.type))).toEqual(new Set(["refund"]));
        expect(commits[0]?.body).toBe("");
        expect(() => commits[0]?.events).toThrow(/without its body/);
      });

      test("refuses a position beyond the log's end", async () => {
        const log = await open();
        await filled(log, 3);
        expect(await rejection(log.follow({ after: 4, onCommit: () => undefined }))).toMatchObject({
          code: "cursor_future",
          details: { after: 4, last: 3 },
        });
        expect(await rejection(log.follow({ after: -1, onCommit: () => undefined }))).toMatchObject({
          code: "invalid_request",
        });
      });

      test("stop ends delivery, also from within the call-back", async () => {
        const log = await open();
        await filled(log, 10);
        const seen: number[] = [];
        const stopping: Promise<void>[] = [];
        const follower = await log.follow({
          after: 0,
          onCommit: (commit) => {
            seen.push(commit.sequence);
            if (commit.sequence === 4) stopping.push(follower.stop());
          },
        });
        await vi.waitFor(() => expect(seen).toHaveLength(4), deadline);
        await Promise.all([...stopping, follower.stop()]);
        const other = await collect(log);
        await log.append(startOf("later"));
        await vi.waitFor(() => expect(other.commits).toHaveLength(11), deadline);
        expect(seen).toEqual([1, 2, 3, 4]);
        expect(follower.position).toBe(4);
      });

      test("a call-back that throws ends its follower, and only that", async () => {
        const log = await open();
        await filled(log, 5);
        const failing = await collect(log, {
          onCommit: ({ sequence }) => {
            if (sequence === 3) throw new Error("no more");
          },
        });
        const other = await collect(log);
        await vi.waitFor(() => expect(failing.statuses).toEqual(["live", "failed"]), deadline);
        expect(failing.errors[0]?.message).toBe("no more");
        await log.append(startOf("later"));
        await vi.waitFor(() => expect(other.commits).toHaveLength(6), deadline);
        expect(failing.sequences()).toEqual([1, 2, 3]);
        await failing.follower.stop();
      });

      test("L4: survives the server's death without loss or repetition", async () => {
        const namespace = space();
        const [writer, reader] = [await harness.open(namespace), await harness.open(namespace)];
        const { sequences, statuses } = await collect(reader);
        for (let round = 0; round < 2; round++) {
          await vi.waitFor(() => expect(statuses.at(-1)).toBe("live"), deadline);
          const appends = Array.from({ length: 60 }, (_, index) =>
            writer.append(startOf(`order-${round}-${index}`)),
          );
          await appends[10];
          await harness.kill();
          await vi.waitFor(() => expect(statuses.at(-1)).toBe("interrupted"), deadline);
          await harness.start();
          await Promise.all(appends);
        }
        await vi.waitFor(() => expect(sequences()).toHaveLength(120), deadline);
        expect(sequences()).toEqual(Array.from({ length: 120 }, (_, index) => index + 1));
        const seen = ["live", "interrupted", "live", "interrupted", "live"];
        await vi.waitFor(() => expect(statuses).toEqual(seen), deadline);
      });
    });

    describe("a log that changed behind our back", () => {
      test("verify tells a checkpoint of this log from all others", async () => {
        const log = await open();
        const { created } = await log.info();
        const none = { sequence: 0, commitId: "", streamCreated: created };
        expect(await log.verify(none)).toBe("ok");
        await log.append(startOf("order-1"));
        await log.append(stepOf("order-1", 1));
        const first = present((await log.load("order-1"))[0]);
        const checkpoint = await checkpointAt(log, first);
        expect(await log.verify(checkpoint)).toBe("ok");
        expect(await log.verify(none)).toBe("ok");
        expect(await log.verify({ ...checkpoint, commitId: ulid() })).toBe("diverged");
        expect(await log.verify({ ...checkpoint, sequence: 3 })).toBe("diverged");
        expect(await log.verify({ ...checkpoint, streamCreated: "2020-01-01T00:00:00Z" })).toBe("recreated");
      });

      test("a lost tail is seen: diverged, though the sequences are used again", async () => {
        const namespace = space();
        const log = await harness.open(namespace);
        await log.append(startOf("order-1"));
        await log.append(stepOf("order-1", 1));
        await harness.backUp();
        await vi.waitFor(() => expect(log.status()).toBe("connected"), deadline);
        const atTwo = await collect(log);
        await vi.waitFor(() => expect(atTwo.sequences()).toEqual([1, 2]), deadline);
        await atTwo.follower.stop();
        for (let sequence = 2; sequence < 6; sequence++) await log.append(stepOf("order-1", sequence));
        const follower = await collect(log);
        await vi.waitFor(() => expect(follower.commits).toHaveLength(6), deadline);
        const kept = present(follower.commits[1]);
        const lost = present(follower.commits[5]);
        const [keptCheckpoint, lostCheckpoint] = [
          await checkpointAt(log, kept),
          await checkpointAt(log, lost),
        ];

        await harness.restore();
        const other = await harness.open(namespace);
        for (let sequence = 2; sequence < 9; sequence++) await other.append(stepOf("order-1", sequence));
        expect(await other.verify(keptCheckpoint)).toBe("ok");
        expect(await other.verify(lostCheckpoint)).toBe("diverged");
        await vi.waitFor(() => expect(follower.statuses.at(-1)).toBe("diverged"), deadline);
        expect(follower.sequences()).toEqual([1, 2, 3, 4, 5, 6]);
        expect(follower.errors.at(-1)).toMatchObject({ code: "checkpoint_mismatch" });
        await follower.follower.stop();
      });

      test("a log made anew is seen, and not written to", async () => {
        const namespace = space();
        const log = await harness.open(namespace);
        await log.append(startOf("order-1"));
        const before = await log.info();
        const follower = await collect(log);
        await vi.waitFor(() => expect(follower.commits).toHaveLength(1), deadline);
        const statuses: string[] = [];
        log.onStatus((status) => statuses.push(status));

        await harness.recreate(namespace);
        await vi.waitFor(() => expect(log.status()).toBe("recreated"), deadline);
        await vi.waitFor(() => expect(follower.statuses.at(-1)).toBe("recreated"), deadline);
        expect(statuses).toEqual(["disconnected", "recreated"]);
        expect(await rejection(log.append(startOf("order-2")))).toMatchObject({ code: "log_recreated" });
        const after = await log.info();
        expect(after.lastSequence).toBe(0);
        expect(after.epoch).not.toBe(before.epoch);
        const other = await harness.open(namespace);
        expect(await other.append(startOf("order-1"))).toEqual({ sequence: 1, recovered: false });
      });
    });

    describe("info, registry, announcements, status", () => {
      test("info is the same for every connection and moves with the log", async () => {
        const namespace = space();
        const [log, other] = [await harness.open(namespace), await harness.open(namespace)];
        const empty = await log.info();
        expect(empty).toMatchObject({ firstSequence: 0, lastSequence: 0, shardCount: 64 });
        expect(empty.epoch).toMatch(/^[0-9a-f]{8}$/);
        await other.append(startOf("order-1"));
        expect(await log.info()).toEqual({ ...empty, firstSequence: 1, lastSequence: 1 });
        expect((await other.info()).epoch).toBe(empty.epoch);
      });

      test("registered types reach every connection, now, later and after a restart of the server", async () => {
        const namespace = space();
        const [log, other] = [await harness.open(namespace), await harness.open(namespace)];
        expect(log.registeredType("order")).toBeNull();
        const first = { type: "order", version: "1", plan: ["reserve"] };
        const second = { type: "order", version: "2", plan: ["reserve", "charge"] };
        await log.registerTypes([first, { type: "refund", version: "1", plan: [] }]);
        expect(log.registeredType("order")).toEqual(first);
        await vi.waitFor(() => expect(other.registeredType("order")).toEqual(first), deadline);
        await harness.kill();
        await harness.start();
        await vi.waitFor(
          () => expect([log.status(), other.status()]).toEqual(["connected", "connected"]),
          deadline,
        );
        await vi.waitFor(() => log.registerTypes([second]), deadline);
        await vi.waitFor(() => expect(other.registeredType("order")).toEqual(second), deadline);
        const late = await harness.open(namespace);
        expect(late.registeredType("order")).toEqual(second);
        expect(late.registeredType("refund")?.version).toBe("1");
      });

      test("announcements reach who listens to their topic, and nobody after that", async () => {
        const namespace = space();
        const [log, other] = [await harness.open(namespace), await harness.open(namespace)];
        const heard: number[] = [];
        const off = other.onAnnounce("projected", (value) => heard.push(value));
        other.onAnnounce("elsewhere", () => expect.fail("another topic"));
        await vi.waitFor(() => {
          log.announce("projected", 7);
          expect(heard).toContain(7);
        }, deadline);
        off();
        const others: number[] = [];
        other.onAnnounce("projected", (value) => others.push(value));
        await vi.waitFor(() => {
          log.announce("projected", 8);
          expect(others).toContain(8);
        }, deadline);
        expect(heard).not.toContain(8);
      });

      test("status follows the connection", async () => {
        const log = await open();
        const statuses: string[] = [];
        log.onStatus((status) => statuses.push(status));
        const silent = log.onStatus(() => expect.fail("was taken off"));
        silent();
        expect(log.status()).toBe("connected");
        await harness.kill();
        await vi.waitFor(() => expect(log.status()).toBe("disconnected"), deadline);
        expect(await rejection(log.info())).toMatchObject({ code: "unavailable", retryable: true });
        await harness.start();
        await vi.waitFor(() => expect(statuses).toEqual(["disconnected", "connected"]), deadline);
      });

      test("close ends everything, answers what is pending, and may be called again", async () => {
        const log = await open();
        await log.append(startOf("order-1"));
        const { commits, follower } = await collect(log);
        await vi.waitFor(() => expect(commits).toHaveLength(1), deadline);
        await harness.kill();
        await vi.waitFor(() => expect(log.status()).toBe("disconnected"), deadline);
        const pending = rejection(log.append(stepOf("order-1", 1)));
        await Promise.all([log.close(), log.close()]);
        expect(await pending).toMatchObject({ code: "unavailable", retryable: false });
        await harness.start();
        expect(log.status()).toBe("closed");
        for (const call of [
          () => log.append(startOf("a")),
          () => log.load("a"),
          () => log.info(),
          () => log.heads(() => {}),
        ]) {
          expect(await rejection(call())).toMatchObject({ code: "unavailable", retryable: false });
        }
        await log.close();
        await follower.stop();
        expect(commits).toHaveLength(1);
      });
    });
  });
}
