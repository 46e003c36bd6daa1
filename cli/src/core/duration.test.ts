import { expect, test } from "vitest";
import { readDurationMs } from "./duration.ts";

test.each([
  ["500ms", 500],
  ["30s", 30_000],
  ["15m", 900_000],
  ["2h", 7_200_000],
  ["1d", 86_400_000],
])("%s is %d ms", (text, ms) => {
  expect(readDurationMs("--every", text)).toBe(ms);
});

test.each(["", "5", "m", "-5m", "1.5h", "5 m", "5w"])(
  "%j is refused, with the option and the units",
  (text) => {
    expect(() => readDurationMs("--every", text)).toThrow(/--every.*ms, s, m, h and d/);
  },
);
