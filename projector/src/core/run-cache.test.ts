import { expect, test } from "vitest";
import { beginFoldedRun, type FoldedRun } from "./folded-run.ts";
import { RunCache } from "./run-cache.ts";

function run(id: string, bytes: number): FoldedRun {
  return { ...beginFoldedRun(1, id, "order"), bytes };
}

test("the least recently used runs go first when there are too many", () => {
  const cache = new RunCache({ runsMax: 2, bytesMax: 1_000 });
  const [a, b, c] = [run("a", 1), run("b", 1), run("c", 1)];
  for (const kept of [a, b, c, a]) cache.keep(kept);
  cache.settle([]);
  expect([cache.get("a"), cache.get("b"), cache.get("c")]).toEqual([a, undefined, c]);
});

test("bytes are bounded too, as they are when a run is kept", () => {
  const cache = new RunCache({ runsMax: 10, bytesMax: 100 });
  const grown = run("grown", 10);
  cache.keep(grown);
  grown.bytes = 90;
  cache.keep(grown);
  cache.keep(run("next", 20));
  cache.settle([]);
  expect([cache.get("grown"), cache.get("next")?.bytes]).toEqual([undefined, 20]);
});

test("nothing is forgotten before its changes are stored", () => {
  const cache = new RunCache({ runsMax: 1, bytesMax: 1 });
  cache.keep(run("a", 50));
  cache.keep(run("b", 50));
  expect(cache.get("a")).toBeDefined();
});

test("a closed run is forgotten once it is stored", () => {
  const cache = new RunCache({ runsMax: 10, bytesMax: 1_000 });
  const closed = run("closed", 1);
  closed.state.status = "completed";
  cache.keep(closed);
  cache.settle([closed]);
  expect(cache.get("closed")).toBeUndefined();
});
