import { expect, test } from "vitest";
import { askedDelayMs, backoffDelayMs } from "./backoff.ts";

const bounds = { minMs: 500, maxMs: 30_000 };

test("the ceiling doubles from 0.5 s to 30 s, and the jitter is full", () => {
  const ceilings = [0, 1, 2, 3, 4, 5, 6, 7, 1_000].map((failures) =>
    backoffDelayMs(failures, bounds, 0.999_999_9),
  );
  expect(ceilings).toEqual([500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000]);
  expect(backoffDelayMs(6, bounds, 0)).toBe(0);
  expect(backoffDelayMs(6, bounds, 0.5)).toBe(15_000);
});

test("an asked delay lies within the server's bounds, which are held to five minutes and to sense", () => {
  expect(askedDelayMs({ minMs: 500, maxMs: 15_000 }, 0)).toBe(500);
  expect(askedDelayMs({ minMs: 500, maxMs: 15_000 }, 0.5)).toBe(7_750);
  expect(askedDelayMs({ minMs: 900, maxMs: 100 }, 0.5)).toBe(900);
  expect(askedDelayMs({ minMs: 86_400_000, maxMs: 86_400_000 }, 0.5)).toBe(300_000);
});
