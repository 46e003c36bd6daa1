import { expect, it } from "vitest";
import { testTotals } from "./test-totals.ts";

const report = { numPassedTests: 7, numFailedTests: 0, numPendingTests: 1, numTodoTests: 1, testResults: [] };

it("counts what ran", () => {
  expect(testTotals(report, 0)).toEqual({ passed: 7, failed: 0, skipped: 2 });
  expect(testTotals({ ...report, numFailedTests: 2 }, 1)).toEqual({ passed: 7, failed: 2, skipped: 2 });
});

it("counts each file that failed outside its tests as a failure, once", () => {
  const testResults = [
    { status: "failed", assertionResults: [] },
    { status: "failed", assertionResults: [{ status: "skipped" }] },
    { status: "failed", assertionResults: [{ status: "failed" }] },
    { status: "passed", assertionResults: [{ status: "passed" }] },
  ];
  expect(testTotals({ ...report, numFailedTests: 1, testResults }, 1).failed).toBe(3);
});

it("counts a run that ended badly without a failed test as a failure", () => {
  expect(testTotals(report, 1).failed).toBe(1);
});
