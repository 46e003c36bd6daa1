import { describe, expect, it } from "vitest";
import { afterEnd, failuresMax, healthyMs, initialRestart } from "./restart-policy.ts";

function delays(lives: readonly number[]): (number | null)[] {
  let state = initialRestart;
  return lives.map((livedMs) => {
    const restart = afterEnd(state, livedMs);
    state = restart.state;
    return restart.delayMs;
  });
}

describe("afterEnd", () => {
  it("doubles the delay to its bound, then gives up", () => {
    expect(delays(Array.from({ length: failuresMax + 1 }, () => 0))).toEqual([
      100,
      200,
      400,
      800,
      1_600,
      3_200,
      6_400,
      10_000,
      10_000,
      10_000,
      null,
    ]);
  });

  it("begins anew after a healthy life", () => {
    expect(delays([0, 0, healthyMs, 0])).toEqual([100, 200, 100, 200]);
    expect(delays([0, 0, healthyMs - 1])).toEqual([100, 200, 400]);
  });
});
