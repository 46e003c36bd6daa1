import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { matchesRun, type Filter } from "@millrace/schemas";
import { CommitRing } from "./commit-ring.ts";
import type { RunCommit } from "./run-commit.ts";

const commitsOf = (steps: readonly { gap: number; run: number; bytes: number }[]) => {
  let sequence = 0;
  return steps.map(({ gap, run, bytes }): RunCommit => {
    sequence += gap;
    return {
      sequence,
      workflowId: `w${run}`,
      type: run < 2 ? "x" : "y",
      at: 0,
      condition: null,
      events: [],
      bytes,
    };
  });
};
const steps = fc.array(
  fc.record({
    gap: fc.integer({ min: 1, max: 4 }),
    run: fc.integer({ min: 0, max: 4 }),
    bytes: fc.integer({ min: 1, max: 2_000 }),
  }),
  { maxLength: 120 },
);
const filters = fc.constantFrom<Filter>(
  {},
  { type: ["x"] },
  { workflow: ["w1"] },
  { workflow: ["w3", "w1", "w3"] },
  { workflow: ["w1", "w2"], type: ["y"] },
  { workflow: ["none"] },
);

describe("CommitRing", () => {
  it("I1, I3: pages of any size, put together, are the commits that a plain array has", () => {
    fc.assert(
      fc.property(
        steps,
        filters,
        fc.integer({ min: 1, max: 40 }),
        fc.integer({ min: 1, max: 9 }),
        (given, filter, commitsMax, pageMax) => {
          const all = commitsOf(given);
          const ring = new CommitRing({ commitsMax, bytesMax: 100_000 }, 0);
          for (const commit of all) ring.push(commit);
          expect(ring.count).toBeLessThanOrEqual(commitsMax);
          expect(ring.bytes).toBeLessThanOrEqual(100_000);
          const got: number[] = [];
          let after = ring.from - 1;
          while (after < ring.head) {
            const page = ring.page(after, filter, pageMax, 3_000);
            expect(page.upTo).toBeGreaterThan(after);
            got.push(...page.commits.map(({ sequence }) => sequence));
            after = page.upTo;
          }
          const wanted = all.filter(
            ({ sequence, workflowId, type }) => sequence >= ring.from && matchesRun(filter, workflowId, type),
          );
          expect(got).toEqual(wanted.map(({ sequence }) => sequence));
          // Everything from `from` on is held: the newest commits, no hole.
          expect(ring.count).toBe(all.filter(({ sequence }) => sequence >= ring.from).length);
        },
      ),
    );
  });

  it("a run's commits between two sequences", () => {
    fc.assert(
      fc.property(steps, fc.nat(300), fc.nat(300), (given, after, upTo) => {
        const all = commitsOf(given);
        const ring = new CommitRing({ commitsMax: 30, bytesMax: 1e9 }, 0);
        for (const commit of all) ring.push(commit);
        const wanted = all.filter(
          ({ sequence, workflowId }) =>
            workflowId === "w1" && sequence >= ring.from && sequence > after && sequence <= upTo,
        );
        expect(ring.ofRun("w1", after, upTo)).toEqual(wanted);
      }),
    );
  });

  it("I2: what is not beyond the head changes nothing; reset forgets", () => {
    const ring = new CommitRing({ commitsMax: 10, bytesMax: 1e9 }, 5);
    const [commit] = commitsOf([{ gap: 5, run: 0, bytes: 1 }]);
    if (commit === undefined) throw new Error("no commit");
    expect(ring.push(commit)).toBe(false);
    expect([ring.head, ring.from, ring.count]).toEqual([5, 6, 0]);
    expect(ring.push({ ...commit, sequence: 9 })).toBe(true);
    expect([ring.head, ring.from, ring.count]).toEqual([9, 6, 1]);
    ring.reset(2);
    expect([ring.head, ring.from, ring.count, ring.bytes]).toEqual([2, 3, 0, 0]);
  });
});
