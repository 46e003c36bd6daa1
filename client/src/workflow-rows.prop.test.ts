import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { workflowRow } from "./testing/scripted-rows.ts";
import { WorkflowRows } from "./workflow-rows.ts";

const ids = ["a", "b", "c", "d", "e"];
const anyRow = fc
  .record({
    id: fc.constantFrom(...ids),
    startedAt: fc.constantFrom("2026-01-01", "2026-01-02", "2026-01-03"),
    customer: fc.constantFrom("7", "8"),
    message: fc.string({ maxLength: 3 }),
  })
  .map(({ id, startedAt, customer, message }) =>
    workflowRow(id, { startedAt, message, attributes: { customer } }),
  );
const anyStep = fc.oneof(
  { weight: 5, arbitrary: fc.record({ row: anyRow }) },
  fc.record({ page: fc.array(anyRow), first: fc.boolean(), last: fc.boolean() }),
);

describe("WorkflowRows", () => {
  it("R1, R2: holds what a plain map would, in the list's order", () => {
    fc.assert(
      fc.property(fc.array(anyStep), fc.boolean(), (steps, look) => {
        const filter = { attr: { customer: "7" } };
        const rows = new WorkflowRows(filter, 100);
        let model = new Map<string, ReturnType<typeof workflowRow>>();
        let incoming: typeof model | null = null;
        for (const step of steps) {
          if ("row" in step) {
            rows.takeRow(step.row);
            if (step.row.attributes["customer"] === "7") model.set(step.row.id, step.row);
            else model.delete(step.row.id);
          } else {
            const page = step.page.filter((row) => row.attributes["customer"] === "7");
            rows.takePage({ kind: "snapshot", rows: page, first: step.first, last: step.last, cursor: null });
            if (step.first || incoming === null) incoming = new Map();
            for (const row of page) incoming.set(row.id, row);
            if (step.last) {
              model = incoming;
              incoming = null;
            }
          }
          if (!look) continue;
          expect(rows.rows).toEqual(inOrder(model));
        }
        expect(rows.rows).toEqual(inOrder(model));
      }),
    );
  });

  it("R3: gives the same array until something has changed, and keeps rows that have not", () => {
    const rows = new WorkflowRows({}, 100);
    rows.takeRow(workflowRow("a"));
    rows.takeRow(workflowRow("b"));
    const before = rows.rows;
    expect(rows.rows).toBe(before);
    rows.takeRow(workflowRow("b", { message: "sent" }));
    expect(rows.rows).not.toBe(before);
    expect(rows.rows[0]).toBe(before[0]);
    expect(rows.rows[1]?.message).toBe("sent");
  });

  it("R2: lets a run go when its status is not wanted any more", () => {
    const rows = new WorkflowRows({ status: ["running", "waiting"] }, 100);
    rows.takeRow(workflowRow("a"));
    rows.takeRow(workflowRow("a", { status: "waiting" }));
    expect(rows.rows).toHaveLength(1);
    rows.takeRow(workflowRow("a", { status: "completed" }));
    expect(rows.rows).toEqual([]);
  });

  it("refuses more rows than it may hold, with the limit and the actual number", () => {
    const rows = new WorkflowRows({}, 2);
    rows.takeRow(workflowRow("a"));
    rows.takeRow(workflowRow("b"));
    rows.takeRow(workflowRow("b", { message: "known" }));
    const refusal = { code: "limit_exceeded", details: { limit: 2, actual: 3 } };
    expect(() => rows.takeRow(workflowRow("c"))).toThrow(expect.objectContaining(refusal) as Error);
    const page = ["a", "b", "c"].map((id) => workflowRow(id));
    expect(() =>
      rows.takePage({ kind: "snapshot", rows: page, first: true, last: false, cursor: null }),
    ).toThrow(expect.objectContaining(refusal) as Error);
  });
});

function inOrder(model: ReadonlyMap<string, ReturnType<typeof workflowRow>>) {
  return [...model.values()].sort((a, b) =>
    a.startedAt === b.startedAt ? (a.id < b.id ? -1 : 1) : a.startedAt < b.startedAt ? 1 : -1,
  );
}
