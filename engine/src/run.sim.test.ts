/**
 * Random programs against a plain in-memory oracle, while appends conflict, acknowledgements get lost, workers are
 * killed in mid-run and zombies go on beside their successors. Invariants R1 to R4 of `run.ts`, A1 to A3 of
 * `activation.ts`, W1 of `worker.ts`. `fast-check` prints seed and path of a failing program.
 */
import { createMemoryLog, createMemoryServer, type EventLog, type MemoryServer } from "@millrace/event-log";
import { MillraceError, stepKey } from "@millrace/schemas";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { connect } from "./connect.ts";
import type { WorkflowContext } from "./context.ts";
import { defineWorkflow, type WorkflowDefinition } from "./definition.ts";
import type { Clock } from "./due-timers.ts";
import { silentLogger } from "./logger.ts";
import type { Worker } from "./worker.ts";

type Program =
  | { readonly op: "step"; readonly name: string; readonly fails: number; readonly value: number }
  | { readonly op: "doomed"; readonly name: string }
  | { readonly op: "progress" }
  | { readonly op: "now" }
  | { readonly op: "random" }
  | { readonly op: "seq" | "all" | "settled"; readonly parts: readonly Program[] }
  | { readonly op: "race"; readonly name: string };

const name = fc.constantFrom("a", "b", "c", "d");
const { program } = fc.letrec<{ program: Program }>((tie) => ({
  program: fc.oneof(
    { depthSize: "small", withCrossShrink: true },
    fc.record({
      op: fc.constant("step" as const),
      name,
      fails: fc.constantFrom(0, 0, 0, 1, 2),
      value: fc.nat(9),
    }),
    fc.record({ op: fc.constant("doomed" as const), name }),
    fc.record({ op: fc.constantFrom("progress" as const, "now" as const, "random" as const) }),
    fc.record({ op: fc.constant("race" as const), name }),
    fc.record({
      op: fc.constantFrom("seq" as const, "all" as const, "settled" as const),
      parts: fc.array(tie("program"), { minLength: 1, maxLength: 4 }),
    }),
  ),
}));

const retry = { maxAttempts: 3, initialDelayMs: 0, jitter: "none" } as const;

/** The program as workflow code. Every value that it sees goes into its output. */
async function interpret(ctx: WorkflowContext, node: Program): Promise<unknown> {
  switch (node.op) {
    case "step":
      return ctx.step(
        node.name,
        async ({ attempt }) => {
          await new Promise((resolve) => setImmediate(resolve));
          if (attempt <= node.fails) throw new Error(`attempt ${attempt} of ${node.name}`);
          return node.value;
        },
        { retry },
      );
    case "doomed":
      return ctx
        .step(node.name, () => Promise.reject(new Error("doomed")), { retry: { ...retry, maxAttempts: 2 } })
        .catch((error: unknown) => (error as Error).message.replace(/^Step \S+ /, ""));
    case "progress":
      ctx.progress({ message: "on" });
      return "progress";
    case "now":
      return typeof ctx.now();
    case "random":
      return typeof ctx.random() === typeof ctx.uuid().length;
    case "seq": {
      const values = [];
      for (const part of node.parts) values.push(await interpret(ctx, part));
      return values;
    }
    case "all":
      return Promise.all(node.parts.map((part) => interpret(ctx, part)));
    case "settled":
      return (await Promise.allSettled(node.parts.map((part) => interpret(ctx, part)))).map(
        (end) => end.status,
      );
    case "race": {
      const winner = await Promise.race([
        ctx.step(node.name, () => "one", { retry }),
        ctx.step(node.name, () => "two", { retry }),
      ]);
      // Which one wins is decided once, by the log; the code that follows depends on it.
      await ctx.step(`after-${winner}`, () => winner);
      return "raced";
    }
  }
}

/** What the program must give, worked out without an engine. */
function oracle(node: Program): unknown {
  switch (node.op) {
    case "step":
      return node.value;
    case "doomed":
      return "failed after 2 attempts: doomed";
    case "progress":
      return "progress";
    case "now":
      return "number";
    case "random":
      return true;
    case "seq":
    case "all":
      return node.parts.map(oracle);
    case "settled":
      return node.parts.map(() => "fulfilled");
    case "race":
      return "raced";
  }
}

