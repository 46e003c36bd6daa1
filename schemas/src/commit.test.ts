import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { commitVersion, decodeCommit, encodeCommit, validateEvent } from "./commit.ts";
import type { WorkflowEvent } from "./events.ts";
import { limits } from "./limits.ts";

const completed: WorkflowEvent = {
  type: "WorkflowCompleted",
  data: { output: { text: "Zürich \u{1F69A} \u2028" } },
};

describe("commit codec", () => {
  test("what was encoded is decoded, whatever the payload", () => {
    fc.assert(
      fc.property(fc.array(fc.jsonValue(), { minLength: 1, maxLength: 5 }), (outputs) => {
        const events = outputs.map((output): WorkflowEvent => ({
          type: "WorkflowCompleted",
          data: { output },
        }));
        const decoded = decodeCommit(encodeCommit("order-1", events), 7);
        expect(decoded).toEqual(JSON.parse(JSON.stringify(events)));
      }),
    );
    expect(decodeCommit(encodeCommit("order-1", [completed]), 7)).toEqual([completed]);
  });

  test("the stored text is {v, events}", () => {
    expect(JSON.parse(encodeCommit("order-1", [completed]))).toEqual({
      v: commitVersion,
      events: [completed],
    });
  });

  test("a commit has 1 to limits.commitEvents events; the message names limit and actual", () => {
    const many = Array.from({ length: limits.commitEvents + 1 }, () => completed);
    expect(() => encodeCommit("order-1", [])).toThrow(expect.objectContaining({ code: "limit_exceeded" }));
    expect(() => encodeCommit("order-1", many)).toThrow(
      expect.objectContaining({
        code: "limit_exceeded",
        message: expect.stringMatching(/order-1.*1001.*1 to 1000/) as string,
        details: { limit: 1_000, actual: 1_001 },
      }),
    );
    expect(decodeCommit(encodeCommit("order-1", many.slice(1)), 7)).toHaveLength(limits.commitEvents);
  });

  test.each([
    ["no JSON", "{"],
    ["null", "null"],
    ["an array", "[]"],
    ["another version", `{"v":99,"events":[{"type":"WorkflowCompleted","data":{}}]}`],
    ["no events", `{"v":1,"events":[]}`],
    ["events that are no list", `{"v":1,"events":{"type":"WorkflowCompleted"}}`],
  ])("refuses %s as malformed and names the sequence", (_, body) => {
    expect(() => decodeCommit(body, 42)).toThrow(
      expect.objectContaining({ code: "commit_malformed", message: expect.stringContaining("42") as string }),
    );
  });

  test.each(["null", "{}", `{"type":"Nope"}`, `{"type":"toString"}`, `{"type":"__proto__"}`])(
    "refuses the event %s of a newer writer",
    (event) => {
      expect(() => decodeCommit(`{"v":1,"events":[${event}]}`, 42)).toThrow(
        expect.objectContaining({ code: "event_type_unknown" }),
      );
    },
  );

  test("validateEvent names the path", () => {
    expect(() => validateEvent(completed)).not.toThrow();
    const wrong = { type: "StepStarted", data: { name: "a", occurrence: 0, attempt: 1 } } as WorkflowEvent;
    expect(() => validateEvent(wrong)).toThrow(/StepStarted\.occurrence/);
  });
});
