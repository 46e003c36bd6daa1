import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { eventSchemas, isEventType } from "./events.ts";
import {
  canonicalFilter,
  matchesAround,
  matchesEvent,
  matchesRun,
  matchesStatus,
  parseFilter,
} from "./filter.ts";
import { limits } from "./limits.ts";
import { runStatuses } from "./run-state.ts";

const names = fc.array(fc.string({ minLength: 1, maxLength: 9 }), { minLength: 1, maxLength: 5 });
const events = fc.array(fc.constantFrom(...Object.keys(eventSchemas).filter(isEventType)), {
  minLength: 1,
  maxLength: 5,
});
const statuses = fc.array(fc.constantFrom(...runStatuses), { minLength: 1, maxLength: 5 });
const filter = fc.record(
  { workflow: names, type: names, status: statuses, event: events },
  { requiredKeys: [] },
);

describe("filter", () => {
  test("filters that mean the same have one canonical text, and others do not", () => {
    fc.assert(
      fc.property(filter, (given) => {
        const shuffled = Object.fromEntries(
          Object.entries(given)
            .reverse()
            .map(([key, values]) => [key, [...values, ...values].reverse()]),
        );
        expect(canonicalFilter(parseFilter(shuffled))).toBe(canonicalFilter(parseFilter(given)));
        const other = { ...given, workflow: [...(given.workflow ?? []), "one more than there was"] };
        expect(canonicalFilter(parseFilter(other))).not.toBe(canonicalFilter(parseFilter(given)));
      }),
    );
  });

  test("a canonical text is a filter with the same matches", () => {
    fc.assert(
      fc.property(filter, fc.string({ minLength: 1 }), fc.string({ minLength: 1 }), (given, id, type) => {
        const [once, twice] = [
          parseFilter(given),
          parseFilter(JSON.parse(canonicalFilter(parseFilter(given)))),
        ];
        const ids = [id, ...(given.workflow ?? [])];
        const types = [type, ...(given.type ?? [])];
        for (const each of ids)
          for (const of of types) expect(matchesRun(twice, each, of)).toBe(matchesRun(once, each, of));
        for (const status of runStatuses) {
          const around = { before: null, after: status };
          expect(matchesStatus(twice, around)).toBe(matchesStatus(once, around));
        }
        for (const event of given.event ?? []) expect(matchesEvent(twice, event)).toBe(true);
      }),
    );
  });

  test("fields are and-ed, values or-ed, nothing asked is everything", () => {
    expect(matchesRun({}, "order-1", "order")).toBe(true);
    const both = parseFilter({ workflow: ["order-1", "order-2"], type: ["order"] });
    expect(matchesRun(both, "order-2", "order")).toBe(true);
    expect(matchesRun(both, "order-2", "refund")).toBe(false);
    expect(matchesRun(both, "order-3", "order")).toBe(false);
    expect(matchesEvent(parseFilter({ event: ["StepFailed"] }), "StepCompleted")).toBe(false);
    expect(parseFilter(undefined)).toEqual({});
  });

  test("status: before the commit or after it, and no status before the first", () => {
    const failed = parseFilter({ status: ["failed", "stuck"] });
    expect(matchesStatus(failed, { before: "running", after: "failed" })).toBe(true);
    expect(matchesStatus(failed, { before: "stuck", after: "running" })).toBe(true);
    expect(matchesStatus(failed, { before: "running", after: "completed" })).toBe(false);
    expect(matchesStatus(failed, { before: null, after: "running" })).toBe(false);
    expect(matchesStatus({}, { before: null, after: "running" })).toBe(true);
  });

  test("attributes: one value or several, typed or as text, in any order, have one canonical text", () => {
    const canonical = (attr: unknown) => canonicalFilter(parseFilter({ attr }));
    expect(canonical({ b: ["2", 1], a: true })).toBe(canonical({ a: ["true", true], b: [1, 2, "1"] }));
    expect(canonical({ a: 1 })).not.toBe(canonical({ a: 2 }));
    expect(canonical({ a: 1 })).not.toBe(canonicalFilter({}));
    const again = parseFilter(JSON.parse(canonical({ customer: 7 })));
    const around = { before: {}, after: { customer: "7" } };
    expect(matchesAround(again, around)).toBe(true);
    expect(matchesAround(parseFilter({}), around)).toBe(true);
    expect(matchesAround(again, { before: {}, after: {} })).toBe(false);
  });

  const refused: readonly unknown[] = [
    { attr: {} },
    { attr: ["customer"] },
    { attr: { customer: [] } },
    { attr: { customer: { gt: 1 } } },
    { attr: { "": 1 } },
    { attr: Object.fromEntries(Array.from({ length: limits.attributes + 1 }, (_, n) => [`k${n}`, n])) },
    { workflow: [] },
    { workflow: "order-1" },
    { type: [""] },
    { event: ["Nope"] },
    { status: [] },
    { status: "failed" },
    { status: ["Failed"] },
    { event: ["toString"] },
    { colour: ["red"] },
    { workflow: Array.from({ length: limits.filterValues + 1 }, (_, index) => `w${index}`) },
    [],
    "all",
  ];
  test.each(refused.map((input) => ({ input })))("refuses $input", ({ input }) => {
    expect(() => parseFilter(input)).toThrow(expect.objectContaining({ code: "filter_invalid" }));
  });
});
