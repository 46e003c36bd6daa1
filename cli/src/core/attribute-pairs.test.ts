import { expect, test } from "vitest";
import { readAttributes, readWanted } from "./attribute-pairs.ts";

test("values are read as people mean them", () => {
  const pairs = ["n=7", "neg=-1.5", "vip=true", 'text="7"', "code=007", "big=12345678901234567890", "e=1e3"];
  expect(
    readAttributes("--attr", [...pairs, "due=2026-01-01T00:00:00.000Z", "x=a=b", "none=", "o={}", "l=null"]),
  ).toEqual({
    n: 7,
    neg: -1.5,
    vip: true,
    text: "7",
    code: "007",
    big: "12345678901234567890",
    e: "1e3",
    due: "2026-01-01T00:00:00.000Z",
    x: "a=b",
    none: "",
    o: "{}",
    l: "null",
  });
});

test("a key given several times wants one of its values", () => {
  expect(readWanted("--attr", ["a=1", "b=x", "a=2"])).toEqual({ a: [1, 2], b: ["x"] });
});

test.each(["customer", "=7", ""])("refuses %j", (pair) => {
  expect(() => readAttributes("--attr", [pair])).toThrow(/is not key=value/);
});
