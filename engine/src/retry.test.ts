import { createMemoryLog, createMemoryServer } from "@millrace/event-log";
import { afterEach, describe, expect, test } from "vitest";
import { connect } from "./connect.ts";
import { retryDelayMs } from "./core/attempt.ts";
import { defineWorkflow } from "./definition.ts";
import { RetryAfterError } from "./failures.ts";
import type { Millrace } from "./millrace.ts";
import type { RetryPolicy } from "./retry.ts";

const open: Millrace[] = [];
afterEach(async () => {
  await Promise.all(open.splice(0).map((connection) => connection.close()));
});

/** Runs one step that throws `error`; gives what follows its first attempt, and how often it was called. */
async function firstFailure(error: Error, retry: RetryPolicy) {
  const millrace = await connect({ log: createMemoryLog() });
  open.push(millrace);
  let calls = 0;
  const failing = defineWorkflow({ type: "failing" }, (ctx) =>
    ctx.step(
      "x",
      () => {
        calls++;
        throw error;
      },
      { retry },
    ),
  );
  await millrace.worker({ workflows: [failing] });
  await millrace.start(failing, null, { id: "f" });
  await expect.poll(async () => (await millrace.log.load("f")).length).toBeGreaterThan(1);
  const second = (await millrace.log.load("f"))[1];
  if (second === undefined) throw new Error("The run has no second commit.");
  return { event: second.events[0], calls };
}

describe("a step's retry policy", () => {
  test("full jitter is uniform: the delay is the share of the ceiling that was drawn", () => {
    const policy = { initialDelayMs: 100, factor: 2 };
    expect([0, 0.25, 0.5, 0.75].map((random) => retryDelayMs(policy, 3, random))).toEqual([0, 100, 200, 300]);
    // It is the default, and "full" says no more than that.
    expect(retryDelayMs({ ...policy, jitter: "full" }, 3, 0.25)).toBe(100);
  });

  test("an error that nonRetryable names gets no further attempt; another one does", async () => {
    const retry: RetryPolicy = {
      initialDelayMs: 3_600_000,
      jitter: "none",
      nonRetryable: (error) => error instanceof RangeError,
    };
    const final = await firstFailure(new RangeError("never"), retry);
    expect(final).toMatchObject({ calls: 1, event: { type: "StepFailed", data: { attempt: 1 } } });
    const passing = await firstFailure(new TypeError("later"), retry);
    expect(passing).toMatchObject({ calls: 1, event: { type: "StepRetryScheduled", data: { attempt: 1 } } });
  });

  test("RetryAfterError: the next attempt is due after the delay that it names, not after the policy's", async () => {
    const asked = 3_600_000;
    const before = Date.now();
    const { event } = await firstFailure(new RetryAfterError("busy", asked), { initialDelayMs: 1 });
    const after = Date.now();
    if (event?.type !== "StepRetryScheduled") throw new Error(`A retry was expected, not ${event?.type}.`);
    expect(event.data.nextAttemptAt).toBeGreaterThanOrEqual(before + asked);
    expect(event.data.nextAttemptAt).toBeLessThanOrEqual(after + asked);
  });

  test("no attempt begins before it is due, also when another process has taken the run over", async () => {
    const server = createMemoryServer();
    const calledAt: number[] = [];
    const flaky = defineWorkflow({ type: "flaky" }, (ctx) =>
      ctx.step(
        "x",
        (step) => {
          calledAt.push(Date.now());
          if (step.attempt < 3) throw new Error("not yet");
        },
        { retry: { initialDelayMs: 150, factor: 1, jitter: "none" } },
      ),
    );
    const first = await connect({ log: createMemoryLog({ server }) });
    open.push(first);
    const worker = await first.worker({ workflows: [flaky] });
    const handle = await first.start(flaky, null, { id: "f" });
    // The first retry is waited for here, the second one elsewhere.
    await expect.poll(async () => (await dueTimes(first)).length).toBe(2);
    await worker.drain();
    const second = await connect({ log: createMemoryLog({ server }) });
    open.push(second);
    await second.worker({ workflows: [flaky] });
    await handle.result();
    const due = await dueTimes(first);
    expect(calledAt).toHaveLength(3);
    for (const [n, at] of due.entries()) expect(calledAt[n + 1]).toBeGreaterThanOrEqual(at);
  });
});

async function dueTimes(millrace: Millrace): Promise<number[]> {
  const events = (await millrace.log.load("f")).flatMap((commit) => commit.events);
  return events.flatMap((event) => (event.type === "StepRetryScheduled" ? [event.data.nextAttemptAt] : []));
}
