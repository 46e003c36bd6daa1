import { expect, it } from "vitest";
import { compareStreams, noFaults } from "./compare-streams.ts";

const log = ["1 a", "2 b", "3 c", "4 d"];

it("finds nothing in what is equal", () => {
  expect(compareStreams(log, [...log])).toBe(noFaults);
  expect(compareStreams([], [])).toBe(noFaults);
});

it.each([
  { name: "lost", received: ["1 a", "3 c", "4 d"], faults: { lost: 1 } },
  { name: "lost at the end", received: ["1 a", "2 b"], faults: { lost: 2 } },
  { name: "doubled", received: ["1 a", "2 b", "2 b", "3 c", "4 d"], faults: { doubled: 1 } },
  { name: "out of order", received: ["1 a", "3 c", "2 b", "4 d"], faults: { outOfOrder: 1 } },
  { name: "foreign", received: ["1 a", "2 b", "2 x", "3 c", "4 d"], faults: { foreign: 1 } },
])("counts what is $name, and shows where", ({ received, faults }) => {
  const found = compareStreams(log, received);
  expect(found).toEqual({ ...noFaults, ...faults, first: expect.stringContaining("expected") });
});
