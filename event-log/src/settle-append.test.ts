import { MillraceError } from "@millrace/schemas";
import { expect, test } from "vitest";
import { startOf } from "./conformance/sample-append.ts";
import { settleAppend, type AppendTransport } from "./settle-append.ts";

/** How long an append waits between its tries when the log is busy throughout and the dice show `random`. */
async function waitsOf(random: number): Promise<number[]> {
  const busy = new MillraceError("unavailable", "The log cannot tell now.");
  const transport: AppendTransport = {
    send: () => Promise.resolve({ kind: "busy", error: busy }),
    lastHead: () => Promise.resolve(null),
    find: () => Promise.resolve(null),
  };
  const waits: number[] = [];
  let now = 0;
  const policy = {
    budgetMs: 10_000,
    now: () => now,
    random: () => random,
    wait: (ms: number) => {
      waits.push(ms);
      now += ms;
      return Promise.resolve();
    },
  };
  await expect(settleAppend(transport, policy, startOf("order-1"))).rejects.toBe(busy);
  return waits;
}

test("I4: the waits double to a limit, and jitter takes up to half, so that writers do not come back together", async () => {
  const longest = await waitsOf(1);
  expect(longest.slice(0, 9)).toEqual([10, 20, 40, 80, 160, 320, 640, 1_000, 1_000]);
  const shortest = await waitsOf(0);
  expect(shortest.slice(0, 9)).toEqual(longest.slice(0, 9).map((ms) => ms / 2));
  // It ends within the budget.
  for (const waits of [longest, shortest])
    expect(waits.reduce((sum, ms) => sum + ms)).toBeLessThanOrEqual(10_000);
});
