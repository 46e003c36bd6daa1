import { createMemoryLog } from "@millrace/event-log";
import { expect, test } from "vitest";
import { connect } from "./connect.ts";
import { defineWorkflow } from "./definition.ts";

test("runsMax: no more runs are open at once, the others wait in order and get their turn", async () => {
  const millrace = await connect({ log: createMemoryLog() });
  try {
    const begun: number[] = [];
    const gates = new Map<number, () => void>();
    const gated = defineWorkflow({ type: "gated" }, (ctx, input: number) =>
      ctx.step("wait", async () => {
        begun.push(input);
        await new Promise<void>((resolve) => gates.set(input, resolve));
        return input;
      }),
    );
    const worker = await millrace.worker({ workflows: [gated], runsMax: 2 });
    const handles = [];
    for (const n of [1, 2, 3, 4]) handles.push(await millrace.start(gated, n, { id: `run-${n}` }));
    await expect.poll(() => worker.stats()).toMatchObject({ runs: 2, waiting: 2 });
    for (const n of [1, 2, 3, 4]) {
      await expect.poll(() => gates.has(n)).toBe(true);
      // Only as many as have their turn: the one in hand and the one after it.
      expect(begun).toEqual([1, 2, 3, 4].slice(0, Math.max(2, begun.length)));
      expect(worker.stats().runs).toBeLessThanOrEqual(2);
      gates.get(n)?.();
      expect(await handles[n - 1]?.result()).toBe(n);
    }
    await expect.poll(() => worker.stats()).toMatchObject({ runs: 0, waiting: 0 });
  } finally {
    await millrace.close();
  }
});
