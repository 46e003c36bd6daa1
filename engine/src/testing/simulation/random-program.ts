/** Programs over all of `ctx`, as data: how they are drawn, how workflow code carries them out, and what must come of it. */
import fc from "fast-check";
import type { WorkflowContext } from "../../context.ts";
import { defineWorkflow, type WorkflowDefinition } from "../../definition.ts";
import { NonRetryableError } from "../../failures.ts";

export type Node =
  | { readonly op: "step" | "task"; readonly name: string; readonly fails: number; readonly value: number }
  | { readonly op: "doomed" | "race" | "ctxRace" | "compensate"; readonly name: string }
  | { readonly op: "progress" | "now" | "random" | "patched" | "attributes" }
  | { readonly op: "sleep"; readonly ms: number }
  | { readonly op: "signal"; readonly name: string; readonly timeoutMs: number | null }
  | { readonly op: "until"; readonly bumps: number; readonly timeoutMs: number | null }
  | { readonly op: "child"; readonly fails: boolean; readonly part: Node }
  | { readonly op: "scope"; readonly timeoutMs: number; readonly part: Node }
  | { readonly op: "shield"; readonly part: Node }
  | { readonly op: "seq" | "all" | "settled"; readonly parts: readonly Node[] };

export interface Program {
  readonly whole: Node;
  /** Run numbers: all but the last one end with continue-as-new. */
  readonly rounds: number;
  readonly end: "return" | "fail";
  readonly isCancelled: boolean;
  readonly isPaused: boolean;
}

const name = fc.constantFrom("a", "b", "c");
const ms = fc.constantFrom(0, 1, 1_000, 86_400_000);
const timeoutMs = fc.option(ms, { nil: null });
const fails = fc.constantFrom(0, 0, 0, 1, 2);
const simple = [
  fc.record({
    op: fc.constantFrom("step" as const, "step" as const, "task" as const),
    name,
    fails,
    value: fc.nat(9),
  }),
  fc.record({ op: fc.constant("sleep" as const), ms }),
  fc.record({ op: fc.constantFrom("doomed" as const, "compensate" as const), name }),
];

const { node: anyNode } = fc.letrec<{ node: Node; plain: Node }>((tie) => ({
  /** What a child is made of: nothing that needs somebody outside. */
  plain: fc.oneof(
    { depthSize: "small", withCrossShrink: true },
    ...simple,
    fc.record({
      op: fc.constantFrom("seq" as const, "all" as const),
      parts: fc.array(tie("plain"), { minLength: 1, maxLength: 3 }),
    }),
  ),
  node: fc.oneof(
    { depthSize: "small", withCrossShrink: true },
    ...simple,
    fc.record({ op: fc.constantFrom("progress" as const, "now" as const, "random" as const) }),
    fc.record({ op: fc.constantFrom("patched" as const, "attributes" as const) }),
    fc.record({ op: fc.constant("signal" as const), name, timeoutMs }),
    fc.record({ op: fc.constant("until" as const), bumps: fc.integer({ min: 1, max: 3 }), timeoutMs }),
    fc.record({ op: fc.constantFrom("race" as const, "ctxRace" as const), name }),
    fc.record({ op: fc.constant("child" as const), fails: fc.boolean(), part: tie("plain") }),
    fc.record({ op: fc.constant("scope" as const), timeoutMs: ms, part: tie("node") }),
    fc.record({ op: fc.constant("shield" as const), part: tie("node") }),
    fc.record({
      op: fc.constantFrom("seq" as const, "all" as const, "settled" as const),
      parts: fc.array(tie("node"), { minLength: 1, maxLength: 3 }),
    }),
  ),
}));

export const program: fc.Arbitrary<Program> = fc.record({
  whole: fc.record({
    op: fc.constantFrom("seq" as const, "all" as const),
    parts: fc.array(anyNode, { minLength: 1, maxLength: 4 }),
  }),
  rounds: fc.constantFrom(1, 1, 1, 2),
  end: fc.constantFrom("return" as const, "return" as const, "fail" as const),
  isCancelled: fc.constantFrom(false, false, false, true),
  isPaused: fc.constantFrom(false, false, true),
});

const retry = { maxAttempts: 3, initialDelayMs: 1, jitter: "none" } as const;
/** Each worker that is killed may cost a task an attempt. */
const patient = { ...retry, maxAttempts: 10 };
const hour = 3_600_000;

export const childDefinition: WorkflowDefinition<{ readonly part: Node; readonly fails: boolean }> =
  defineWorkflow(
    { type: "sim-child" },
    async (ctx, input: { readonly part: Node; readonly fails: boolean }) => {
      const value = await carryOut(ctx, input.part, { bumps: 0 });
      if (input.fails) throw new NonRetryableError("planned");
      return value;
    },
  );

export function definitionOf(of: Program): WorkflowDefinition<{ readonly round: number }> {
  return defineWorkflow({ type: "sim" }, async (ctx, { round }: { readonly round: number }) => {
    const seen = { bumps: 0 };
    ctx.onQuery("bumps", () => seen.bumps);
    ctx.onUpdate(
      "bump",
      async (by: number) => {
        if (by % 2 === 0) await ctx.step("bump", () => by);
        return ++seen.bumps;
      },
      {
        validate: (by: number) => {
          if (by < 0) throw new Error("only upwards");
        },
      },
    );
    const value = await carryOut(ctx, of.whole, seen);
    if (round < of.rounds) return ctx.continueAsNew({ round: round + 1 });
    if (of.end === "fail") throw new NonRetryableError("planned");
    return value;
  });
}

export interface TaskInput {
  readonly fails: number;
  readonly value: number;
}