/** Mulberry32: fast-check's own numbers prefer the extremes, and a run that always conflicts never ends. */
function seeded(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Appends that conflict for no reason (so that the run is rebuilt) and acknowledgements that get lost. */
function troubled(log: EventLog, chance: () => number): EventLog {
  return Object.assign(Object.create(log) as EventLog, {
    append: async (request: Parameters<EventLog["append"]>[0]) => {
      const roll = chance();
      if (roll < 0.3 && typeof request.expected === "number") {
        throw new MillraceError("conflict", "simulated", {
          details: { expected: request.expected, actual: -1 },
        });
      }
      const result = await log.append(request);
      if (roll < 0.4) throw new MillraceError("append_in_doubt", "simulated lost acknowledgement");
      return result;
    },
  });
}

/** A log whose methods keep their own `this`: the memory log is a class with private fields. */
function openLog(server: MemoryServer): EventLog {
  const log = createMemoryLog({ server });
  return new Proxy(log, {
    get: (target, key) => {
      const value: unknown = Reflect.get(target, key, target);
      return typeof value === "function" ? (value.bind(target) as unknown) : value;
    },
  });
}

/** What workers logged as errors, for the message of a failing program. */
const troubles: string[] = [];

/** Time passes only when somebody waits for it. */
function skippingClock(): Clock {
  let skippedMs = 0;
  return {
    now: () => Date.now() + skippedMs,
    wake(delayMs, callback) {
      const immediate = setImmediate(() => {
        skippedMs += delayMs;
        callback();
      });
      return () => clearImmediate(immediate);
    },
  };
}

async function startWorker(
  server: MemoryServer,
  definition: WorkflowDefinition<null>,
  chance: () => number,
): Promise<Worker> {
  // Each alone in a fleet of its own, so that all of them run everything beside each other.
  const alone = { leases: () => createMemoryLog().leases() };
  const connection = await connect({
    log: Object.assign(troubled(openLog(server), chance), alone),
    random: chance,
    clock: skippingClock(),
    logger: { ...silentLogger, error: (_fields, message) => troubles.push(message) },
  });
  return connection.worker({ workflows: [definition], concurrency: 4 });
}

/** A run that never ends fails with its history, instead of a bare time-out of the test. */
async function within<T>(limitMs: number, result: Promise<T>, log: EventLog): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => {
      void log.load("run").then((history) => {
        const events = history.flatMap((commit) =>
          commit.events.map((event) => `${commit.sequence} ${JSON.stringify(event)}`),
        );
        reject(
          new Error(
            `The run did not end within ${limitMs} ms:\n${[...events, ...troubles.splice(0)].join("\n")}`,
          ),
        );
      }, reject);
    }, limitMs);
  });
  return Promise.race([result, late]).finally(() => clearTimeout(timer));
}

describe("random programs", () => {
  test.each([
    ["undisturbed", 0],
    ["with conflicts, lost acknowledgements, kills and zombies", 1],
  ])(
    "%s: right result, each step recorded once, replay equals live",
    { timeout: 60_000 },
    async (_title, trouble) => {
      await fc.assert(
        fc.asyncProperty(
          fc.array(program, { minLength: 1, maxLength: 4 }),
          fc.noShrink(fc.nat()),
          async (parts, seed) => {
            const roll = seeded(seed);
            const chance = (): number => (trouble === 0 ? 0.999 : roll());
            const whole: Program = { op: "seq", parts };
            const definition = defineWorkflow({ type: "program" }, (ctx, _input: null) =>
              interpret(ctx, whole),
            );
            troubles.length = 0;
            const server = createMemoryServer();
            const client = await connect({ log: openLog(server) });
            const handle = await client.start(definition, null, { id: "run" });
            const result = handle.result();
            const workers = [await startWorker(server, definition, chance)];
            if (trouble === 1) {
              for (let kill = 0; kill < 3; kill++) {
                for (let wait = Math.floor(chance() * 8); wait > 0; wait--)
                  await new Promise((resolve) => setImmediate(resolve));
                // Half of the time the old one goes on as a zombie beside the new one.
                if (chance() < 0.5) await workers.at(-1)?.drain({ deadlineMs: 0 });
                workers.push(await startWorker(server, definition, chance));
              }
            }
            expect(await within(5_000, result, client.log)).toEqual(oracle(whole));
            await Promise.all(workers.map((worker) => worker.drain({ deadlineMs: 0 })));

            const history = await client.log.load("run");
            const final = history
              .flatMap((commit) => commit.events)
              .flatMap((event) =>
                event.type === "StepCompleted" || event.type === "StepFailed"
                  ? [stepKey(event.data.name, event.data.occurrence)]
                  : [],
              );
            expect(final.toSorted()).toEqual([...new Set(final)].toSorted());

            // Replay: a worker that sees only a prefix of the history must come to the same end.
            for (const length of [1, Math.ceil(history.length / 2), history.length - 1]) {
              const again = createMemoryServer();
              const copy = await connect({ log: openLog(again) });
              let expected = 0;
              for (const { commitId, events } of history.slice(0, length)) {
                const condition = "running" as const;
                const { sequence } = await copy.log.append({
                  commitId,
                  workflowId: "run",
                  type: "program",
                  expected: expected === 0 ? "new" : expected,
                  events,
                  condition,
                });
                expected = sequence;
              }
              const worker = await startWorker(again, definition, () => 0.999);
              expect(await within(5_000, copy.handle("run").result(), copy.log)).toEqual(oracle(whole));
              await worker.drain({ deadlineMs: 0 });
              const types = (await copy.log.load("run")).flatMap((commit) =>
                commit.events.map((event) => event.type),
              );
              expect(types).not.toContain("WorkflowTurnFailed");
            }
          },
        ),
        { numRuns: trouble === 0 ? 60 : 150, endOnFailure: true },
      );
    },
  );
});
