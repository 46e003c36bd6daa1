import { defineWorkflow } from "@millrace/engine";

export const takeOverGroup = "take-over";
/** The shortest that there is, so that the benchmark does not wait for long. */
export const takeOverLeaseMs = 2_000;

/** At rest: its next owner must only know that it is there. */
export const waiting = defineWorkflow({ type: "waiting" }, async (ctx, n: number) => {
  const value = await ctx.step("first", () => n + 1);
  await ctx.waitForSignal("go");
  return value;
});

/** At work: its next owner must load it, replay it and run its step again. */
export const working = defineWorkflow({ type: "working" }, async (ctx, n: number) => {
  const value = await ctx.step("first", () => n + 1);
  await ctx.step(
    "second",
    ({ signal }) =>
      new Promise((_resolve, reject) =>
        signal.addEventListener("abort", () => reject(signal.reason as Error)),
      ),
  );
  return value;
});
