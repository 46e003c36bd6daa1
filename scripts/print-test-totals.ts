/** `node print-test-totals.js REPORT EXIT_CODE`: prints "passed failed skipped" for `.ci/run`. */
import { readFileSync } from "node:fs";
import { testTotals, type TestReport } from "./test-totals.ts";

const [reportPath, exitCode] = process.argv.slice(2);
if (reportPath === undefined || exitCode === undefined)
  throw new Error("Usage: print-test-totals REPORT EXIT_CODE");
const { passed, failed, skipped } = testTotals(
  JSON.parse(readFileSync(reportPath, "utf8")) as TestReport,
  Number(exitCode),
);
console.log(`${passed} ${failed} ${skipped}`);
