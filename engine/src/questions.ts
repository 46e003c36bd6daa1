/**
 * Queries and updates: how a caller in any process reaches the code of a run in its owner's memory.
 *
 * Q1 A question has one answer: only who holds the run answers, others stay silent.
 * Q2 An update is asked again, under its id, until it is answered: an owner that died in between loses nothing.
 */
import type { EventLog } from "@millrace/event-log";
import { errorCodeOf, isClosed, MillraceError, type UpdateState } from "@millrace/schemas";
import { parseInput, type AnyWorkflowDefinition } from "./definition.ts";
import { wakeAfter, type Clock } from "./due-timers.ts";
import { assertOpenedPayload, type Payloads } from "./payloads/payloads.ts";
import { storedLog, type SealedLog } from "./payloads/sealed-log.ts";
import { presentRun, replay } from "./replay.ts";
import { foldHistory } from "./commands.ts";
import type { Run } from "./run.ts";
import type { RunTable } from "./run-table.ts";
import { updateFailed } from "./update-askers.ts";

export const questionTopic = "runs";
/** How long one question waits; the owner says in time that it is not done yet. */
const questionMs = 10_000;
const pendingAfterMs = 5_000;
/** Between two tries while no worker listens. */
const askAgainMs = 250;

export type Question =
  | { readonly kind: "query"; readonly id: string; readonly name: string; readonly input: unknown }
  | {
      readonly kind: "update";
      readonly id: string;
      readonly updateId: string;
      readonly name: string;
      readonly input: unknown;
    };

type Answer =
  | { readonly value: unknown }
  | { readonly pending: true }
  | {
      readonly error: {
        readonly code: string;
        readonly message: string;
        readonly retryable: boolean;
        readonly details: Readonly<Record<string, unknown>>;
      };
    };

interface Answerer {
  readonly log: EventLog;
  readonly payloads: Payloads;
  readonly clock: Clock;
  readonly table: RunTable;
  readonly definitions: ReadonlyMap<string, ReadonlyMap<string, AnyWorkflowDefinition>>;
}

/** Null when the run is another worker's. Never rejects. */
export async function answerQuestion(answerer: Answerer, text: string): Promise<string | null> {
  let answer: Answer | null;
  try {
    const asked = JSON.parse(text) as Question;
    answer = await answerOf(answerer, asked);
    if (answer !== null && "value" in answer)
      answer = { value: await answerer.payloads.sealMessage(answer.value) };
  } catch (error) {
    const known = error instanceof MillraceError ? error : null;
    answer = {
      error: {
        code: known?.code ?? "internal",
        message: error instanceof Error ? error.message : String(error),
        retryable: known?.retryable ?? false,
        details: known?.details ?? {},
      },
    };
  }
  return answer === null ? null : JSON.stringify(answer);
}

async function answerOf(answerer: Answerer, question: Question): Promise<Answer | null> {
  const { table, clock } = answerer;
  const run = table.bring(question.id) ?? (await bringFromLog(answerer, question.id));
  if (run === null) return answerClosed(answerer, question);
  const { name } = question;
  const input = await openInput(answerer, question);
  if (question.kind === "query") return { value: await run.query(name, input) };
  const { updateId: id } = question;
  const answered = run.update({ id, name, input }).then((value): Answer => ({ value }));
  const waited = wakeAfter(clock, pendingAfterMs);
  try {
    return await Promise.race([answered, waited.passed.then((): Answer => ({ pending: true }))]);
  } finally {
    waited.cancel();
    answered.catch(() => undefined);
  }
}

/** A run that the tail has not told of yet; null when it is over or not for this worker. */
async function bringFromLog(answerer: Answerer, id: string): Promise<Run | null> {
  const { table, definitions } = answerer;
  const log = storedLog(answerer.log);
  const last = await log.last(id);
  if (last === null || !definitions.has(last.type) || last.condition === "closed") return null;
  const state = foldHistory(await log.load(id));
  if (state === null || isClosed(state.status) || state.driver !== "code") return null;
  if (definitions.get(state.type)?.has(state.version) !== true) return null;
  table.admit(id, state.type, null);
  return table.bring(id);
}

