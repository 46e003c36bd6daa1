import fc from "fast-check";
import { expect, test } from "vitest";
import { placeEntries } from "./items.ts";
import { entry } from "./testing/scripted-server.ts";

/** Sequences with holes; a commit of n events stands n times. */
const commits = fc
  .array(fc.record({ hole: fc.integer({ min: 1, max: 4 }), events: fc.integer({ min: 1, max: 3 }) }), {
    maxLength: 12,
  })
  .map((list) => {
    let sequence = 0;
    return list.flatMap(({ hole, events }) => {
      sequence += hole;
      return Array.from({ length: events }, () => sequence);
    });
  });

test("storing any item's cursor after handling it never skips an event that was not handled", () => {
  fc.assert(
    fc.property(commits, fc.nat(20), fc.nat(5), (sequences, position, slack) => {
      const s = Math.max(position + 1, (sequences.at(-1) ?? 0) + slack);
      const entries = sequences.map((sequence) => entry(sequence));
      const placed = placeEntries(entries, { epoch: "9f3a", sequence: position }, s);
      const wanted = sequences.filter((sequence) => sequence > position);
      expect(placed.map(({ item }) => "sequence" in item && item.sequence)).toEqual(wanted);
      let before = position;
      for (const [index, { item, position: stored }] of placed.entries()) {
        const cursor = stored?.sequence ?? Number.NaN;
        expect(item.cursor).toBe(`9f3a.${cursor}`);
        expect(cursor).toBeGreaterThanOrEqual(before);
        for (const later of wanted.slice(index + 1)) expect(cursor).toBeLessThan(later);
        before = cursor;
      }
      // The whole frame handled means that all of `(p, s]` was.
      expect(before).toBe(placed.length === 0 ? position : s);
    }),
  );
});
