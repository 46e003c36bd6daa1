/**
 * The storms under which other engines diverged: many steps at once, many signals, signals against timers, loops that
 * wake themselves, races over all of them. Each is run by a worker that keeps it in memory, one that replays it after
 * every commit, one that parks it whenever it is idle, and a fresh one after every commit. Whatever the log decided,
 * code that is rebuilt at any commit of it takes the decisions that the code in memory took. `SEED=n` draws them anew.
 */
import { createMemoryLog, createMemoryServer, type MemoryServer } from "@millrace/event-log";
import { describe, expect, test } from "vitest";
import { checkReplay } from "./check-replay.ts";
import { connect } from "./connect.ts";
import type { WorkflowContext } from "./context.ts";
import { defineWorkflow, type WorkflowDefinition } from "./definition.ts";
import type { WorkflowHandle } from "./millrace.ts";
import { openLog, seeded, skippingClock, turns } from "./testing/simulation/simulate.ts";
import type { Worker, WorkerOptions } from "./worker.ts";

const firstSeed = Number(process.env["SEED"] ?? 1);

interface Storm {
  readonly code: (ctx: WorkflowContext, chance: () => number) => Promise<unknown>;
  readonly outside?: (handle: WorkflowHandle, chance: () => number, over: () => boolean) => Promise<void>;
  /** What must come of it, whatever won. */
  readonly check: (output: unknown) => void;
}

/** A step that ends after a few turns of the event loop: steps end in another order than they began. */
const step = (ctx: WorkflowContext, name: string, chance: () => number, value: number): Promise<number> => {
  const wait = chance() * 6;
  return ctx.step(name, async () => {
    await turns(wait);
    return value;
  });
};

async function sendSignals(handle: WorkflowHandle, count: number, chance: () => number): Promise<void> {
  for (let n = 0; n < count; n++) {
    if (chance() < 0.4) await turns(chance() * 8);
    await handle.signal("hook", n, { id: `hook-${n}` });
    // The same one again is none.
    if (chance() < 0.1) await handle.signal("hook", n, { id: `hook-${n}` });
  }
}

const storms: Readonly<Record<string, Storm>> = {
  "step storm": {
    async code(ctx, chance) {
      let sum = 0;
      for (let wave = 0; wave < 4; wave++) {
        const values = await Promise.all(
          Array.from({ length: 25 }, async (_, n) => {
            const first = await step(ctx, `s${n % 5}`, chance, n);
            return first + (await step(ctx, `t${n % 3}`, chance, 1));
          }),
        );
        sum += values.reduce((a, b) => a + b, 0);
      }
      return sum;
    },
    check: (output) => expect(output).toBe(4 * (300 + 25)),
  },
  "signal storm": {
    async code(ctx, chance) {
      const got: unknown[] = [];
      const consumer = async (): Promise<void> => {
        for (let n = 0; n < 30; n++) {
          got.push(await ctx.waitForSignal("hook"));
          if (chance() < 0.2) await step(ctx, "note", chance, n);
        }
      };
      await Promise.all([consumer(), consumer(), consumer()]);
      return got;
    },
    outside: (handle, chance) => sendSignals(handle, 90, chance),
    // Whoever was served first, each signal was taken once.
    check: (output) =>
      expect((output as number[]).toSorted((a, b) => a - b)).toEqual(Array.from({ length: 90 }, (_, n) => n)),
  },
  "signals against timers (hook-sleep)": {
    async code(ctx, chance) {
      const got: unknown[] = [];
      for (let late = 0; got.length < 30;) {
        const hook = ctx.waitForSignal<number>("hook");
        const timer = ctx.sleep(chance() < 0.5 ? 0 : 60_000);
        const winner = await ctx.race([
          hook.then((value) => ({ value })),
          timer.then(() => null),
          hook,
          timer,
        ]);
        if (typeof winner === "object" && winner !== null && "value" in winner) got.push(winner.value);
        else if (typeof winner === "number") got.push(winner);
        else late++;
        if (late > 200) got.push(await ctx.waitForSignal("hook"));
      }
      return got;
    },
    outside: (handle, chance) => sendSignals(handle, 30, chance),
    // In the order in which they came: what a race cancelled has taken nothing.
    check: (output) => expect(output).toEqual(Array.from({ length: 30 }, (_, n) => n)),
  },
  "wake loop": {
    async code(ctx, chance) {
      let level = 0;
      ctx.onUpdate("raise", async (by: number) => {
        if (chance() < 0.5) await ctx.sleep(0);
        return (level += by);
      });
      const wakes: number[] = [];
      const watcher = async (): Promise<void> => {
        for (let wanted = 1; wanted <= 12; wanted++) {
          await ctx.waitUntil(() => level >= wanted);
          wakes.push(wanted);
          await ctx.sleep(0);
        }
      };
      await Promise.all([watcher(), watcher()]);
      return wakes.length;
    },
    async outside(handle, chance, over) {
      for (let n = 0; n < 12 && !over(); n++) {
        await turns(chance() * 5);
        await handle.update("raise", 1, { id: `raise-${n}` });
      }
    },
    check: (output) => expect(output).toBe(24),
  },
  "race over a mix of all, signals and sleeps": {
    async code(ctx, chance) {
      const winners: string[] = [];
      for (let round = 0; round < 12; round++) {
        const winner = await Promise.race([
          Promise.all([step(ctx, "a", chance, 1), step(ctx, "b", chance, 2), ctx.sleep(0)]).then(() => "all"),
          ctx
            .waitForSignal("hook", { timeoutMs: 60_000 })
            .then((value) => (value === undefined ? "late" : "hook")),
          Promise.all([ctx.sleep(1), Promise.race([step(ctx, "c", chance, 3), ctx.sleep(60_000)])]).then(
            () => "nested",
          ),
          ctx.sleep(2).then(() => "sleep"),
        ]);
        winners.push(winner);
        await ctx.step(`after-${winner}`, () => round);
      }
      return winners;
    },
    outside: (handle, chance) => sendSignals(handle, 10, chance).catch(ignoreClosed),
    check: (output) => expect(output).toHaveLength(12),
  },
};

