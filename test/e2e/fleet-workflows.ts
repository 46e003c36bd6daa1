/** What the engines of the fleet run. Every call of a step function leaves a line that says who made it, and when. */
import { appendFileSync, readFileSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import { defineWorkflow, type StepContext } from "@millrace/engine";

export interface RelayInput {
  readonly steps: number;
  readonly stepMs: number;
}

export interface JournalLine {
  readonly pid: number;
  readonly atMs: number;
  /** `<workflow id>/<run>/<step>#<occurrence>`. */
  readonly key: string;
}

const journalFile = process.env["MILLRACE_TEST_JOURNAL"];

function note({ idempotencyKey }: StepContext): void {
  if (journalFile !== undefined)
    appendFileSync(journalFile, `${process.pid} ${Date.now()} ${idempotencyKey}\n`);
}

export function readJournal(path: string): JournalLine[] {
  return readFileSync(path, "utf8")
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => {
      const [pid = "", atMs = "", key = ""] = line.split(" ");
      return { pid: Number(pid), atMs: Number(atMs), key };
    });
}

/** One step after the other; gives the processes that ran them. */
export const relay = defineWorkflow({ type: "relay" }, async (ctx, input: RelayInput) => {
  const pids: number[] = [];
  for (let step = 0; step < input.steps; step++) {
    const pid = await ctx.step("leg", async (context) => {
      note(context);
      await delay(input.stepMs, undefined, { signal: context.signal });
      return process.pid;
    });
    pids.push(pid);
  }
  return { pids };
});
