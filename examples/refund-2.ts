import { defineWorkflow } from "@millrace/engine";
import type { RefundInput } from "./refund.ts";

/** A later version that open runs can go on with: what is new comes behind what they wait for. */
export const refund2 = defineWorkflow(
  { type: "refund", version: "2", steps: ["check", "pay", "book", "tell"] },
  async (ctx, input: RefundInput) => {
    ctx.setAttributes({ customer: input.customer, amount: input.amount });
    await ctx.step("check", () => "checked");
    const clerk = await ctx.waitForSignal<string>("approve");
    const receipt = await ctx.step("pay", () => `paid ${input.amount} to ${input.customer}`);
    await ctx.step("book", () => "booked");
    await ctx.step("tell", () => `told ${input.customer}`);
    return { receipt, clerk };
  },
);

/** One that they cannot: it asks for another step where theirs is recorded. */
export const refund3 = defineWorkflow({ type: "refund", version: "3" }, async (ctx, input: RefundInput) => {
  ctx.setAttributes({ customer: input.customer, amount: input.amount });
  await ctx.step("verify", () => "verified");
  return ctx.waitForSignal<string>("approve");
});
