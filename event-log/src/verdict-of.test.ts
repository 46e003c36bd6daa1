import { expect, test } from "vitest";
import { verdictOf } from "./verdict-of.ts";

const checkpoint = { sequence: 10, commitId: "A", streamCreated: "t1" };
const log = { created: "t1", firstSequence: 1, lastSequence: 20, commitId: "A" };

test.each([
  ["the commit is there", checkpoint, log, "ok"],
  ["the log ends with it", checkpoint, { ...log, lastSequence: 10 }, "ok"],
  ["nothing was applied yet", { ...checkpoint, sequence: 0, commitId: "" }, { ...log, commitId: null }, "ok"],
  ["another log", checkpoint, { ...log, created: "t2" }, "recreated"],
  ["another log, nothing applied", { ...checkpoint, sequence: 0 }, { ...log, created: "t2" }, "recreated"],
  ["the log ends before it", checkpoint, { ...log, lastSequence: 9, commitId: null }, "diverged"],
  ["its sequence was used again", checkpoint, { ...log, commitId: "B" }, "diverged"],
  ["it was archived, what follows is whole", checkpoint, { ...log, firstSequence: 11, commitId: null }, "ok"],
  ["what follows it was archived too", checkpoint, { ...log, firstSequence: 12, commitId: null }, "expired"],
] as const)("%s: %#", (_, given, facts, verdict) => {
  expect(verdictOf(given, facts)).toBe(verdict);
});
