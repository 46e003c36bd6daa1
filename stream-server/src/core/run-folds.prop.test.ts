import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  evolveCommit,
  initialRunState,
  isClosed,
  toRow,
  type RunState,
  type WorkflowEvent,
} from "@millrace/schemas";
import { CommitRing } from "./commit-ring.ts";
import type { RunCommit } from "./run-commit.ts";
import { RunFolds, type StateSource } from "./run-folds.ts";

const runs = ["a", "b", "c"];

function history(picks: readonly number[]): RunCommit[] {
  const begun = new Set<string>();
  return picks.map((pick, n): RunCommit => {
    const workflowId = runs[pick % runs.length] ?? "a";
    const first = !begun.has(workflowId);
    begun.add(workflowId);
    const event: WorkflowEvent = first
      ? { type: "WorkflowStarted", data: { version: "1", input: n, driver: "external" } }
      : pick > 95
        ? { type: "WorkflowCompleted", data: { output: n } }
        : { type: "ProgressReported", data: { message: `m${n}` } };
    return {
      sequence: (n + 1) * 2,
      workflowId,
      type: "order",
      at: n,
      condition: null,
      events: [event],
      bytes: 10,
    };
  });
}

function fold(commits: readonly RunCommit[], workflowId: string, upTo: number): RunState | null {
  const own = commits.filter((commit) => commit.workflowId === workflowId && commit.sequence <= upTo);
  if (own.length === 0) return null;
  const state = initialRunState(workflowId, "order");
  for (const commit of own) evolveCommit(state, commit);
  return state;
}

/** A read model that has the log up to a movable checkpoint. */
function source(commits: readonly RunCommit[], at: { checkpoint: number }): StateSource {
  return {
    checkpointSequence: () => at.checkpoint,
    state: (id) => fold(commits, id, at.checkpoint),
    stateAt: (id, sequence) => fold(commits, id, Math.min(sequence, at.checkpoint)),
  };
}

const picks = fc.array(fc.nat(99), { minLength: 1, maxLength: 80 });

describe("RunFolds", () => {
  it("I1, I2: a row of the tail is the run folded up to its commit, whoever asks when, wherever the projector stands", () => {
    fc.assert(
      fc.property(
        picks,
        fc.array(
          fc.record({
            size: fc.integer({ min: 1, max: 6 }),
            lag: fc.integer({ min: -6, max: 12 }),
            asked: fc.array(fc.boolean(), { minLength: 6, maxLength: 6 }),
          }),
          {
            minLength: 80,
            maxLength: 80,
          },
        ),
        fc.integer({ min: 6, max: 20 }),
        fc.integer({ min: 1, max: 3 }),
        (given, batches, commitsMax, statesMax) => {
          const commits = history(given);
          const at = { checkpoint: 0 };
          const ring = new CommitRing({ commitsMax, bytesMax: 1e9 }, 0);
          const folds = new RunFolds(source(commits, at), ring, statesMax);
          let next = 0;
          for (const { size, lag, asked } of batches) {
            const batch = commits.slice(next, next + size);
            next += batch.length;
            for (const commit of batch) ring.push(commit);
            at.checkpoint = Math.max(at.checkpoint, commits[next - 1 - lag]?.sequence ?? 0);
            folds.duringBatch(batch, () => {
              for (const [n, commit] of batch.entries()) {
                if (asked[n] !== true) continue;
                const row = folds.stepAt(commit)?.row ?? null;
                const wanted = fold(commits, commit.workflowId, commit.sequence);
                const exact = wanted === null ? null : toRow(wanted);
                expect(row ?? exact).toEqual(exact);
                // Null only when neither reaches.
                expect(row === null && at.checkpoint >= ring.from - 1).toBe(false);
              }
            });
            expect(folds.count).toBeLessThanOrEqual(statesMax);
          }
        },
      ),
    );
  });

  it("I1: rows of a catching-up subscription, from any position", () => {
    fc.assert(
      fc.property(picks, fc.nat(160), (given, from) => {
        const commits = history(given);
        const at = { checkpoint: commits.at(-1)?.sequence ?? 0 };
        const folds = new RunFolds(
          source(commits, at),
          new CommitRing({ commitsMax: 1, bytesMax: 1 }, at.checkpoint),
        );
        const carried = folds.carry();
        for (const commit of commits) {
          if (commit.sequence <= from) continue;
          const wanted = fold(commits, commit.workflowId, commit.sequence);
          expect(folds.nextStep(carried, commit)?.row ?? null).toEqual(
            wanted === null ? null : toRow(wanted),
          );
        }
      }),
    );
  });

  it("I3: what changed, laid over the row of the commit before, is the row; and that commit is the base", () => {
    let changed = 0;
    fc.assert(
      fc.property(picks, fc.nat(160), fc.func(fc.boolean()), (given, from, skipped) => {
        const commits = history(given);
        const at = { checkpoint: commits.at(-1)?.sequence ?? 0 };
        const ring = new CommitRing({ commitsMax: 1, bytesMax: 1 }, at.checkpoint);
        const folds = new RunFolds(source(commits, at), ring);
        const carried = folds.carry();
        const statuses: unknown[] = [];
        const trueStatuses: unknown[] = [];
        for (const commit of commits) {
          if (commit.sequence <= from) continue;
          const { workflowId, sequence } = commit;
          const previous = commits.findLast(
            (other) => other.workflowId === workflowId && other.sequence < sequence,
          );
          const before = fold(commits, workflowId, sequence - 1);
          // This makes no row: the next step must not be told against an older one.
          if (skipped(sequence)) {
            statuses.push(folds.nextStatus(carried, commit));
            trueStatuses.push({
              before: before?.status ?? null,
              after: fold(commits, workflowId, sequence)?.status,
            });
            continue;
          }
          const step = folds.nextStep(carried, commit);
          const closedBefore = before !== null && isClosed(before.status);
          expect(step?.base).toBe(previous === undefined || closedBefore ? 0 : previous.sequence);
          expect(JSON.parse(step?.whole() ?? "")).toEqual(step?.row);
          if (before === null) continue;
          const fields = JSON.parse(step?.changed() ?? "") as object;
          expect({ ...toRow(before), ...fields }).toEqual(step?.row);
          if (!("input" in fields)) changed++;
        }
        expect(statuses).toEqual(trueStatuses);
      }),
      { numRuns: 500 },
    );
    expect(changed).toBeGreaterThan(100);
  });

  it("I2: no answer when the projector is further behind than the ring reaches", () => {
    const commits = history([0, 0, 0, 0, 0, 0]);
    const at = { checkpoint: 4 };
    const ring = new CommitRing({ commitsMax: 2, bytesMax: 1e9 }, 0);
    for (const commit of commits) ring.push(commit);
    const folds = new RunFolds(source(commits, at), ring);
    expect(folds.asOf("a", "order", 12)).toBeNull();
    expect(folds.asOf("a", "order", 4)?.message).toBe("m1");
    at.checkpoint = 8;
    expect(folds.asOf("a", "order", 12)?.message).toBe("m5");
  });
});
