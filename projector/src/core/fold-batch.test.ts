import { decodeCommit, encodeCommit, type WorkflowEvent } from "@millrace/schemas";
import { describe, expect, test } from "vitest";
import { FoldBatch, type FoldableCommit, type FoldBatchOptions } from "./fold-batch.ts";
import { RunCache } from "./run-cache.ts";

function stored(sequence: number, workflowId: string, body: string): FoldableCommit {
  return {
    sequence,
    workflowId,
    type: "order",
    at: sequence * 1_000,
    commitId: `commit-${sequence}`,
    condition: null,
    body,
    get events() {
      return decodeCommit(body, sequence);
    },
  };
}

function commit(sequence: number, workflowId: string, ...events: WorkflowEvent[]): FoldableCommit {
  return stored(sequence, workflowId, encodeCommit(workflowId, events));
}

function batch(options: Partial<FoldBatchOptions> = {}): FoldBatch {
  const cache = new RunCache({ runsMax: 100, bytesMax: 1_000_000 });
  return new FoldBatch({
    position: 0,
    cache,
    find: () => null,
    findSchedule: () => null,
    poison: "quarantine",
    ...options,
  });
}

const started: WorkflowEvent = { type: "WorkflowStarted", data: { version: "1", driver: "code", input: 1 } };
const done = (name: string): WorkflowEvent => ({
  type: "StepCompleted",
  data: { name, occurrence: 1, attempt: 1, output: null },
});

test("I1: a commit at or below the position changes nothing", () => {
  const folded = batch({ position: 2 });
  folded.add(commit(1, "a", started));
  folded.add(commit(2, "a", done("x")));
  expect([folded.count, folded.runs.size, folded.last]).toEqual([0, 0, null]);
  folded.add(commit(3, "b", started));
  folded.add(commit(3, "b", started));
  expect([folded.count, folded.last]).toEqual([1, { sequence: 3, commitId: "commit-3" }]);
});

test("I2: a run that several commits touch is written once, with only the steps that they touched", () => {
  const cache = new RunCache({ runsMax: 100, bytesMax: 1_000_000 });
  const first = batch({ cache });
  first.add(commit(1, "a", started, done("x")));
  const [run] = first.runs;
  run?.changedSteps.clear();
  const second = batch({ cache, position: 1 });
  second.add(commit(2, "a", done("y")));
  second.add(commit(3, "a", done("z"), done("y")));
  expect([...second.runs]).toEqual([run]);
  expect([...(run?.changedSteps ?? [])]).toEqual(["y", "z"]);
  expect([...(run?.positions ?? [])]).toEqual([
    ["x", 0],
    ["y", 1],
    ["z", 2],
  ]);
});

describe("I3: a commit that cannot be read", () => {
  const poisons: readonly (readonly [string, string])[] = [
    ["is not JSON", "{"],
    ["has no events", '{"v":1,"events":[]}'],
    ["has an event of a type that nobody knows", '{"v":1,"events":[{"type":"WorkflowDreamt","data":{}}]}'],
    [
      "has an event whose data has the wrong shape",
      '{"v":1,"events":[{"type":"StepCompleted","data":{"name":7}}]}',
    ],
    ["has an event without data", '{"v":1,"events":[{"type":"StepCompleted"}]}'],
  ];
  test.each(poisons)("%s stops its own run and no other", (_, body) => {
    const folded = batch();
    folded.add(commit(1, "a", started));
    folded.add(commit(2, "b", started));
    folded.add(stored(3, "a", body));
    folded.add(commit(4, "a", done("late")));
    folded.add(commit(5, "b", done("fine")));
    expect(folded.quarantined.map(({ sequence, workflowId }) => [sequence, workflowId])).toEqual([
      [3, "a"],
      [4, "a"],
    ]);
    expect(folded.commits.map((entry) => entry.commit.sequence)).toEqual([1, 2, 4, 5]);
    const states = [...folded.runs].map(({ state, quarantinedSequence }) => [
      state.id,
      state.sequence,
      quarantinedSequence,
    ]);
    expect(states).toEqual([
      ["a", 1, 3],
      ["b", 5, null],
    ]);
  });
  test.each(poisons)("%s stops a rebuild, by name and sequence", (_, body) => {
    const folded = batch({ poison: "stop" });
    folded.add(commit(1, "a", started));
    expect(() => folded.add(stored(2, "a", body))).toThrow(/^Rebuild stopped at sequence 2 of a: /);
    expect(folded.count).toBe(1);
  });
});
