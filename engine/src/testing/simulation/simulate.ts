/**
 * Carries out one program while appends conflict, acknowledgements get lost, workers are killed in mid-run, zombies go on
 * beside their successors, operators pause and cancel. All from one seed.
 */
import {
  createMemoryLog,
  createMemoryServer,
  type EventLog,
  type MemoryServer,
  type StoredCommit,
} from "@millrace/event-log";
import { isMillraceError, MillraceError, stepKey } from "@millrace/schemas";
import { checkReplay } from "../../check-replay.ts";
import { connect } from "../../connect.ts";
import type { AnyWorkflowDefinition } from "../../definition.ts";
import type { Clock } from "../../due-timers.ts";
import { silentLogger } from "../../logger.ts";
import type { Millrace, WorkflowHandle } from "../../millrace.ts";
import type { Worker, WorkerOptions } from "../../worker.ts";
import {
  childDefinition,
  definitionOf,
  fits,
  partsOf,
  signalsIn,
  type Program,
  type TaskInput,
} from "./random-program.ts";

/** Mulberry32: fast-check's own numbers prefer the extremes, and a run that always conflicts never ends. */
export function seeded(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

export interface Trouble {
  readonly chance: () => number;
  /** False: nothing goes wrong. */
  readonly isTroubled: boolean;
}

interface Engine {
  readonly connection: Millrace;
  readonly worker: Worker;
}

/** Long enough for a loaded machine; a run that takes longer never ends. */
const limitMs = 15_000;
const modes: readonly Partial<WorkerOptions>[] = [{}, { replayAlways: true }, { runsMax: 0 }];

/** Throws with the histories when anything is not as it must be. */
export async function simulate(program: Program, trouble: Trouble): Promise<void> {
  const definitions: AnyWorkflowDefinition[] = [definitionOf(program), childDefinition];
  const server = createMemoryServer();
  const history = await runOn(server, program, definitions, trouble);
  // A worker that sees only a beginning of the history must come to an end that fits, too.
  const hasTasks = partsOf(program.whole).some(
    ({ op }) => op === "task" || op === "ctxRace" || op === "child",
  );
  if (hasTasks || history.length < 2) return;
  const length = 1 + Math.floor(trouble.chance() * (history.length - 1));
  const again = createMemoryServer();
  const copy = openLog(again);
  let expected: number | "new" = "new";
  for (const { commitId, workflowId, type, events } of history.slice(0, length)) {
    if (events.some(({ type: each }) => each === "WorkflowPaused")) return;
    const { sequence } = await copy.append({
      commitId,
      workflowId,
      type,
      expected,
      events,
      condition: "running",
    });
    expected = sequence;
  }
  await runOn(again, program, definitions, { ...trouble, isTroubled: false });
}

async function runOn(
  server: MemoryServer,
  program: Program,
  definitions: readonly AnyWorkflowDefinition[],
  { chance, isTroubled }: Trouble,
): Promise<StoredCommit[]> {
  const troubles: string[] = [];
  const client = await connect({ log: openLog(server), clock: skippingClock(chance) });
  const workers: Engine[] = [];
  const startWorker = async (): Promise<void> => {
    const roll = isTroubled ? chance : (): number => 0.999;
    // Each alone in a fleet of its own, so that all of them run everything beside each other.
    const alone = { leases: () => createMemoryLog().leases() };
    const worker = await connect({
      log: Object.assign(troubled(openLog(server), roll), alone),
      random: chance,
      clock: skippingClock(chance),
      logger: { ...silentLogger, error: (_fields, message) => troubles.push(message) },
    });
    const executing = await worker.worker({
      workflows: definitions,
      tasks: Object.fromEntries(["a", "b", "c"].map((name) => [name, doTask])),
      queues: ["sim"],
      concurrency: 4,
      ...modes[Math.floor(chance() * modes.length)],
    });
    workers.push({ connection: worker, worker: executing });
  };
  try {
    const definition = definitions[0] as AnyWorkflowDefinition;
    const started = await client.startByType(
      definition.type,
      { round: 1 },
      { id: "run", allowUnregistered: true },
    );
    const result = started.handle.result().then(
      (output) => ({ output, code: null }),
      (error: unknown) => ({ output: null, code: isMillraceError(error) ? error.code : String(error) }),
    );
    const over = new AbortController();
    await startWorker();
    const outside = sendFromOutside(started.handle, program, chance, over.signal);
    outside.catch(() => undefined);
    for (let kill = isTroubled ? 3 : 0; kill > 0; kill--) {
      await turns(chance() * 8);
      // Half of the time the old one goes on as a zombie beside the new one.
      if (chance() < 0.5) await drain(workers.pop());
      await startWorker();
    }
    const end = await within(limitMs, Promise.race([result, outside.then(() => result)]));
    over.abort();
    await outside;
    if (end === "late") throw new Error(`The run did not end within ${limitMs} ms.`);
    checkEnd(program, end);
    const heads: string[] = [];
    await client.log.heads(({ workflowId }) => void heads.push(workflowId));
    await Promise.all(workers.splice(0).map(drain));
    for (const id of heads) await checkHistory(await client.log.load(id), definitions);
    return await client.log.load("run");
  } catch (error) {
    throw new Error(`${String(error)}\n${[...(await linesOf(client.log)), ...troubles].join("\n")}`, {
      cause: error,
    });
  } finally {
    await Promise.all(workers.map(drain));
    await client.close();
  }
}

function doTask({ input, attempt }: { readonly input: TaskInput; readonly attempt: number }): number {
  if (attempt <= input.fails) throw new Error(`attempt ${attempt}`);
  return input.value;
}

/** As a killed process: what it had begun is not recorded. */
async function drain(engine: Engine | undefined): Promise<void> {
  await engine?.worker.drain({ deadlineMs: 0 });
  await engine?.connection.close();
}

/** Signals enough for every wait, each sent once or twice under its id; updates until the run is over; pause, cancel. */
async function sendFromOutside(
  handle: WorkflowHandle,
  program: Program,
  chance: () => number,
  over: AbortSignal,
): Promise<void> {
  const parts = partsOf(program.whole);
  const sendSignals = async (): Promise<void> => {
    for (const name of ["a", "b", "c"]) {
      const waits = parts.filter(
        (part) => (part.op === "signal" || part.op === "race" || part.op === "ctxRace") && part.name === name,
      );
      for (let n = 0; n < waits.length * program.rounds; n++) {
        await turns(chance() * 6);
        for (let times = chance() < 0.2 ? 2 : 1; times > 0; times--)
          await unlessClosed(handle.signal(name, `${name}-${n}`, { id: `${name}-${n}` }));
      }
    }
  };
  const sendUpdates = async (): Promise<void> => {
    const wanted = parts.some(({ op }) => op === "until") ? updatesMax : Math.floor(chance() * 2);
    for (let n = 0; n < wanted && !over.aborted; n++) {
      await turns(chance() * 10);
      await unlessClosed(
        handle.query("bumps", null, { timeoutMs: 1, signal: over }),
        "timeout",
        "unavailable",
      );
      const by = chance() < 0.1 ? -1 : n;
      const updated = handle.update<number>("bump", by, { id: `bump-${n}`, signal: over });
      await unlessClosed(updated, "update_refused", "update_unknown", "update_failed", "unavailable");
    }
  };
  const operate = async (): Promise<void> => {
    if (program.isPaused) {
      await turns(chance() * 20);
      await unlessClosed(handle.pause({ by: "test" }));
      await turns(chance() * 20);
      await unlessClosed(handle.resume({ by: "test" }));
    }
    if (!program.isCancelled) return;
    await turns(chance() * 30);
    await unlessClosed(handle.cancel({ reason: "test" }));
  };
  await Promise.all([sendSignals(), sendUpdates(), operate()]);
}

/** Of one run: more than any program waits for, with those that a continue-as-new leaves behind. */
const updatesMax = 400;

async function unlessClosed(sent: Promise<unknown>, ...also: string[]): Promise<void> {
  try {
    await sent;
  } catch (error) {
    if (error instanceof Error && error.name === "AbortError") return;
    if (!isMillraceError(error) || !["workflow_closed", ...also].includes(error.code)) throw error;
  }
}

function checkEnd(
  program: Program,
  { output, code }: { readonly output: unknown; readonly code: string | null },
): void {
  // What was cancelled in the middle may have caught it and gone on.
  const codes: (string | null)[] = program.end === "fail" ? ["workflow_failed"] : [null];
  if (program.isCancelled) codes.push("cancelled");
  if (!codes.includes(code)) throw new Error(`The run ended with ${code}, expected ${codes.join(" or ")}.`);
  if (code !== null || program.isCancelled) return;
  if (!fits(program.whole, output))
    throw new Error(`Output does not fit the program: ${JSON.stringify(output)}`);
  const taken = signalsIn(output);
  if (new Set(taken).size !== taken.length) throw new Error(`A signal was taken twice: ${taken.join(", ")}`);
}

/** What holds for every history, whatever happened. */
async function checkHistory(
  history: readonly StoredCommit[],
  definitions: readonly AnyWorkflowDefinition[],
): Promise<void> {
  const first = history[0];
  if (first === undefined) return;
  const { workflowId, type } = first;
  let once = new Set<string>();
  let registered: string[] = [];
  const mark = (what: string): void => {
    if (once.has(what)) throw new Error(`${workflowId}: ${what} is recorded twice.`);
    once.add(what);
  };
  for (const event of history.flatMap(({ events }) => events)) {
    switch (event.type) {
      case "WorkflowContinuedAsNew":
        once = new Set();
        registered = [];
        break;
      case "WorkflowTurnFailed":
        throw new Error(`${workflowId} got stuck: ${event.data.error.message}`);
      case "StepCompleted":
      case "StepFailed":
      case "StepTimedOut":
      case "CompensationCompleted":
      case "CompensationFailed":
        mark(`end of step ${stepKey(event.data.name, event.data.occurrence)}`);
        break;
      case "StepCancelled":
        // Its worker may have ended it before the cancellation could be recorded: the end that stands first holds.
        mark(`cancellation of step ${stepKey(event.data.name, event.data.occurrence)}`);
        break;
      case "TimerFired":
      case "TimerCancelled":
        mark(`end of timer ${event.data.timer}`);
        break;
      case "WaitSatisfied":
      case "WaitTimedOut":
      case "WaitCancelled":
        mark(`end of wait ${event.data.wait}`);
        break;
      case "ChildWorkflowClosed":
        mark(`end of child ${event.data.child}`);
        break;
      case "UpdateAccepted":
      case "UpdateCompleted":
        mark(`${event.type} ${event.data.id}`);
        break;
      case "CompensationRegistered":
        registered.push(stepKey(event.data.name, event.data.occurrence));
        break;
      case "CompensationStarted": {
        const key = stepKey(event.data.name, event.data.occurrence);
        if (registered.pop() !== key) throw new Error(`${workflowId}: compensation ${key} ran out of order.`);
        break;
      }
      default:
    }
  }
  const definition = definitions.find((each) => each.type === type);
  if (definition === undefined) throw new Error(`${workflowId} is of an unknown type ${type}.`);
  const divergence = await checkReplay(definition, { workflowId, type }, history);
  if (divergence !== null) throw new Error(divergence.message);
}

/** Appends that conflict for no reason (so that the run is rebuilt) and acknowledgements that get lost. */
function troubled(log: EventLog, chance: () => number): EventLog {
  /** A log never says of a commit that it has that it conflicts. */
  const stored = new Set<string>();
  return Object.assign(Object.create(log) as EventLog, {
    append: async (request: Parameters<EventLog["append"]>[0]) => {
      const roll = chance();
      if (roll < 0.3 && typeof request.expected === "number" && !stored.has(request.commitId)) {
        throw new MillraceError("conflict", "simulated", {
          details: { expected: request.expected, actual: -1 },
        });
      }
      const result = await log.append(request);
      stored.add(request.commitId);
      if (roll < 0.4) throw new MillraceError("append_in_doubt", "simulated lost acknowledgement");
      return result;
    },
  });
}

/** A log whose methods keep their own `this`: the memory log is a class with private fields. */
export function openLog(server: MemoryServer): EventLog {
  const log = createMemoryLog({ server, taskLeaseMs: 200 });
  return new Proxy(log, {
    get: (target, key) => {
      const value: unknown = Reflect.get(target, key, target);
      return typeof value === "function" ? (value.bind(target) as unknown) : value;
    },
  });
}

/** Time passes only when somebody waits for it, after a few turns in which others may be faster. */
export function skippingClock(chance: () => number): Clock {
  let skippedMs = 0;
  return {
    steady: true,
    now: () => Date.now() + skippedMs,
    wake(delayMs, callback) {
      let left = Math.floor(chance() * 8);
      let immediate = setImmediate(function turn() {
        if (left-- > 0) immediate = setImmediate(turn);
        else {
          skippedMs += delayMs;
          callback();
        }
      });
      return () => clearImmediate(immediate);
    },
  };
}

export async function turns(count: number): Promise<void> {
  for (let left = Math.floor(count); left > 0; left--) await new Promise((resolve) => setImmediate(resolve));
}

async function within<T>(ms: number, work: Promise<T>): Promise<T | "late"> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<"late">((resolve) => (timer = setTimeout(resolve, ms, "late")));
  return Promise.race([work, late]).finally(() => clearTimeout(timer));
}

async function linesOf(log: EventLog): Promise<string[]> {
  const ids: string[] = [];
  await log.heads(({ workflowId }) => void ids.push(workflowId));
  const histories = await Promise.all(ids.map((id) => log.load(id)));
  return histories
    .flat()
    .flatMap(({ sequence, at, workflowId, writer, condition, events }) =>
      events.map(
        (event) =>
          `${sequence} ${at % 100_000} ${workflowId} ${writer?.slice(-4)} ${condition} ${event.type} ${JSON.stringify(event.data)}`,
      ),
    );
}
