import { createMemoryLog } from "@millrace/event-log";
import { expect, test } from "vitest";
import { connect } from "./connect.ts";
import { defineWorkflow } from "./definition.ts";
import { CancelledError } from "./failures.ts";

test("a cancel aborts ctx.signal, also one that was taken before, with the reason that ctx calls reject with", async () => {
  const millrace = await connect({ log: createMemoryLog() });
  try {
    let signal: AbortSignal | undefined;
    let seen: unknown;
    const waiting = defineWorkflow({ type: "waiting" }, async (ctx) => {
      signal = ctx.signal;
      try {
        await ctx.step("long", () => new Promise(() => undefined));
      } catch (error) {
        seen = error;
        throw error;
      }
    });
    await millrace.worker({ workflows: [waiting] });
    const handle = await millrace.start(waiting, null);
    await expect.poll(() => signal?.aborted).toBe(false);
    await handle.cancel({ reason: "changed my mind" });
    await expect(handle.result()).rejects.toMatchObject({ code: "cancelled" });
    expect(signal?.aborted).toBe(true);
    expect(seen).toBeInstanceOf(CancelledError);
    expect(signal?.reason).toBe(seen);
  } finally {
    await millrace.close();
  }
});
