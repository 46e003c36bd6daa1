/** What `ctx` is: each call turned into a request or a decision of the activation. Stateless but for its scope. */
import { createHash } from "node:crypto";
import {
  assertWorkflowId,
  assertWorkflowType,
  changedAttributes,
  limits,
  MillraceError,
  parseStepRef,
  stepKey,
  type EventData,
} from "@millrace/schemas";
import type { Activation } from "./activation.ts";
import { asStored } from "./as-stored.ts";
import type {
  ChildTarget,
  ScopeContext,
  SleepOptions,
  StepContext,
  StepOptions,
  TaskOptions,
  WaitOptions,
  WorkflowContext,
} from "./context.ts";
import { unguarded } from "./determinism-guard.ts";
import { newUlid } from "./new-ulid.ts";
import { CancelledError } from "./failures.ts";
import { requestKey, type ChildOptions, type Request } from "./requests.ts";
import { createRunLogger, type RunLogger } from "./run-logger.ts";
import { Scope } from "./scope.ts";

/** Thrown by `ctx.continueAsNew`: how the end of the run number passes through the user's code. */
export class ContinueAsNew extends Error {
  override readonly name: string = "ContinueAsNew";
  readonly input: unknown;
  readonly version: string | undefined;

  constructor(input: unknown, version: string | undefined) {
    super("The run continues as new. Let this error pass.");
    this.input = input;
    this.version = version;
  }
}

type Settle = Pick<Request, "resolve" | "reject" | "scope" | "promise">;

