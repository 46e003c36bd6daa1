import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  assertAttributes,
  attributesAfter,
  changedAttributes,
  hasAttributes,
  matchesAttributes,
  mergeAttributes,
  noAttributes,
  type AttributeChanges,
  type Attributes,
} from "./attributes.ts";
import { evolveCommit, initialRunState } from "./run-state.ts";
import type { WorkflowEvent } from "./events.ts";
import { isMillraceError } from "./errors.ts";

const value = fc.oneof(fc.string({ maxLength: 3 }), fc.integer({ min: 0, max: 3 }), fc.boolean());
const key = fc.constantFrom("a", "b", "c");
const attributes: fc.Arbitrary<Attributes> = fc.dictionary(key, value);
const changes: fc.Arbitrary<AttributeChanges> = fc.dictionary(key, fc.option(value));

describe("attributes", () => {
  test("changes set, replace and remove; nothing else; the same object when nothing changes", () => {
    fc.assert(
      fc.property(attributes, changes, (before, change) => {
        const after = mergeAttributes(before, change);
        const expected = Object.entries({ ...before, ...change }).filter(([, each]) => each !== null);
        expect(after).toEqual(Object.fromEntries(expected));
        expect(mergeAttributes(after, change)).toBe(after);
      }),
    );
  });

  test("folded alone they are what the run's state has", () => {
    const started: WorkflowEvent = {
      type: "WorkflowStarted",
      data: { version: "1", driver: "code", attributes: { a: 1 } },
    };
    fc.assert(
      fc.property(fc.array(changes), (all) => {
        const events = [
          started,
          ...all.map((each): WorkflowEvent => ({ type: "AttributesUpserted", data: { attributes: each } })),
        ];
        const state = initialRunState("r", "t");
        evolveCommit(state, { sequence: 1, at: 1, events });
        expect(attributesAfter(noAttributes, events)).toEqual(state.attributes);
      }),
    );
  });

  test("A1: a filter compares by text, and every key must be had with one of its values", () => {
    const run = { customer: "7", amount: 12.5, vip: true };
    expect(hasAttributes({ customer: 7 }, run)).toBe(true);
    expect(hasAttributes({ amount: "12.5", vip: "true" }, run)).toBe(true);
    expect(hasAttributes({ customer: ["6", "7"] }, run)).toBe(true);
    expect(hasAttributes({ customer: "7", vip: false }, run)).toBe(false);
    expect(hasAttributes({ toString: "7" }, run)).toBe(false);
    expect(hasAttributes({ other: "" }, run)).toBe(false);
  });

  test("A2: a commit matches by what the run had before it or has after it, taken as a whole", () => {
    const before = { customer: "7", region: "eu" };
    const after = { customer: "8", region: "us" };
    expect(matchesAttributes({ customer: "7" }, { before, after })).toBe(true);
    expect(matchesAttributes({ customer: "8", region: "us" }, { before, after })).toBe(true);
    expect(matchesAttributes({ customer: "7", region: "us" }, { before, after })).toBe(false);
    expect(matchesAttributes({ customer: "7" }, { before: after, after })).toBe(false);
  });

  test.each<[string, AttributeChanges, string]>([
    ["too many", Object.fromEntries(Array.from({ length: 33 }, (_, n) => [`k${n}`, n])), "limit_exceeded"],
    ["a long value", { k: "x".repeat(257) }, "limit_exceeded"],
    ["an empty key", { "": 1 }, "limit_exceeded"],
    ["a key of every object", { constructor: 1 }, "limit_exceeded"],
    ["no number", { k: Number.NaN }, "invalid_request"],
    ["an object", { k: { x: 1 } as unknown as string }, "invalid_request"],
  ])("refuses %s", (_what, given, code) => {
    const refused = (() => {
      try {
        assertAttributes(given, "Start of x");
        return null;
      } catch (error) {
        return error;
      }
    })();
    expect(isMillraceError(refused) && refused.code).toBe(code);
    expect(String(refused)).toMatch(/^MillraceError: Start of x refused/);
  });

  test("a change is refused when there would be too many after it, and null makes room", () => {
    const full = Object.fromEntries(Array.from({ length: 32 }, (_, n) => [`k${n}`, n]));
    expect(() => changedAttributes(full, { one: 1 }, "Change")).toThrow(/33 attributes, the limit is 32/);
    expect(changedAttributes(full, { one: 1, k0: null }, "Change")).toMatchObject({ one: 1, k31: 31 });
  });
});
