import { defineWorkflow, NonRetryableError } from "@millrace/engine";

export interface RefundInput {
  readonly customer: number;
  readonly amount: number;
}

/** Accounts that the bank has refused once: it takes them at the second try, as if a clerk had looked at it. */
const refused = new Set<number>();

function pay({ customer, amount }: RefundInput): string {
  if (amount <= 1_000 || refused.has(customer)) return `paid ${amount} to ${customer}`;
  refused.add(customer);
  throw new NonRetryableError(`the bank does not know account ${customer}`);
}

/** Something for operators to do: a clerk approves it, a question and a change go to its code, and the bank may say no. */
export const refund = defineWorkflow(
  { type: "refund", steps: ["check", "pay", "tell"] },
  async (ctx, input: RefundInput) => {
    let amount = input.amount;
    ctx.setAttributes({ customer: input.customer, amount });
    ctx.onQuery("amount", () => amount);
    ctx.onUpdate("lower", (to: number) => {
      if (to >= amount) throw new NonRetryableError(`${to} is not lower than ${amount}`);
      amount = to;
      ctx.setAttributes({ amount });
      return amount;
    });
    await ctx.step("check", () => "checked");
    const clerk = await ctx.waitForSignal<string>("approve");
    const receipt = await ctx.step("pay", () => pay({ customer: input.customer, amount }));
    await ctx.step("tell", () => `told ${input.customer}`);
    return { receipt, clerk };
  },
);
