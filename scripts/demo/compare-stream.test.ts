import { describe, expect, it } from "vitest";
import { compareStream, type LoggedEvent, type ReceivedEvent } from "./compare-stream.ts";

/** Two commits of two events, then single ones; two events are alike but for their place. */
const log: readonly LoggedEvent[] = [
  event(3, 0, "WorkflowStarted", "a", {}),
  event(3, 1, "ProgressReported", "a", { current: 1 }),
  event(4, 0, "ProgressReported", "b", { current: 1 }),
  event(4, 1, "ProgressReported", "b", { current: 1 }),
  event(9, 0, "StepCompleted", "a", { name: "read", output: 7 }),
  event(12, 0, "WorkflowCompleted", "a", {}),
];
const all: readonly ReceivedEvent[] = log.map(({ index: _index, ...received }) => received);
const none = { lost: 0, duplicates: 0, outOfOrder: 0, unknown: 0 };

describe("compareStream", () => {
  it("finds nothing wrong with all events in order", () => {
    expect(compareStream(log, all)).toEqual({ ...none, received: 6, examples: [] });
  });

  it.each(log.map((_event, place) => place))("notices event %i lost", (place) => {
    const result = compareStream(log, all.toSpliced(place, 1));
    expect(result).toMatchObject({ ...none, received: 5, lost: 1 });
    expect(result.examples).toEqual([expect.stringMatching(/^lost: .* at sequence /)]);
  });

  it.each(log.map((_event, place) => place))("notices event %i doubled, at once or at the end", (place) => {
    const twice = at(all, place);
    for (const received of [all.toSpliced(place, 0, twice), [...all, twice]]) {
      expect(compareStream(log, received)).toMatchObject({ ...none, received: 7, duplicates: 1 });
    }
  });

  it("notices a commit that came twice", () => {
    expect(compareStream(log, [...all.slice(0, 4), ...all.slice(2)])).toMatchObject({
      ...none,
      duplicates: 2,
    });
  });

  it.each([0, 1, 3, 4])("notices events %i and the next one swapped, also within a commit", (place) => {
    const swapped = all.toSpliced(place, 2, at(all, place + 1), at(all, place));
    expect(compareStream(log, swapped)).toMatchObject({ ...none, received: 6, outOfOrder: 1 });
  });

  it.each([
    ["data", { data: '{"name":"read","output":8}' }],
    ["type", { type: "StepFailed" }],
    ["workflow", { workflowId: "b" }],
    ["time", { at: "2026-01-01T00:00:00.001Z" }],
    ["sequence", { sequence: 10 }],
  ])("notices an event with another %s: it is none of the log's", (_what, change) => {
    const received = all.with(4, { ...at(all, 4), ...change });
    expect(compareStream(log, received)).toMatchObject({ ...none, lost: 1, unknown: 1 });
  });

  it("names only the first few", () => {
    const long = Array.from({ length: 50 }, (_none, number) =>
      event(number + 1, 0, "WorkflowStarted", "a", {}),
    );
    const { lost, examples } = compareStream(long, []);
    expect([lost, examples.length]).toEqual([50, 5]);
  });
});

function event(sequence: number, index: number, type: string, workflowId: string, data: object): LoggedEvent {
  return { sequence, index, type, workflowId, at: "2026-01-01T00:00:00.000Z", data: JSON.stringify(data) };
}

function at<T>(items: readonly T[], place: number): T {
  const item = items[place];
  if (item === undefined) throw new RangeError(`There is no item ${place}.`);
  return item;
}