export function createContext(activation: Activation, scope: Scope): WorkflowContext {
  const { workflowId, definition, run, seed, recordedNow, payloadBytesMax } = activation.what;

  /** A promise of ours. It may be settled before the code awaits it: its outcome is in the log, no unhandled rejection. */
  function ask(what: string, make: (settle: Settle) => Request): Promise<unknown> {
    // The turn has failed. A rejection that nobody awaits would end the process, and all other runs with it.
    if (!activation.mayAct(what)) return neverSettles();
    let request: Request | null = null;
    const promise = new Promise<unknown>((resolve, reject) => {
      if (scope.cancelled !== null) throw scope.cancelled;
      const made = make({ resolve, reject, scope, promise: null });
      if (activation.pending.has(made.key)) throw duplicate(what, workflowId);
      activation.request(made);
      request = made;
    });
    promise.catch(() => undefined);
    if (request === null) return activation.isRefusalLoop(what) ? neverSettles() : promise;
    (request as Request).promise = promise;
    return promise;
  }

  /** Made on first use, per context: most code writes no line. */
  let made: RunLogger | null = null;
  function logger(): RunLogger {
    made ??= createRunLogger((level, fields, message) => {
      if (activation.silent) return;
      const { type, version } = definition;
      activation.what.lines.add(level, { ...fields, workflowId, type, version, run }, message);
    });
    return made;
  }

  function derive(): Buffer {
    return createHash("sha256").update(`${seed}/${++activation.counts.derived}`).digest();
  }

  function step(
    name: string,
    fn: (step: StepContext) => unknown,
    options: StepOptions = {},
  ): Promise<unknown> {
    return ask(`ctx.step(${JSON.stringify(name)})`, (settle) => {
      const occurrence = activation.occurrenceOf("step", name);
      const key = stepKey(name, occurrence);
      assertStepName(key, name);
      assertMs(`Step ${key}`, "time limit", options.timeoutMs);
      return { kind: "step", key, name, occurrence, fn, options, recorded: false, ...settle };
    });
  }

  function task(name: string, input: unknown, options: TaskOptions): Promise<unknown> {
    return ask(`ctx.task(${JSON.stringify(name)})`, (settle) => {
      const occurrence = activation.occurrenceOf("step", name);
      const key = stepKey(name, occurrence);
      assertStepName(key, name);
      assertQueue(key, options.queue);
      for (const limit of ["scheduleToStartMs", "startToCloseMs", "heartbeatMs"] as const)
        assertMs(`Task ${key}`, limit, options[limit]);
      const { queue, retry, priority, scheduleToStartMs, startToCloseMs, heartbeatMs } = options;
      const scheduled: EventData<"StepScheduled"> = {
        name,
        occurrence,
        attempt: 1,
        queue,
        token: unguarded(newUlid),
        input: asStored(input, `input of task ${key}`, payloadBytesMax),
        ...(priority === undefined ? {} : { priority }),
        ...(scheduleToStartMs === undefined ? {} : { scheduleToStartMs }),
        ...(startToCloseMs === undefined ? {} : { startToCloseMs }),
        ...(heartbeatMs === undefined ? {} : { heartbeatMs }),
        ...(retry === undefined ? {} : { retry: { ...retry } }),
      };
      activation.decide({ type: "StepScheduled", data: scheduled });
      return { kind: "task", key, name, occurrence, scheduled, recorded: true, ...settle };
    });
  }

  function sleep(until: number | Date, options: SleepOptions = {}): Promise<void> {
    return ask("ctx.sleep", (settle) => {
      const name = options.name ?? "sleep";
      const timer = stepKey(name, activation.occurrenceOf("timer", name));
      assertStepName(timer, name);
      const dueAt = typeof until === "number" ? activation.what.now() + until : until.getTime();
      if (!Number.isFinite(dueAt)) {
        throw new RangeError(
          `ctx.sleep of ${workflowId} was given ${String(until)}. Give milliseconds, or a valid Date.`,
        );
      }
      activation.decide({ type: "TimerStarted", data: { timer, dueAt } });
      return { kind: "timer", key: requestKey.timer(timer), timer, dueAt, recorded: true, ...settle };
    }) as Promise<void>;
  }

  function startWait(name: string, signal: string | null, { timeoutMs }: WaitOptions) {
    const wait = stepKey(name, activation.occurrenceOf("wait", name));
    assertMs(`Wait ${wait}`, "time-out", timeoutMs);
    const dueAt = timeoutMs === undefined ? null : activation.what.now() + timeoutMs;
    activation.decide({
      type: "WaitStarted",
      data: { wait, ...(signal === null ? {} : { signal }), ...(dueAt === null ? {} : { dueAt }) },
    });
    return { kind: "wait", key: requestKey.wait(wait), wait, signal, dueAt, recorded: true } as const;
  }

  function waitForSignal(name: string, options: WaitOptions = {}): Promise<unknown> {
    if (!activation.mayAct(`ctx.waitForSignal(${JSON.stringify(name)})`)) return neverSettles();
    assertStepName(name, name);
    if (scope.cancelled === null) {
      const early = activation.takeSignal(name);
      if (early !== undefined) {
        const { wait } = startWait(name, name, options);
        activation.decide({ type: "WaitSatisfied", data: { wait } });
        return Promise.resolve(early.payload);
      }
    }
    return ask("ctx.waitForSignal", (settle) => ({
      ...startWait(name, name, options),
      until: null,
      ...settle,
    }));
  }

  function waitUntil(predicate: () => boolean, options: WaitOptions = {}): Promise<boolean> {
    return ask("ctx.waitUntil", (settle) => ({
      ...startWait("condition", null, options),
      until: predicate,
      ...settle,
    })) as Promise<boolean>;
  }

  function child(target: ChildTarget, input: unknown, options: ChildOptions = {}): Promise<unknown> {
    return ask("ctx.child", (settle) => {
      const type = typeof target === "string" ? target : target.type;
      assertWorkflowType(type);
      const id = options.id ?? defaultChildId(type);
      assertWorkflowId(id);
      const timeoutMs = options.timeoutMs ?? (typeof target === "string" ? null : target.timeoutMs);
      assertMs(`Child ${id}`, "time limit", timeoutMs ?? undefined);
      const started: EventData<"ChildWorkflowStarted"> = {
        child: id,
        type,
        input: asStored(input, `input of child ${id}`, payloadBytesMax),
        onClose: options.onClose ?? "cancel",
        ...(typeof target === "string" ? {} : { version: target.version, plan: [...target.steps] }),
        ...(options.attributes === undefined ? {} : { attributes: { ...options.attributes } }),
        ...(timeoutMs === null ? {} : { timeoutMs }),
      };
      activation.decide({ type: "ChildWorkflowStarted", data: started });
      return { kind: "child", key: requestKey.child(id), child: id, started, recorded: true, ...settle };
    });
  }

  function defaultChildId(type: string): string {
    const number = ++activation.counts.children;
    const id = `${workflowId}-${type}-${run === 1 ? "" : `${run}-`}${number}`;
    if (id.length <= limits.workflowIdChars) return id;
    const digest = createHash("sha256").update(id).digest("hex").slice(0, 16);
    return `${workflowId.slice(0, limits.workflowIdChars - 17)}-${digest}`;
  }

  async function race(contestants: readonly Promise<unknown>[]): Promise<unknown> {
    activation.act("ctx.race");
    try {
      return await Promise.race(contestants);
    } finally {
      for (const each of contestants) {
        const request = activation.requestOf(each);
        if (request !== undefined) activation.cancelRequest(request, new CancelledError("lost a race"));
      }
    }
  }

  async function scoped<T>(
    fn: (ctx: ScopeContext) => Promise<T>,
    options: { readonly timeoutMs?: number } = {},
  ): Promise<T> {
    activation.act("ctx.scope");
    const own = new Scope(scope, false);
    const cancel = (reason?: string): void => {
      activation.act("scope.cancel");
      activation.cancelScope(own, new CancelledError(reason ?? null));
    };
    const work = fn(Object.assign(createContext(activation, own), { cancel }));
    const { timeoutMs } = options;
    if (timeoutMs === undefined) return work;
    const timer = sleep(timeoutMs, { name: "scope" });
    const timed = timer.then(() => cancel(`the scope's time limit of ${timeoutMs} ms has passed`));
    timed.catch(() => undefined);
    try {
      return await work;
    } finally {
      const request = activation.requestOf(timer);
      if (request !== undefined) activation.cancelRequest(request, new CancelledError("the scope is over"));
    }
  }

  const context = {
    workflowId,
    type: definition.type,
    version: definition.version,
    run,
    get signal() {
      return scope.signal;
    },
    get log() {
      return logger();
    },
    get historyLength() {
      return activation.eventCount;
    },
    get continueAsNewSuggested() {
      return activation.eventCount >= limits.historyEventsSuggested;
    },
    step,
    task,
    sleep,
    waitForSignal,
    waitUntil,
    child,
    race,
    compensate(name: string, fn: (step: StepContext) => unknown, options: StepOptions = {}) {
      if (!activation.mayAct(`ctx.compensate(${JSON.stringify(name)})`)) return;
      const occurrence = activation.occurrenceOf("step", name);
      assertStepName(stepKey(name, occurrence), name);
      activation.compensations.push({ name, occurrence, fn, options });
      activation.decide({ type: "CompensationRegistered", data: { name, occurrence } });
    },
    shield<T>(fn: (ctx: WorkflowContext) => Promise<T>): Promise<T> {
      activation.act("ctx.shield");
      return fn(createContext(activation, new Scope(scope, true)));
    },
    scope: scoped,
    onQuery(name: string, handler: (input: never) => unknown) {
      activation.act("ctx.onQuery");
      assertStepName(name, name);
      activation.handlers.onQuery(name, handler as (input: unknown) => unknown);
    },
    onUpdate(
      name: string,
      handler: (input: never) => unknown,
      options: { readonly validate?: (input: never) => void } = {},
    ) {
      activation.act("ctx.onUpdate");
      assertStepName(name, name);
      activation.handlers.onUpdate(name, {
        handle: handler as (input: unknown) => unknown,
        validate: (options.validate ?? null) as ((input: unknown) => void) | null,
      });
    },
    continueAsNew(input: unknown, options: { readonly version?: string } = {}): never {
      activation.act("ctx.continueAsNew");
      throw new ContinueAsNew(input, options.version);
    },
    patched(id: string): boolean {
      activation.act("ctx.patched");
      assertStepName(id, id);
      return activation.patched(id);
    },
    setAttributes(attributes: EventData<"AttributesUpserted">["attributes"]) {
      if (!activation.mayAct("ctx.setAttributes")) return;
      activation.attributes = changedAttributes(
        activation.attributes,
        attributes,
        `ctx.setAttributes of ${workflowId}`,
      );
      activation.decide({ type: "AttributesUpserted", data: { attributes: { ...attributes } } });
    },
    progress(progress: { readonly current?: number; readonly total?: number; readonly message?: string }) {
      if (!activation.mayAct("ctx.progress")) return;
      const { current, total, message } = progress;
      const data: EventData<"ProgressReported"> = {
        ...(Number.isFinite(current) ? { current } : {}),
        ...(Number.isFinite(total) ? { total } : {}),
        ...(message === undefined ? {} : { message: message.slice(0, limits.messageChars) }),
      };
      activation.decide({ type: "ProgressReported", data });
    },
    now(): number {
      activation.act("ctx.now");
      const index = ++activation.counts.now;
      const value = recordedNow[index - 1] ?? activation.what.now();
      activation.decide({ type: "SideEffectRecorded", data: { kind: "now", index, value } });
      return value;
    },
    random(): number {
      activation.act("ctx.random");
      // 48 bits: what a double holds exactly, with room.
      return derive().readUIntBE(0, 6) / 2 ** 48;
    },
    uuid(): string {
      activation.act("ctx.uuid");
      const bytes = derive();
      // Version 4 and variant bits: RFC 9562, section 5.4.
      bytes[6] = ((bytes[6] ?? 0) & 0x0f) | 0x40;
      bytes[8] = ((bytes[8] ?? 0) & 0x3f) | 0x80;
      const hex = bytes.toString("hex");
      return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20, 32)}`;
    },
  };
  return context as WorkflowContext;
}

function duplicate(what: string, workflowId: string): MillraceError {
  return new MillraceError(
    "invalid_request",
    `${what} of ${workflowId} was called again under an id that is still open. Give each child its own id.`,
  );
}

/** A name that no step, timer, signal, query, update or patch can have. */
function assertStepName(key: string, name: string): void {
  parseStepRef(key);
  if (name.includes("#")) {
    throw new MillraceError(
      "invalid_id",
      `Step name ${JSON.stringify(name)} has a "#". Occurrences are counted for you.`,
    );
  }
}

function assertQueue(key: string, queue: unknown): void {
  if (typeof queue === "string" && /^[A-Za-z0-9_-]{1,64}$/.test(queue)) return;
  throw new MillraceError(
    "invalid_id",
    `Task ${key} names queue ${JSON.stringify(queue)}: it must match [A-Za-z0-9_-]{1,64}. Pass { queue: "…" }.`,
  );
}

function assertMs(what: string, which: string, ms: number | undefined): void {
  if (ms === undefined || (Number.isFinite(ms) && ms >= 0)) return;
  throw new RangeError(`${what} has a ${which} of ${ms} ms. Give a number of milliseconds, or leave it out.`);
}

function neverSettles(): Promise<never> {
  return new Promise(() => undefined);
}