/** A run that is over is asked too: its code is replayed for a query, its history knows the updates. */
async function answerClosed(answerer: Answerer, question: Question): Promise<Answer | null> {
  const { log, definitions, clock } = answerer;
  const history = await log.load(question.id);
  const first = history[0];
  if (first === undefined || !definitions.has(first.type)) return null;
  const present = presentRun(question.id, first.type, history);
  const { state } = present;
  if (!isClosed(state.status)) {
    if (state.driver === "code" && definitions.get(state.type)?.has(state.version) !== true) return null;
    throw new MillraceError(
      "unavailable",
      `Run ${state.id} (${state.status}) is not in this worker's hands now. Ask again.`,
    );
  }
  if (question.kind === "update") {
    const known: UpdateState | undefined = state.open?.updates[question.updateId];
    if (known?.status === "completed") return { value: known.output };
    if (known?.status === "failed") throw updateFailed(state.id, known.name, known.error);
    throw new MillraceError(
      "workflow_closed",
      `Update ${question.name} refused: run ${state.id} is ${state.status}. Start a new run under another id.`,
      { details: { runStatus: state.status } },
    );
  }
  const definition = definitions.get(state.type)?.get(state.version);
  if (definition === undefined) return null;
  assertOpenedPayload(state.input);
  const activation = await replay(present, {
    definition,
    input: await parseInput(definition, state.input),
    now: () => clock.now(),
    onStray: () => undefined,
  });
  return { value: activation.handlers.query(question.name, await openInput(answerer, question)) };
}

/** Only by who answers: others must not fail on what is not theirs. */
function openInput({ payloads }: Answerer, { kind, id, name, input }: Question): Promise<unknown> {
  return payloads.openMessage(id, input, `input of ${kind} ${name}`);
}

export interface AskOptions {
  readonly signal?: AbortSignal;
  /** In all. Default 10,000 for a query, none for an update. */
  readonly timeoutMs?: number;
}

/** Rejects with the answer's error, `timeout`, `unavailable`, or the signal's reason. */
export async function ask(
  log: SealedLog,
  clock: Clock,
  plain: Question,
  options: AskOptions = {},
): Promise<unknown> {
  const { signal } = options;
  const question = { ...plain, input: await log.payloads.sealMessage(plain.input) };
  const limitMs = options.timeoutMs ?? (question.kind === "query" ? questionMs : Number.POSITIVE_INFINITY);
  const until = clock.now() + limitMs;
  for (;;) {
    signal?.throwIfAborted();
    const leftMs = until - clock.now();
    try {
      const text = await orAborted(
        log.ask(questionTopic, JSON.stringify(question), {
          timeoutMs: Math.max(1, Math.min(questionMs, leftMs)),
        }),
        signal,
      );
      const answer = JSON.parse(text) as Answer;
      if ("value" in answer)
        return await log.payloads.openMessage(
          question.id,
          answer.value,
          `answer to ${question.kind} ${question.name}`,
        );
      if ("error" in answer) {
        const { code, message, retryable, details } = answer.error;
        throw new MillraceError(errorCodeOf(code), message, { retryable, details });
      }
    } catch (error) {
      if (!(error instanceof MillraceError) || !error.retryable) throw error;
      if (clock.now() + askAgainMs >= until) throw explained(error, question, limitMs);
      await orAborted(wakeAfter(clock, askAgainMs).passed, signal);
    }
  }
}

async function orAborted<T>(work: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return work;
  let abort = (): void => undefined;
  const aborted = new Promise<never>((_resolve, reject) => {
    abort = () => reject(signal.reason as Error);
    signal.addEventListener("abort", abort, { once: true });
  });
  try {
    return await Promise.race([work, aborted]);
  } finally {
    signal.removeEventListener("abort", abort);
    work.catch(() => undefined);
  }
}

function explained(error: MillraceError, { kind, name, id }: Question, limitMs: number): MillraceError {
  return new MillraceError(
    error.code,
    `The ${kind} ${name} of ${id} was not answered within ${limitMs} ms: ${error.message} ` +
      "Is a worker running that hosts this run's type and version?",
    { cause: error, details: { ...error.details, workflowId: id } },
  );
}
