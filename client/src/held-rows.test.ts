import { initialRunState, toRow, type WorkflowRow } from "@millrace/schemas";
import { expect, test } from "vitest";
import { HeldRows } from "./held-rows.ts";

const row = (id: string, fields: Partial<WorkflowRow>): WorkflowRow => ({
  ...toRow(initialRunState(id, "order")),
  ...fields,
});

test("what changed is laid over the row before, of its own run, into a new row", () => {
  const rows = new HeldRows();
  const first = rows.merge(row("a", { sequence: 1, message: "one" }));
  rows.merge(row("b", { sequence: 2, message: "other" }));
  const second = rows.merge({ id: "a", sequence: 3, currentStep: 2 });
  expect(second).toEqual(row("a", { sequence: 3, message: "one", currentStep: 2 }));
  expect(first).toEqual(row("a", { sequence: 1, message: "one" }));
});

test("a row of a snapshot counts, and nothing of before a new subscription does", () => {
  const rows = new HeldRows();
  rows.keep(row("a", { sequence: 1, message: "of the snapshot" }));
  expect(rows.merge({ id: "a", sequence: 2, currentStep: 1 }).message).toBe("of the snapshot");
  rows.clear();
  expect(rows.merge({ id: "a", sequence: 3 })).toEqual({ id: "a", sequence: 3 });
});

test("closed runs are let go", () => {
  const rows = new HeldRows();
  for (let n = 0; n < 100; n++) {
    rows.merge(row(`run-${n}`, { sequence: n }));
    rows.merge({ id: `run-${n}`, sequence: n, status: "completed" });
  }
  rows.merge(row("open", {}));
  expect(rows.count).toBe(1);
});
