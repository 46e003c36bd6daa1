import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  assertNamespace,
  assertSubjectType,
  assertWorkflowId,
  assertWorkflowType,
  fnv1a,
  parseStepRef,
  scheduleType,
  shardOf,
  stepKey,
} from "./ids.ts";
import { limits } from "./limits.ts";

const codeOf = (call: () => unknown): unknown => {
  try {
    call();
  } catch (error) {
    return (error as { code?: unknown }).code;
  }
  return null;
};

describe("ids", () => {
  test.each(["a", "order-42", "A_z-9", "x".repeat(128)])("%j is a workflow id", (id) => {
    expect(() => assertWorkflowId(id)).not.toThrow();
  });

  test.each([
    "",
    "a.b",
    "a*",
    ">",
    "a b",
    "a\n",
    "a\u0000",
    "ä",
    "a/b",
    "x".repeat(129),
    42,
    null,
    undefined,
  ])("%j is none: it would be another subject, or more than one", (id) => {
    expect(codeOf(() => assertWorkflowId(id))).toBe("invalid_id");
  });

  test("a type that begins with _ is Millrace's own, and says so; only the schedules' may stand in the log", () => {
    expect(() => assertWorkflowType("_order")).toThrow(/begin with _ are reserved/);
    expect(codeOf(() => assertWorkflowType(scheduleType))).toBe("invalid_id");
    expect(codeOf(() => assertSubjectType("_order"))).toBe("invalid_id");
    expect(() => assertSubjectType(scheduleType)).not.toThrow();
    expect(() => assertWorkflowType("order_")).not.toThrow();
  });

  test("a message about length names the limit and the actual, and does not repeat what is huge", () => {
    const call = (): void => assertWorkflowType("x".repeat(100_000));
    expect(call).toThrow(
      expect.objectContaining({
        message: expect.stringMatching(/\{1,64\}.*100000 characters/) as string,
        details: { limit: limits.workflowTypeChars, actual: 100_000 },
      }),
    );
    expect(codeOf(() => assertNamespace("x".repeat(33)))).toBe("invalid_id");
    expect(call).toThrow(
      expect.objectContaining({ message: expect.stringMatching(/^[^]{1,400}$/) as string }),
    );
  });
});

describe("step references", () => {
  const name = fc
    .string({ minLength: 1, maxLength: limits.stepNameChars })
    .filter((text) => !/[#\u007f]|\p{Cc}/u.test(text));

  test("round-trip", () => {
    fc.assert(
      fc.property(name, fc.integer({ min: 1, max: limits.stepOccurrences }), (stepName, occurrence) => {
        expect(parseStepRef(stepKey(stepName, occurrence))).toEqual({ name: stepName, occurrence });
      }),
    );
  });

  test.each(["", "#2", "a#", "a#0", "a#-1", "a#1.5", "a#2x", "a#b#2", "a#100001", "a\nb", "x".repeat(129)])(
    "%j is none",
    (ref) => {
      expect(codeOf(() => parseStepRef(ref))).toBe("invalid_id");
    },
  );
});

describe("shards", () => {
  test("FNV-1a gives the published values: the stored format rests on them", () => {
    // Source: the test vectors of Fowler, Noll and Vo for 32 bit FNV-1a.
    expect([fnv1a(""), fnv1a("a"), fnv1a("foobar")]).toEqual([0x811c9dc5, 0xe40c292c, 0xbf9cf968]);
    expect(["order-1", "order-2", "order-42"].map((id) => shardOf(id, 64))).toEqual([45, 52, 52]);
  });

  test("spread ids evenly", () => {
    const counts = Array.from({ length: 64 }, () => 0);
    for (let index = 0; index < 64_000; index++) {
      const shard = shardOf(`order-${index}`, 64);
      counts[shard] = (counts[shard] ?? 0) + 1;
    }
    expect(Math.min(...counts)).toBeGreaterThan(700);
    expect(Math.max(...counts)).toBeLessThan(1_300);
  });
});
