import fc from "fast-check";
import { expect, test } from "vitest";
import { announceSubject, anyTypeSubject, logNames, parseRunSubject, runSubject } from "./subjects.ts";

const token = fc.stringMatching(/^[A-Za-z0-9_-]{1,20}$/);

test("a run's subject gives its type and id back, and lies below the namespace's filter", () => {
  fc.assert(
    fc.property(token, token, token, (namespace, type, workflowId) => {
      const subject = runSubject(namespace.slice(0, 32), 64, type, workflowId);
      expect(parseRunSubject(subject)).toEqual({ type, workflowId });
      expect(subject.startsWith(logNames(namespace).all.slice(0, -1))).toBe(true);
      expect(anyTypeSubject(namespace, 64, workflowId).split(".").with(3, type).join(".")).toBe(subject);
    }),
  );
});

test.each(["", "mr", "mr.a.1.order", "mr.a.1.order.x.y", "xx.a.1.order.x"])(
  "%j is no run's subject",
  (subject) => {
    expect(parseRunSubject(subject)).toBeNull();
  },
);

test("announcements do not go into the log", () => {
  expect(announceSubject("a", "projected").startsWith("mr.")).toBe(false);
  expect(() => logNames("a.b")).toThrow(expect.objectContaining({ code: "invalid_id" }));
});