/** Every value that the code sees goes into its output. */
async function carryOut(
  ctx: WorkflowContext,
  node: Node,
  seen: { readonly bumps: number },
): Promise<unknown> {
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
    case "task":
      return ctx.task(node.name, { fails: node.fails, value: node.value }, { queue: "sim", retry: patient });
    case "doomed":
      return ctx
        .step(node.name, () => Promise.reject(new Error("doomed")), { retry: { ...retry, maxAttempts: 2 } })
        .catch((error: unknown) => (error as Error).message.replace(/^Step \S+ /, ""));
    case "compensate":
      ctx.compensate(`undo-${node.name}`, () => "undone");
      return "compensate";
    case "progress":
      ctx.progress({ message: "on" });
      return "progress";
    case "now":
      return typeof ctx.now();
    case "random":
      return typeof ctx.random() === typeof ctx.uuid().length;
    case "patched":
      return ctx.patched("patch");
    case "attributes":
      ctx.setAttributes({ seen: true });
      return "attributes";
    case "sleep":
      await ctx.sleep(node.ms);
      return "slept";
    case "signal":
      return { signal: (await ctx.waitForSignal(node.name, optional(node.timeoutMs))) ?? null };
    case "until":
      return { until: await ctx.waitUntil(() => seen.bumps >= node.bumps, optional(node.timeoutMs)) };
    case "child":
      return ctx
        .child(childDefinition, { part: node.part, fails: node.fails })
        .catch((error: unknown) => (error as { status?: string }).status ?? "cancelled");
    case "race": {
      const winner = await Promise.race([
        Promise.all([ctx.step(node.name, () => 1, { retry }), ctx.sleep(1)]).then(() => "all"),
        ctx.waitForSignal(node.name, { timeoutMs: 1 }).then(() => "signal"),
        ctx.step(node.name, () => "step", { retry }),
        ctx.sleep(1).then(() => "sleep"),
      ]);
      // Which one wins is decided once, by the log; the code that follows depends on it.
      await ctx.step(`after-${winner}`, () => winner);
      return "raced";
    }
    case "ctxRace": {
      const lost = ctx.sleep(hour);
      const winner = await ctx.race([
        ctx.step(node.name, () => "step", { retry }),
        lost.then(() => "late"),
        lost,
        ctx.task(node.name, { fails: 0, value: 1 }, { queue: "sim", retry: patient }),
        ctx.waitForSignal(node.name, { timeoutMs: 1 }),
      ]);
      await ctx.step(`after-${typeof winner}`, () => winner);
      return "raced";
    }
    case "scope": {
      const { timeoutMs: limit, part } = node;
      return ctx
        .scope(async (scope) => ({ in: await carryOut(scope, part, seen) }), { timeoutMs: limit })
        .catch((error: unknown) => ({ out: (error as { code?: string }).code }));
    }
    case "shield":
      return ctx.shield((shielded) => carryOut(shielded, node.part, seen));
    case "seq": {
      const values = [];
      for (const part of node.parts) values.push(await carryOut(ctx, part, seen));
      return values;
    }
    case "all":
      return Promise.all(node.parts.map((part) => carryOut(ctx, part, seen)));
    case "settled":
      return (await Promise.allSettled(node.parts.map((part) => carryOut(ctx, part, seen)))).map(
        ({ status }) => status,
      );
  }
}

function optional(limit: number | null): { readonly timeoutMs?: number } {
  return limit === null ? {} : { timeoutMs: limit };
}

/** Whether this may come of the program: worked out without an engine. What a race or a time limit decides is left open. */
export function fits(node: Node, value: unknown): boolean {
  switch (node.op) {
    case "step":
    case "task":
      return value === node.value;
    case "doomed":
      return value === "failed after 2 attempts: doomed";
    case "compensate":
    case "progress":
    case "attributes":
      return value === node.op;
    case "now":
      return value === "number";
    case "random":
    case "patched":
      return value === true;
    case "sleep":
      return value === "slept";
    case "signal": {
      const { signal } = value as { readonly signal: unknown };
      return typeof signal === "string"
        ? signal.startsWith(`${node.name}-`)
        : signal === null && node.timeoutMs !== null;
    }
    case "until": {
      const { until } = value as { readonly until: unknown };
      return until === true || (until === false && node.timeoutMs !== null);
    }
    case "child":
      return node.fails ? value === "failed" : fits(node.part, value);
    case "race":
    case "ctxRace":
      return value === "raced";
    case "scope": {
      const { out } = value as { readonly out?: string };
      // What is cancelled in the middle may have caught it and gone on.
      return out === undefined || out === "cancelled";
    }
    case "shield":
      return fits(node.part, value);
    case "seq":
    case "all":
      return (
        Array.isArray(value) &&
        value.length === node.parts.length &&
        node.parts.every((part, index) => fits(part, value[index]))
      );
    case "settled":
      return (
        Array.isArray(value) &&
        value.length === node.parts.length &&
        value.every((each) => each === "fulfilled")
      );
  }
}

/** Parts of a kind, wherever they are. */
export function partsOf(node: Node): Node[] {
  const inner = "parts" in node ? node.parts : "part" in node && node.op !== "child" ? [node.part] : [];
  return [node, ...inner.flatMap(partsOf)];
}

/** Signals that the code took, wherever they are in its output. */
export function signalsIn(value: unknown): string[] {
  if (Array.isArray(value)) return value.flatMap(signalsIn);
  if (typeof value !== "object" || value === null) return [];
  return Object.entries(value).flatMap(([key, each]) =>
    key === "signal" && typeof each === "string" ? [each] : signalsIn(each),
  );
}
