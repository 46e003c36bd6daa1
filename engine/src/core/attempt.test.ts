import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { afterFailedAttempt, retryDelayMs } from "./attempt.ts";

const failed = {
  name: "charge",
  occurrence: 1,
  error: { message: "no" },
  retryable: true,
  timedOut: false,
  retryAfterMs: null,
};

describe("retryDelayMs", () => {
  test("grows by the factor up to the limit, without jitter exactly", () => {
    const policy = { initialDelayMs: 100, factor: 3, maxDelayMs: 1_000, jitter: "none" } as const;
    expect([1, 2, 3, 4].map((attempt) => retryDelayMs(policy, attempt, 0.5))).toEqual([100, 300, 900, 1_000]);
  });

  test("full jitter lies in [0, delay), also for attempts beyond what a double can hold", () => {
    const random = fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true });
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 5_000 }), random, (attempt, roll) => {
        const delayMs = retryDelayMs({ maxDelayMs: 500 }, attempt, roll);
        expect(delayMs).toBeGreaterThanOrEqual(0);
        expect(delayMs).toBeLessThanOrEqual(500);
      }),
    );
  });
});

describe("afterFailedAttempt", () => {
  test("schedules while attempts are left, then fails for good", () => {
    const policy = { maxAttempts: 2, initialDelayMs: 10, jitter: "none" } as const;
    expect(afterFailedAttempt({ ...failed, attempt: 1 }, policy, 1_000, 0)).toMatchObject({
      type: "StepRetryScheduled",
      data: { attempt: 1, nextAttemptAt: 1_010 },
    });
    expect(afterFailedAttempt({ ...failed, attempt: 2 }, policy, 1_000, 0).type).toBe("StepFailed");
  });

  test("what is not retryable fails at once; a time limit says so; a step's own delay wins", () => {
    expect(afterFailedAttempt({ ...failed, attempt: 1, retryable: false }, {}, 0, 0).type).toBe("StepFailed");
    const timedOut = { ...failed, attempt: 3, timedOut: true };
    expect(afterFailedAttempt(timedOut, {}, 0, 0).type).toBe("StepTimedOut");
    expect(afterFailedAttempt({ ...failed, attempt: 1, retryAfterMs: 777 }, {}, 1, 0.9)).toMatchObject({
      data: { nextAttemptAt: 778 },
    });
  });
});
