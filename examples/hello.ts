import { setTimeout as delay } from "node:timers/promises";
import { defineWorkflow } from "@millrace/engine";

export interface HelloInput {
  readonly name?: string;
  /** How long each step takes, so that there is progress to see. Default 400. */
  readonly stepMs?: number;
}

/** The smallest workflow that shows something: three steps in a row, with a word of progress before each. */
export const hello = defineWorkflow(
  { type: "hello", steps: ["look up", "compose", "deliver"] },
  async (ctx, input: HelloInput | null) => {
    const { name = "world", stepMs = 400 } = input ?? {};
    // Only inside a step may real time pass: workflow code itself is run again when the run is rebuilt.
    const work =
      <T>(value: T) =>
      ({ signal }: { readonly signal: AbortSignal }) =>
        delay(stepMs, value, { signal });

    ctx.progress({ current: 0, message: `Looking up ${name}` });
    const person = await ctx.step("look up", work({ name, language: "en" }));
    ctx.progress({ current: 1, message: "Composing" });
    const greeting = await ctx.step("compose", work(`Hello ${person.name}`));
    ctx.progress({ current: 2, message: "Delivering" });
    const deliveredAt = await ctx.step("deliver", work(ctx.now()));
    return { greeting, deliveredAt };
  },
);
