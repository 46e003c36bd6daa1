import type { WorkflowRow } from "@millrace/schemas";
import fc from "fast-check";
import { expect, it } from "vitest";
import { isWhole, type Entry } from "./entry.ts";
import { FrameVariants } from "./frame-variants.ts";
import { FoldedRow, StateStep } from "./state-step.ts";
import type { Subscription } from "./subscription.ts";

const rowAt = (sequence: number) =>
  new FoldedRow({ id: "a", status: "running", sequence } as unknown as WorkflowRow);

/** `base` null: an entry without a row. 0: a run's first. */
function entryWith(base: number | null, sequence: number): Entry {
  const around = { before: null, after: "running" } as const;
  const step = base === null ? null : new StateStep(base === 0 ? null : rowAt(base), rowAt(sequence), around);
  const commit = { sequence, workflowId: "a", type: "order", at: 0, condition: null, events: [], bytes: 1 };
  return { commit, count: 1, step };
}

it("everybody gets what is whole for them, and each text is made once", () => {
  fc.assert(
    fc.property(
      fc.array(fc.option(fc.nat(9)), { minLength: 1, maxLength: 6 }),
      fc.array(fc.oneof(fc.nat(10), fc.constant(Infinity)), { minLength: 1, maxLength: 12 }),
      (bases, begins) => {
        const entries = bases.map((base, n) => entryWith(base, 100 + n));
        const wholes = (began: number) => entries.map((entry) => isWhole(entry, began)).join();
        const made: string[] = [];
        const variants = new FrameVariants(entries, (began) => {
          made.push(wholes(began));
          const payloads = [wholes(began)];
          return [{ s: 0, payloads, marks: [], count: 0 }];
        });
        for (const began of begins) {
          expect(variants.of({ began } as Subscription)?.[0]?.payloads).toEqual([wholes(began)]);
        }
        expect(new Set(made).size).toBe(made.length);
      },
    ),
  );
});

it("what cannot be encoded is not tried again for each subscriber", () => {
  let tries = 0;
  const variants = new FrameVariants([entryWith(3, 100)], () => {
    tries++;
    return null;
  });
  for (let n = 0; n < 3; n++) expect(variants.of({ began: 5 } as Subscription)).toBeNull();
  expect(tries).toBe(1);
});