function ignoreClosed(error: unknown): void {
  if ((error as { readonly code?: string }).code !== "workflow_closed") throw error;
}

const modes: readonly (readonly [string, Partial<WorkerOptions> | "fresh"])[] = [
  ["kept in memory", {}],
  ["rebuilt after every commit", { replayAlways: true }],
  ["parked whenever idle", { runsMax: 0 }],
  ["by a fresh worker after every commit", "fresh"],
];

async function startWorker(
  server: MemoryServer,
  definition: WorkflowDefinition<null>,
  chance: () => number,
  options: Partial<WorkerOptions>,
): Promise<{ readonly worker: Worker; close(): Promise<void> }> {
  const alone = { leases: () => createMemoryLog().leases() };
  const connection = await connect({
    log: Object.assign(openLog(server), alone),
    clock: skippingClock(chance),
  });
  const worker = await connection.worker({ workflows: [definition], ...options });
  return {
    worker,
    async close() {
      await worker.drain({ deadlineMs: 0 });
      await connection.close();
    },
  };
}

async function runStorm(
  { code, outside }: Storm,
  mode: Partial<WorkerOptions> | "fresh",
  seed: number,
): Promise<unknown> {
  // The code's own choices are the same in every replay: drawn anew for each activation, from the same seed.
  const definition = defineWorkflow({ type: "storm" }, (ctx, _input: null) => code(ctx, seeded(seed)));
  const chance = seeded(seed + 1);
  const server = createMemoryServer();
  const client = await connect({ log: openLog(server), clock: skippingClock(chance) });
  let engine = await startWorker(server, definition, chance, mode === "fresh" ? {} : mode);
  try {
    const handle = await client.start(definition, null, { id: "storm" });
    const over = new AbortController();
    const result = handle.result().finally(() => over.abort());
    result.catch(() => undefined);
    const sent = outside?.(handle, chance, () => over.signal.aborted) ?? Promise.resolve();
    sent.catch(() => undefined);
    if (mode === "fresh") {
      for (let seen = 0; !over.signal.aborted;) {
        await turns(1);
        const { lastSequence } = await client.log.info();
        if (lastSequence === seen) continue;
        seen = lastSequence;
        await engine.close();
        engine = await startWorker(server, definition, chance, {});
        // It has to get on by at least one commit.
        while (!over.signal.aborted && (await client.log.info()).lastSequence === seen) await turns(1);
      }
    }
    const output = await result;
    await sent;
    const history = await client.log.load("storm");
    const types = history.flatMap(({ events }) => events.map(({ type }) => type));
    expect(types).not.toContain("WorkflowTurnFailed");
    // Rebuilt at every commit of its life.
    const every = Math.max(1, Math.floor(history.length / 60));
    for (let length = 1; length <= history.length; length += every) {
      const prefix = history.slice(0, length);
      expect(await checkReplay(definition, { workflowId: "storm", type: "storm" }, prefix)).toBeNull();
    }
    expect(await checkReplay(definition, { workflowId: "storm", type: "storm" }, history)).toBeNull();
    return output;
  } finally {
    await engine.close();
    await client.close();
  }
}

describe.each(modes)("%s", (_mode, options) => {
  test.each(Object.entries(storms))("%s", { timeout: 60_000 }, async (name, storm) => {
    for (let seed = firstSeed; seed < firstSeed + 3; seed++) {
      try {
        const output = await runStorm(storm, options, seed);
        expect(output).toBeDefined();
        storm.check(output);
      } catch (error) {
        throw new Error(`${name}, seed ${seed} (again: SEED=${seed}): ${String(error)}`, { cause: error });
      }
    }
  });
});
