/** What the killed engine runs. Outputs follow from the input alone, so a test knows what is right. */
import { appendFileSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import { defineWorkflow, type StepContext } from "@millrace/engine";

export interface ChaosInput {
  readonly value: number;
  /** Of the step at this place: how many attempts fail first. Its length is the number of steps. */
  readonly failures: readonly number[];
  /** How long each attempt works. */
  readonly stepMs: number;
}

/** Every call of a step function leaves a line here, so that what ran twice can be counted. */
const journalFile = process.env["MILLRACE_TEST_JOURNAL"];

const retry = { maxAttempts: 5, initialDelayMs: 20, maxDelayMs: 100 };

function note({ idempotencyKey, attempt }: StepContext): void {
  if (journalFile !== undefined) appendFileSync(journalFile, `${idempotencyKey} ${attempt}\n`);
}

function work(input: ChaosInput, place: number, value: number): (step: StepContext) => Promise<number> {
  return async (step) => {
    note(step);
    await delay(input.stepMs, undefined, { signal: step.signal });
    if (step.attempt <= (input.failures[place] ?? 0)) throw new Error(`attempt ${step.attempt} fails`);
    return stepResult(place, value);
  };
}

function stepResult(place: number, value: number): number {
  return (value * 31 + place + 7) % 1_000_003;
}

/** Three to five steps, one after the other. */
export const chain = defineWorkflow({ type: "chain" }, async (ctx, input: ChaosInput) => {
  let { value } = input;
  for (const place of input.failures.keys()) {
    value = await ctx.step(`step-${place + 1}`, work(input, place, value), { retry });
  }
  return { value };
});

/** One step, then several at once, then one. */
export const fan = defineWorkflow({ type: "fan" }, async (ctx, input: ChaosInput) => {
  const last = input.failures.length - 1;
  const first = await ctx.step("split", work(input, 0, input.value), { retry });
  const parts = await Promise.all(
    input.failures.slice(1, last).map((_, part) => ctx.step("part", work(input, part + 1, first), { retry })),
  );
  const sum = parts.reduce((total, part) => total + part, 0);
  return { value: await ctx.step("join", work(input, last, sum), { retry }) };
});

/** Its second step never ends by itself: the run ends by being cancelled. */
export const hold = defineWorkflow({ type: "hold" }, async (ctx, input: ChaosInput) => {
  await ctx.step("prepare", work(input, 0, input.value), { retry });
  return await ctx.step("wait", async (step) => {
    note(step);
    return await delay(3_600_000, null, { signal: step.signal });
  });
});

/** The names of the steps as the log holds them, and the output, of a run that completes. */
export function expectedOf(
  type: string,
  input: ChaosInput,
): { readonly steps: string[]; readonly value: number } {
  const places = [...input.failures.keys()];
  const last = places.length - 1;
  if (type === "chain") {
    const steps = places.map((place) => `step-${place + 1}#1`);
    return { steps, value: places.reduce((value, place) => stepResult(place, value), input.value) };
  }
  const first = stepResult(0, input.value);
  const parts = places.slice(1, last).map((place) => stepResult(place, first));
  const sum = parts.reduce((total, part) => total + part, 0);
  const steps = ["split#1", ...parts.map((_, part) => `part#${part + 1}`), "join#1"];
  return { steps, value: stepResult(last, sum) };
}
