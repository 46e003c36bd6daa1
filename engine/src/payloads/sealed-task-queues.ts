/**
 * The task queues as the engine uses them: a task's input is sealed on its way into the broker, as in the log.
 * What a heartbeat says is not: keep secrets out of it.
 */
import type {
  DeadLetter,
  Heartbeat,
  HeartbeatKey,
  QueueInfo,
  QueueLimits,
  StoredDeadLetter,
  TakenTask,
  TakeOptions,
  TaskMessage,
  TaskQueues,
} from "@millrace/event-log";
import type { Payloads } from "./payloads.ts";

export class SealedTaskQueues implements TaskQueues {
  readonly #stored: TaskQueues;
  readonly #payloads: Payloads;

  constructor(stored: TaskQueues, payloads: Payloads) {
    this.#stored = stored;
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

  beat(key: HeartbeatKey, heartbeat: Heartbeat): Promise<void> {
    return this.#stored.beat(key, heartbeat);
  }

  lastBeat(key: HeartbeatKey): Promise<(Heartbeat & { readonly at: number }) | null> {
    return this.#stored.lastBeat(key);
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
    const input = await this.#payloads.sealPayload(task.workflowId, task.input, inputOf(task));
    return input === task.input ? task : { ...task, input };
  }

  async #open(task: TaskMessage): Promise<TaskMessage> {
    const input = await this.#payloads.openPayload(task.workflowId, task.input, inputOf(task));
    return input === task.input ? task : { ...task, input };
  }
}

function inputOf({ name }: TaskMessage): string {
  return `input of task ${name}`;
}
