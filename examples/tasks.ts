/**
 * Tasks in one program: an owner of runs, a worker of a queue that could as well be another process, a dead letter and
 * its redrive. Needs a broker at MILLRACE_NATS_URL (default nats://127.0.0.1:4222).
 */
import { connect, defineWorkflow, NonRetryableError, type TaskContext } from "@millrace/engine";

interface Order {
  readonly card: string;
  readonly amount: number;
}

const order = defineWorkflow({ type: "card-order" }, (ctx, input: Order) =>
  ctx.task<{ readonly paid: number }>("charge", input, {
    queue: "cards",
    priority: input.amount > 1_000 ? 2 : 1,
    startToCloseMs: 10_000,
    heartbeatMs: 2_000,
  }),
);

let blocked = new Set(["4000"]);

function charge({ input, attempt, idempotencyKey, heartbeat }: TaskContext<Order>): {
  readonly paid: number;
} {
  heartbeat({ stage: "asking the bank" });
  if (blocked.has(input.card)) throw new NonRetryableError(`Card ${input.card} is blocked.`);
  if (attempt === 1) throw new Error("The bank is away.");
  console.log(`charged ${input.amount} for ${idempotencyKey} in attempt ${attempt}`);
  return { paid: input.amount };
}

const millrace = await connect({ servers: process.env["MILLRACE_NATS_URL"] ?? "nats://127.0.0.1:4222" });
await millrace.worker({ workflows: [order] });
await millrace.worker({ tasks: { charge }, queues: ["cards"], taskConcurrency: 20 });
// Over all workers of the queue, however many there are.
await millrace.tasks.setLimits("cards", { concurrency: 50, ratePerS: 100, burst: null });

const good = await millrace.start(order, { card: "5555", amount: 42 }, { id: "good" });
console.log("good:", await good.result());

const bad = await millrace.start(order, { card: "4000", amount: 7 }, { id: "bad" });
await bad.result().catch((error: unknown) => console.log("bad:", String(error)));
let letters = await millrace.tasks.deadLetters("cards");
// A letter is filed right behind the run's end, and may come a moment after its result.
while (letters.length === 0) letters = await millrace.tasks.deadLetters("cards");
for (const { task, reason, attempts } of letters)
  console.log(`dead letter: ${task.name} of ${task.workflowId}, ${attempts} attempt, ${reason}`);

blocked = new Set();
const { redriven } = await millrace.tasks.redrive("cards", { reason: "unblocked", by: "ada" });
console.log("redriven:", redriven.map(({ workflowId }) => workflowId).join(", "));
console.log("bad:", await bad.result());
await millrace.close();
