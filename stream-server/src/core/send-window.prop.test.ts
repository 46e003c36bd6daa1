import fc from "fast-check";
import { expect, it } from "vitest";
import { SendWindow, type Marks } from "./send-window.ts";

it("W1, W2: counts what a plain list counts, over late, repeated and partial acknowledgements", () => {
  const frame = fc.array(fc.record({ hole: fc.nat(3), count: fc.integer({ min: 1, max: 3 }) }), {
    minLength: 1,
    maxLength: 4,
  });
  const step = fc.oneof({ arbitrary: frame, weight: 2 }, fc.nat(100));
  fc.assert(
    fc.property(fc.array(step, { maxLength: 300 }), fc.integer({ min: 1, max: 20 }), (steps, size) => {
      const window = new SendWindow(size);
      const sent: { readonly sequence: number; readonly count: number }[] = [];
      let acknowledged = 0;
      let sequence = 0;
      for (const each of steps) {
        if (typeof each === "number") {
          const upTo = Math.floor((sequence * each) / 100);
          acknowledged = Math.max(acknowledged, upTo);
          window.acknowledge(upTo);
        } else {
          const marks: number[] = [];
          for (const { hole, count } of each) {
            sequence += 1 + hole;
            marks.push(sequence, count);
            sent.push({ sequence, count });
          }
          window.sent(marks satisfies Marks);
        }
        const open = sent.filter((commit) => commit.sequence > acknowledged);
        const unacknowledged = open.reduce((sum, { count }) => sum + count, 0);
        expect(window.unacknowledged).toBe(unacknowledged);
        expect(window.full).toBe(unacknowledged >= size);
        expect(window.room).toBe(Math.max(0, size - unacknowledged));
      }
    }),
  );
});
