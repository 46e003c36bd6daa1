import { attributesAfter, noAttributes, type AttributesAround, type WorkflowEvent } from "@millrace/schemas";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { CommitRing } from "./commit-ring.ts";
import { RunAttributes, type AttributeSource } from "./run-attributes.ts";
import type { RunCommit } from "./run-commit.ts";

const runs = ["a", "b", "c"];

function history(picks: readonly number[]): RunCommit[] {
  const begun = new Set<string>();
  return picks.map((pick, n): RunCommit => {
    const workflowId = runs[pick % runs.length] ?? "a";
    const first = !begun.has(workflowId);
    begun.add(workflowId);
    const event: WorkflowEvent = first
      ? { type: "WorkflowStarted", data: { version: "1", driver: "code", attributes: { n: 0 } } }
      : pick > 60
        ? {
            type: "AttributesUpserted",
            data: { attributes: { n: pick > 90 ? null : n, ["k" + (n % 3)]: pick } },
          }
        : { type: "ProgressReported", data: {} };
    const place = { sequence: (n + 1) * 2, workflowId, type: "order", at: n, condition: null, bytes: 10 };
    return { ...place, events: [event] };
  });
}

function asOf(commits: readonly RunCommit[], workflowId: string, upTo: number) {
  return commits
    .filter((commit) => commit.workflowId === workflowId && commit.sequence <= upTo)
    .reduce((attributes, { events }) => attributesAfter(attributes, events), noAttributes);
}

describe("RunAttributes", () => {
  it("I1, I2: what a commit of the ring has around it is the fold of the whole history, wherever the projector stands", () => {
    let told = 0;
    let untold = 0;
    let reached = false;
    fc.assert(
      fc.property(
        fc.array(fc.nat(99), { minLength: 30, maxLength: 60 }),
        fc.array(fc.record({ lag: fc.integer({ min: -4, max: 30 }), back: fc.nat(9), asked: fc.boolean() }), {
          minLength: 60,
          maxLength: 60,
        }),
        fc.integer({ min: 1, max: 12 }),
        (picks, asks, commitsMax) => {
          const commits = history(picks);
          let checkpoint = 0;
          const source: AttributeSource = {
            checkpointSequence: () => checkpoint,
            attributesAt: (id, sequence) => asOf(commits, id, Math.min(sequence, checkpoint)),
          };
          const ring = new CommitRing({ commitsMax, bytesMax: 1e9 }, 0);
          const attributes = new RunAttributes(source, ring);
          for (const [n, commit] of commits.entries()) {
            ring.push(commit);
            const { lag, back, asked } = asks[n] ?? { lag: 0, back: 0, asked: true };
            checkpoint = Math.max(checkpoint, commits[n - lag]?.sequence ?? 0);
            const about = commits[n - back];
            if (!asked || about === undefined || about.sequence < ring.from) continue;
            const around = attributes.around(about);
            if (around === null) {
              untold++;
              reached ||= checkpoint >= ring.from - 1;
              continue;
            }
            told++;
            const wanted: AttributesAround = {
              before: asOf(commits, about.workflowId, about.sequence - 1),
              after: asOf(commits, about.workflowId, about.sequence),
            };
            expect(around).toEqual(wanted);
          }
        },
      ),
    );
    expect(reached, "an answer of null although the projector has all before the ring").toBe(false);
    expect(told).toBeGreaterThan(100);
    expect(untold).toBeGreaterThan(10);
  });

  it("takes what it was told with a commit, and goes on from there", () => {
    const ring = new CommitRing({ commitsMax: 9, bytesMax: 1e9 }, 5);
    const source: AttributeSource = { checkpointSequence: () => 0, attributesAt: () => noAttributes };
    const attributes = new RunAttributes(source, ring);
    const place = { workflowId: "a", type: "order", at: 0, condition: null, bytes: 1 };
    const noted: RunCommit = { ...place, sequence: 6, events: [{ type: "ProgressReported", data: {} }] };
    const next: RunCommit = {
      ...place,
      sequence: 7,
      events: [{ type: "AttributesUpserted", data: { attributes: { n: null, m: 1 } } }],
    };
    ring.push(noted);
    ring.push(next);
    expect(attributes.around(next)).toBeNull();
    attributes.note(noted, { before: { n: "1" }, after: { n: "1" } });
    expect(attributes.around(next)).toEqual({ before: { n: "1" }, after: { m: 1 } });
  });
});
