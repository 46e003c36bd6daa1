import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { eventSchemas, isEventType } from "./events.ts";
import { canonicalFilter, matchesEvent, matchesRun, parseFilter } from "./filter.ts";
import { limits } from "./limits.ts";

const names = fc.array(fc.string({ minLength: 1, maxLength: 9 }), { minLength: 1, maxLength: 5 });
const events = fc.array(fc.constantFrom(...Object.keys(eventSchemas).filter(isEventType)), {
  minLength: 1,
  maxLength: 5,
});
const filter = fc.record({ workflow: names, type: names, event: events }, { requiredKeys: [] });

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

  const refused: readonly unknown[] = [
    { workflow: [] },
    { workflow: "order-1" },
    { type: [""] },
    { event: ["Nope"] },
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
