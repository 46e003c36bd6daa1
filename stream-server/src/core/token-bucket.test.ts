import { expect, it } from "vitest";
import { TokenBucket } from "./token-bucket.ts";

const taken = (bucket: TokenBucket, now: number): number => {
  let count = 0;
  while (bucket.take(now)) count++;
  return count;
};

it("gives its burst at once, then so many per second, and saves up no more than the burst", () => {
  const bucket = new TokenBucket(10, 3, 1_000);
  expect(taken(bucket, 1_000)).toBe(3);
  expect(taken(bucket, 1_099)).toBe(0);
  expect(taken(bucket, 1_200)).toBe(2);
  expect(taken(bucket, 60_000)).toBe(3);
});

it("a clock that goes back gives nothing, and takes nothing away", () => {
  const bucket = new TokenBucket(10, 1, 1_000);
  expect(taken(bucket, 1_000)).toBe(1);
  expect(taken(bucket, 0)).toBe(0);
  expect(taken(bucket, 1_100)).toBe(1);
});
