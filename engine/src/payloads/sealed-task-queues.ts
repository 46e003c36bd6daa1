/**
 * The task queues as the engine uses them: a task's input and what its heartbeats say are sealed on their way into the
 * broker, as in the log. An input that is too large for a message is not sent: who takes the task reads it in the
 * history, where it was stored with the step.
 */
import type {
  DeadLetter,
  EventLog,
  Heartbeat,
  HeartbeatKey,
  QueueInfo,
  QueueLimits,
  StoredCommit,
  StoredDeadLetter,
  TakenTask,
  TakeOptions,
  TaskMessage,
  TaskQueues,
} from "@millrace/event-log";
import { isStoredForm, MillraceError, type EventData } from "@millrace/schemas";
import { unopenedPayload, type Payloads } from "./payloads.ts";

export class SealedTaskQueues implements TaskQueues {
  readonly #log: EventLog;
  readonly #stored: TaskQueues;
  readonly #payloads: Payloads;

  /** `log`: as it stands, not sealed. */
  constructor(log: EventLog, payloads: Payloads) {
    this.#log = log;
    this.#stored = log.tasks;
    this.#payloads = payloads;
  }

  get leaseMs(): number {
    return this.#stored.leaseMs;
  }

  async publish(task: TaskMessage): Promise<void> {
    await this.#stored.publish(await this.#seal(task));
  }

  async take(queue: string, options: TakeOptions): Promise<readonly TakenTask[]> {
    const taken = await this.#stored.take(queue, options);
    return await Promise.all(taken.map(async (each) => ({ ...each, task: await this.#open(each.task) })));
  }

  extend(handle: string): void {
    this.#stored.extend(handle);
  }

  finish(handle: string): void {
    this.#stored.finish(handle);
  }

  release(handle: string, delayMs?: number): void {
    this.#stored.release(handle, delayMs);
  }

  async beat(key: HeartbeatKey, heartbeat: Heartbeat): Promise<void> {
    const details = await this.#payloads.sealMessage(heartbeat.details);
    await this.#stored.beat(key, { ...heartbeat, details });
  }

  async lastBeat(key: HeartbeatKey): Promise<(Heartbeat & { readonly at: number }) | null> {
    const last = await this.#stored.lastBeat(key);
    if (last === null) return null;
    const where = `heartbeat of task ${key.name}`;
    return { ...last, details: await this.#payloads.openPayload(key.workflowId, last.details, where) };
  }

  async bury(letter: DeadLetter): Promise<void> {
    await this.#stored.bury({ ...letter, task: await this.#seal(letter.task) });
  }

  async deadLetters(
    queue: string,
    page: { readonly after?: number; readonly limit: number },
  ): Promise<readonly StoredDeadLetter[]> {
    const letters = await this.#stored.deadLetters(queue, page);
    return await Promise.all(letters.map((letter) => this.#openLetter(letter)));
  }

  async deadLetter(queue: string, token: string): Promise<StoredDeadLetter | null> {
    const letter = await this.#stored.deadLetter(queue, token);
    return letter === null ? null : await this.#openLetter(letter);
  }

  removeDeadLetter(queue: string, token: string): Promise<boolean> {
    return this.#stored.removeDeadLetter(queue, token);
  }

  queues(): Promise<readonly QueueInfo[]> {
    return this.#stored.queues();
  }

  limits(queue: string): Promise<QueueLimits> {
    return this.#stored.limits(queue);
  }

  setLimits(queue: string, limits: QueueLimits): Promise<void> {
    return this.#stored.setLimits(queue, limits);
  }

  async #openLetter(letter: StoredDeadLetter): Promise<StoredDeadLetter> {
    return { ...letter, task: await this.#open(letter.task) };
  }

  async #seal(task: TaskMessage): Promise<TaskMessage> {
    const beside = await this.#payloads.sealBeside(task.input);
    return { ...task, input: beside === null ? inHistory : beside.payload };
  }

  async #open(task: TaskMessage): Promise<TaskMessage> {
    const { workflowId, name } = task;
    const input = isInHistory(task.input)
      ? await this.#inputFromHistory(task)
      : await this.#payloads.openPayload(workflowId, task.input, `input of task ${name}`);
    return input === task.input ? task : { ...task, input };
  }

  async #inputFromHistory({ workflowId, name, occurrence, token, sequence }: TaskMessage): Promise<unknown> {
    const inCommit = (commit: StoredCommit): EventData<"StepScheduled"> | undefined =>
      commit.events
        .filter((event) => event.type === "StepScheduled")
        .map(({ data }) => data)
        .findLast((data) => data.token === token);
    // Most often the run stands where it stood when it scheduled the task.
    const last = await this.#log.read(sequence);
    const found =
      (last?.workflowId === workflowId ? inCommit(last) : undefined) ??
      (await this.#log.load(workflowId)).map(inCommit).findLast((data) => data !== undefined);
    if (found !== undefined)
      return await this.#payloads.openPayload(workflowId, found.input, `input of task ${name}`);
    // Not thrown: it concerns one of several that were taken.
    const missing = new MillraceError(
      "payload_missing",
      `The input of task ${name}#${occurrence} of ${workflowId} is not in the history: nothing there was scheduled with ` +
        "its token. Was the log restored without the queues? Redrive or reset the run.",
      { details: { workflowId, token } },
    );
    return unopenedPayload(missing);
  }
}

/** In a message only, never in the log. */
const inHistory = { $millrace: { history: true } };

function isInHistory(input: unknown): boolean {
  if (!isStoredForm(input)) return false;
  const { $millrace: inner } = input as { readonly $millrace: unknown };
  return typeof inner === "object" && inner !== null && Object.keys(inner).join() === "history";
}
