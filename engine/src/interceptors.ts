/**
 * Code around the calls that leave the engine: starts, signals, attempts of steps, tasks. Workflow code itself is not
 * intercepted: it runs again in every replay.
 */
import type { Mutation, StartResult } from "./millrace.ts";

export interface StartCall {
  readonly workflowId: string;
  readonly type: string;
  readonly driver: "code" | "external";
  readonly input: unknown;
  /** W3C trace context that the run will carry; null: none. */
  readonly traceparent: string | null;
}

export interface SignalCall {
  readonly workflowId: string;
  readonly name: string;
  readonly payload: unknown;
}

interface AttemptCall {
  readonly workflowId: string;
  readonly type: string;
  /** Run number, from 1. */
  readonly run: number;
  readonly step: string;
  readonly occurrence: number;
  readonly attempt: number;
  /** `<workflowId>/<run>/<step>#<occurrence>`: the same for every attempt. */
  readonly idempotencyKey: string;
  readonly signal: AbortSignal;
  /** W3C trace context that the run was started with; null: none. */
  readonly traceparent: string | null;
}

export interface StepCall extends AttemptCall {
  readonly kind: "step" | "compensation";
}

export interface TaskCall extends AttemptCall {
  readonly queue: string;
  readonly input: unknown;
}

/**
 * Each of them is called around its kind of call and goes on with `next`, which resolves to the call's result. The first
 * interceptor is the outermost one. What it returns or throws is the outcome: an error around a step is the failure of
 * that attempt, and its retry policy applies; one around a start or a signal reaches the caller.
 *
 * `next` may be given a changed call; `input`, `payload` and `traceparent` are taken from it, the rest is for reading.
 * Calling it twice does the work twice.
 *
 * @example
 * const timed: Interceptor = {
 *   async step(call, next) {
 *     const since = performance.now();
 *     try {
 *       return await next();
 *     } finally {
 *       histogram.observe({ step: call.step }, performance.now() - since);
 *     }
 *   },
 * };
 */
export interface Interceptor {
  start?(call: StartCall, next: (changed?: StartCall) => Promise<StartResult>): Promise<StartResult>;
  signal?(call: SignalCall, next: (changed?: SignalCall) => Promise<Mutation>): Promise<Mutation>;
  step?(call: StepCall, next: (changed?: StepCall) => Promise<unknown>): Promise<unknown>;
  task?(call: TaskCall, next: (changed?: TaskCall) => Promise<unknown>): Promise<unknown>;
}

type Hook<Call, Result> = (call: Call, next: (changed?: Call) => Promise<Result>) => Promise<Result>;

export class Interceptors {
  readonly #start: readonly Hook<StartCall, StartResult>[];
  readonly #signal: readonly Hook<SignalCall, Mutation>[];
  readonly #step: readonly Hook<StepCall, unknown>[];
  readonly #task: readonly Hook<TaskCall, unknown>[];

  constructor(all: readonly Interceptor[]) {
    this.#start = all.flatMap((each) => each.start?.bind(each) ?? []);
    this.#signal = all.flatMap((each) => each.signal?.bind(each) ?? []);
    this.#step = all.flatMap((each) => each.step?.bind(each) ?? []);
    this.#task = all.flatMap((each) => each.task?.bind(each) ?? []);
  }

  /** Whether attempts of steps need a call at all: making one costs more than most steps' bookkeeping. */
  get aroundSteps(): boolean {
    return this.#step.length > 0;
  }

  start(call: StartCall, act: (call: StartCall) => Promise<StartResult>): Promise<StartResult> {
    return around(this.#start, call, act);
  }

  signal(call: SignalCall, act: (call: SignalCall) => Promise<Mutation>): Promise<Mutation> {
    return around(this.#signal, call, act);
  }

  step(call: StepCall, act: (call: StepCall) => Promise<unknown>): Promise<unknown> {
    return around(this.#step, call, act);
  }

  task(call: TaskCall, act: (call: TaskCall) => Promise<unknown>): Promise<unknown> {
    return around(this.#task, call, act);
  }
}

async function around<Call, Result>(
  hooks: readonly Hook<Call, Result>[],
  call: Call,
  act: (call: Call) => Promise<Result>,
): Promise<Result> {
  const [hook, ...inner] = hooks;
  if (hook === undefined) return act(call);
  return hook(call, (changed = call) => around(inner, changed, act));
}
