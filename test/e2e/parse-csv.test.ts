import { expect, it } from "vitest";
import { parseCsv } from "./parse-csv.ts";

it("reads plain fields, and both line ends", () => {
  expect(parseCsv("a,b\r\n1,2\n3,\n")).toEqual([
    { a: "1", b: "2" },
    { a: "3", b: "" },
  ]);
});

it("reads quoted fields with commas, quotes and line ends in them", () => {
  expect(parseCsv('a,b\n"1, ""one""","x\ny"\n"",2')).toEqual([
    { a: '1, "one"', b: "x\ny" },
    { a: "", b: "2" },
  ]);
});
