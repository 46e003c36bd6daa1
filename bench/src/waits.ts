/**
 * What waits: timers that fire, how late they are, signals that are taken, and what a run costs its owner's memory while
 * it waits. Engine and client in this process, the broker beside it. Counts what was recorded and awaited.
 */
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { connect, defineWorkflow, type Millrace } from "@millrace/engine";
import { elapsedMs, percentile, round } from "./figures.ts";

const perRun = 20;
const runs = 500;
const lateRuns = 1_000;
/** Timers of the lateness figure are due at this rate. */
const duePerS = 250;
const parkedRuns = 10_000;

const naps = defineWorkflow({ type: "naps" }, async (ctx, _input: null) => {
  for (let n = 0; n < perRun; n++) await ctx.sleep(0);
  return perRun;
});
const alarm = defineWorkflow({ type: "alarm" }, async (ctx, input: { dueAt: number }) => {
  await ctx.sleep(new Date(input.dueAt));
  return ctx.now() - input.dueAt;
});
const listener = defineWorkflow({ type: "listener" }, async (ctx, _input: null) => {
  for (let n = 0; n < perRun; n++) await ctx.waitForSignal("go");
  return perRun;
});
const parked = defineWorkflow({ type: "parked" }, (ctx, input: { timeoutMs: number }) =>
  ctx.waitForSignal("go", input),
);

export interface WaitFigures {
  readonly timersPerS: number;
  readonly lateP50Ms: number;
  readonly lateP99Ms: number;
  readonly signalsPerS: number;
  /** Heap of the owner, by run. */
  readonly parkedBytes: number;
  readonly inMemoryBytes: number;
}

export async function benchWaits(natsUrl: string, namespace: string): Promise<WaitFigures> {
  const millrace = await connect({ servers: natsUrl, namespace });
  try {
    await millrace.worker({ workflows: [naps, alarm, listener] });
    await measureTimers(millrace, "warm", 50);
    const timersPerS = await measureTimers(millrace, "timers", runs);
    const late = await measureLateness(millrace);
    const signalsPerS = await measureSignals(millrace);
    return {
      timersPerS: round(timersPerS),
      lateP50Ms: round(percentile(late, 0.5), 1),
      lateP99Ms: round(percentile(late, 0.99), 1),
      signalsPerS: round(signalsPerS),
      parkedBytes: await measureMemory(natsUrl, `${namespace}-parked`, 1),
      inMemoryBytes: await measureMemory(natsUrl, `${namespace}-memory`, 2 * parkedRuns),
    };
  } finally {
    await millrace.close();
  }
}

async function measureTimers(millrace: Millrace, label: string, count: number): Promise<number> {
  const begun = process.hrtime.bigint();
  const handles = await all(count, (n) => millrace.start(naps, null, { id: `${label}-${n}` }));
  await Promise.all(handles.map((handle) => handle.result()));
  return (count * perRun) / (elapsedMs(begun) / 1_000);
}

async function measureLateness(millrace: Millrace): Promise<number[]> {
  // All are pending before the first is due.
  const from = Date.now() + 5_000;
  const handles = await all(lateRuns, (n) =>
    millrace.start(alarm, { dueAt: from + (n * 1_000) / duePerS }, { id: `alarm-${n}` }),
  );
  return Promise.all(handles.map((handle) => handle.result()));
}

async function measureSignals(millrace: Millrace): Promise<number> {
  const handles = await all(runs, (n) => millrace.start(listener, null, { id: `listener-${n}` }));
  const begun = process.hrtime.bigint();
  await all(runs * perRun, async (n) => {
    await handles[n % runs]?.signal("go", n, { id: `go-${n}` });
  });
  await Promise.all(handles.map((handle) => handle.result()));
  return (runs * perRun) / (elapsedMs(begun) / 1_000);
}

/** Heap that the runs hold when all wait for a signal or an hour, whichever comes first. */
async function measureMemory(natsUrl: string, namespace: string, runsMax: number): Promise<number> {
  const millrace = await connect({ servers: natsUrl, namespace });
  try {
    const worker = await millrace.worker({ workflows: [parked], runsMax });
    const before = await heapBytes();
    await all(parkedRuns, async (n) => {
      await millrace.start(parked, { timeoutMs: 3_600_000 }, { id: `parked-${n}` });
    });
    const atRest = async (): Promise<boolean> => {
      const stats = worker.stats();
      const held = stats.parked + stats.runs;
      return held === parkedRuns && stats.waiting === 0 && stats.runs <= Math.max(runsMax, 1);
    };
    const history = async (n: number): Promise<number> => (await millrace.log.load(`parked-${n}`)).length;
    while (!(await atRest()) || (await history(parkedRuns - 1)) < 2)
      await new Promise((resolve) => setTimeout(resolve, 20));
    return round(((await heapBytes()) - before) / parkedRuns);
  } finally {
    await millrace.close();
  }
}

async function heapBytes(): Promise<number> {
  setFlagsFromString("--expose-gc");
  const collect = runInNewContext("gc") as () => void;
  for (let n = 0; n < 3; n++) {
    collect();
    await new Promise((resolve) => setImmediate(resolve));
  }
  return process.memoryUsage().heapUsed;
}

/** Calls in order, 200 at a time. */
async function all<T>(count: number, call: (n: number) => Promise<T>): Promise<T[]> {
  const results: T[] = [];
  let next = 0;
  await Promise.all(
    Array.from({ length: 200 }, async () => {
      while (next < count) {
        const n = next++;
        results[n] = await call(n);
      }
    }),
  );
  return results;
}
