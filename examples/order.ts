import { setTimeout as delay } from "node:timers/promises";
import { defineWorkflow, NonRetryableError } from "@millrace/engine";

export interface OrderInput {
  readonly item?: string;
  /** How long the shipping service takes, milliseconds. Default 50; over 1,000 it runs into the time limit. */
  readonly shippingMs?: number;
}

/**
 * What goes wrong and how it heals: the payment fails twice and works in the third attempt; shipping has a time limit,
 * and an order that cannot be shipped is refunded.
 */
export const order = defineWorkflow(
  { type: "order", steps: ["reserve", "charge", "ship"] },
  async (ctx, input: OrderInput | null) => {
    const { item = "book", shippingMs = 50 } = input ?? {};
    const reserved = await ctx.step("reserve", () => {
      // There is no use in asking again for what does not exist.
      if (item === "unobtainium") throw new NonRetryableError(`There is no ${item}.`);
      return { item, shelf: "7b" };
    });
    const payment = await ctx.step(
      "charge",
      ({ attempt, idempotencyKey }) => {
        if (attempt < 3) throw new Error(`The payment service is away (attempt ${attempt}).`);
        // The key is the same in every attempt, so a provider that knows it charges once.
        return { payment: idempotencyKey, attempts: attempt };
      },
      { retry: { maxAttempts: 5, initialDelayMs: 200, jitter: "none" } },
    );
    try {
      const ship = ({ signal }: { readonly signal: AbortSignal }) =>
        delay(shippingMs, { parcel: `${reserved.shelf}-1` }, { signal });
      const shipped = await ctx.step("ship", ship, { timeoutMs: 1_000, retry: { maxAttempts: 1 } });
      return { status: "shipped", ...payment, ...shipped };
    } catch (error) {
      if (ctx.signal.aborted) throw error;
      await ctx.step("refund", () => ({ refunded: payment.payment }));
      return { status: "refunded", ...payment };
    }
  },
);
