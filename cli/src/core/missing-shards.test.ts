import { expect, it } from "vitest";
import { missingShards } from "./missing-shards.ts";

it("says of a group what nobody executes, and nothing of one that is whole", () => {
  const group = { sessions: 1, shardsTotal: 64, workflows: [] };
  const groups = [
    { ...group, group: "whole", shardsHeld: 64 },
    { ...group, group: "broken", shardsHeld: 60 },
  ];
  expect(missingShards({ sessions: [], hosted: [], groups })).toEqual([
    expect.stringMatching(/^Group broken: 4 of 64 shards wait/),
  ]);
});
