import { defineWorkflow } from "@millrace/engine";

export interface PaymentInput {
  readonly amount: number;
  /** How long the worker works: so many steps, each so long. */
  readonly steps?: number;
  readonly stepMs?: number;
}

/** A run whose one step is done by a worker of the queue `payments`, in whatever language: see task-worker.py, task-worker.sh. */
export const payment = defineWorkflow({ type: "payment", steps: ["charge"] }, (ctx, input: PaymentInput) =>
  ctx.task<{ readonly paid: number }>("charge", input, {
    queue: "payments",
    retry: { maxAttempts: 3, initialDelayMs: 200 },
  }),
);
