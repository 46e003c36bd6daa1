import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { exitCodeMeanings, exitCodeOf, exitCodes } from "./exit-code.ts";

describe("exit codes", () => {
  it("tells classes of errors apart", () => {
    expect(
      (
        [
          "invalid_id",
          "workflow_not_found",
          "workflow_exists",
          "unavailable",
          "port_in_use",
          "cancelled",
          "internal",
        ] as const
      ).map(exitCodeOf),
    ).toEqual([2, 3, 4, 5, 6, 7, 1]);
  });

  it("documents each in the README as in --help", () => {
    const readme = readFileSync(new URL("../../README.md", import.meta.url), "utf8");
    const rows = [...readme.matchAll(/^\| ([\d, ]+?) +\| (.+?) +\|$/gm)].map(([, code, meaning]) => [
      code,
      meaning?.replaceAll("`", ""),
    ]);
    expect(rows).toEqual(exitCodeMeanings.map(([code, meaning]) => [code, meaning]));
    const documented = exitCodeMeanings.map(([code]) => code);
    for (const code of Object.values(exitCodes)) expect(documented).toContain(String(code));
  });
});
