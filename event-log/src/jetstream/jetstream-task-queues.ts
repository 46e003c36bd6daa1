/**
 * The task queues on NATS JetStream. Everything in the broker is made on first use: a namespace without tasks has
 * none of it.
 *
 * Owns: one taker for each queue that this process takes from, the publisher. Does not own: the connection.
 *
 * Tested by the conformance suite (`jetstream-task-queues.nats.test.ts`) on a real broker that is killed and started.
 */
import { Kvm, type KV } from "@nats-io/kv";
import type { JetStreamManager } from "@nats-io/jetstream";
import type { NatsConnection } from "nats";
import { encodeHeaders } from "./encode-headers.ts";
import {
  assertQueueName,
  deadSubject,
  isMillraceError,
  MillraceError,
  permitSubject,
  taskNames,
  taskPriorities,
  taskSubject,
} from "@millrace/schemas";
import { QueueTaker, type LaneEvents } from "../queue-taker.ts";
import { assertQueueLimits, encodeTask, foreignHandle, parseHandle, takenTasks } from "../task-message.ts";
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
} from "../task-queues.ts";
import { toMillraceError } from "./broker-errors.ts";
import { CommitPublisher } from "./commit-publisher.ts";
import { DeadLetters } from "./dead-letters.ts";
import { readQueueStats } from "./queue-stats.ts";
import { keyToken, QueueSettings, unavailableQueues } from "./queue-settings.ts";
import { TaskLane } from "./task-lane.ts";
import { taskConsumerName, TaskStreams } from "./task-streams.ts";

export interface JetStreamTaskQueuesOptions {
  readonly connection: NatsConnection;
  readonly manager: JetStreamManager;
  readonly namespace: string;
  readonly replicas: number;
  readonly leaseMs: number;
  readonly publishTimeoutMs: number;
  /** Resolves after a back-off, or when the connection comes back; with false when the log was closed. */
  readonly pause: (attempt: number) => Promise<boolean>;
}

/** Heartbeats of tasks that nobody runs any more go after this. */
const heartbeatKeptMs = 7 * 24 * 3_600_000;
const publishTriesMax = 8;

const acknowledge = new TextEncoder().encode("+ACK");
const inProgress = new TextEncoder().encode("+WPI");

interface Taking {
  readonly taker: QueueTaker;
  readonly lanes: TaskLane[];
}

export class JetStreamTaskQueues implements TaskQueues {
  readonly leaseMs: number;
  readonly #options: JetStreamTaskQueuesOptions;
  readonly #streams: TaskStreams;
  readonly #settings: QueueSettings;
  readonly #dead: DeadLetters;
  readonly #publisher: CommitPublisher;
  readonly #taking = new Map<string, Taking>();
  #heartbeats: Promise<KV> | null = null;
  #linked = true;

  constructor(options: JetStreamTaskQueuesOptions) {
    const { connection, manager, namespace, replicas } = options;
    this.#options = options;
    this.leaseMs = options.leaseMs;
    this.#streams = new TaskStreams(options);
    this.#settings = new QueueSettings(connection, namespace, replicas, (queue) =>
      this.#taking.get(queue)?.taker.wake(),
    );
    this.#dead = new DeadLetters(manager, namespace, () => this.#streams.dead());
    this.#publisher = new CommitPublisher(connection, {
      inFlightMax: 1_024,
      queuedMax: 65_536,
      timeoutMs: options.publishTimeoutMs,
    });
  }

  async publish(task: TaskMessage): Promise<void> {
    const { namespace } = this.#options;
    assertQueueName(task.queue);
    await this.#streams.tasks();
    await this.#send(taskSubject(namespace, task.queue, task.priority), encodeTask(task), task.token);
  }

  async take(queue: string, options: TakeOptions): Promise<readonly TakenTask[]> {
    assertQueueName(queue);
    if (!this.#linked) throw unavailableQueues(this.#options.namespace);
    const { tasks, foreign } = takenTasks(await this.#takingOf(queue).taker.take(options));
    for (const handle of foreign) this.finish(handle);
    if (foreign.length > 0 && tasks.length === 0) {
      throw new MillraceError(
        "internal",
        `${foreign.length} messages in queue ${queue} were no tasks of ours and were removed. Look for a foreign writer on ${taskNames(this.#options.namespace).stream}.`,
      );
    }
    return tasks;
  }

  extend(handle: string): void {
    const { task, permit } = this.#parse(handle);
    this.#answer(task, inProgress);
    if (permit !== null) this.#answer(permit, inProgress);
  }

  finish(handle: string): void {
    const { task, permit } = this.#parse(handle);
    this.#answer(task, acknowledge);
    if (permit !== null) this.#giveBack(permit, 0);
  }

  release(handle: string, delayMs = 0): void {
    const { task, permit } = this.#parse(handle);
    this.#giveBack(task, delayMs);
    if (permit !== null) this.#giveBack(permit, 0);
  }

  async beat(key: HeartbeatKey, heartbeat: Heartbeat): Promise<void> {
    const bucket = await this.#heartbeatBucket();
    try {
      await bucket.put(heartbeatKey(key), JSON.stringify(heartbeat));
    } catch (error) {
      throw toMillraceError(error, `Heartbeat of ${key.name} of ${key.workflowId}`);
    }
  }

  async lastBeat(key: HeartbeatKey): Promise<(Heartbeat & { readonly at: number }) | null> {
    const bucket = await this.#heartbeatBucket();
    try {
      const entry = await bucket.get(heartbeatKey(key));
      if (entry === null || entry.operation !== "PUT") return null;
      return { ...entry.json<Heartbeat>(), at: entry.created.getTime() };
    } catch (error) {
      throw toMillraceError(error, `Reading the heartbeat of ${key.name} of ${key.workflowId}`);
    }
  }

  async bury(letter: DeadLetter): Promise<void> {
    const { queue, token } = letter.task;
    await this.#streams.dead();
    const subject = deadSubject(this.#options.namespace, queue, token);
    // Without a message id: one that was removed may come again. A subject keeps one message anyway.
    await this.#send(subject, new TextEncoder().encode(JSON.stringify(letter)), null);
  }

  deadLetters(
    queue: string,
    page: { readonly after?: number; readonly limit: number },
  ): Promise<readonly StoredDeadLetter[]> {
    assertQueueName(queue);
    return this.#dead.list(queue, page);
  }

  deadLetter(queue: string, token: string): Promise<StoredDeadLetter | null> {
    assertQueueName(queue);
    return this.#dead.get(queue, token);
  }

  removeDeadLetter(queue: string, token: string): Promise<boolean> {
    assertQueueName(queue);
    return this.#dead.remove(queue, token);
  }

  async limits(queue: string): Promise<QueueLimits> {
    assertQueueName(queue);
    return await this.#settings.limits(queue);
  }

  async setLimits(queue: string, limits: QueueLimits): Promise<void> {
    assertQueueName(queue);
    assertQueueLimits(queue, limits);
    if (limits.concurrency !== null) await this.#setPermits(queue, limits.concurrency);
    await this.#settings.setLimits(queue, limits);
    this.#taking.get(queue)?.taker.wake();
  }

  async queues(): Promise<readonly QueueInfo[]> {
    const { manager, namespace } = this.#options;
    await this.#streams.tasks();
    const dead = await this.#dead.counts();
    const stats = await readQueueStats(manager, namespace);
    const names = new Set([...stats.keys(), ...dead.keys(), ...(await this.#settings.limited())]);
    const idle = { depth: 0, inFlight: 0, oldestAgeMs: null };
    return await Promise.all(
      [...names].toSorted().map(async (queue) => ({
        queue,
        ...(stats.get(queue) ?? idle),
        deadLetters: dead.get(queue) ?? 0,
        limits: await this.#settings.limits(queue),
      })),
    );
  }

  disconnected(): void {
    this.#linked = false;
    this.#publisher.disconnected();
    const error = unavailableQueues(this.#options.namespace);
    for (const { taker, lanes } of this.#taking.values()) {
      for (const lane of lanes) lane.fail(error);
      taker.fail(error);
    }
  }

  async reconnected(): Promise<void> {
    this.#linked = true;
    this.#streams.forget();
    this.#publisher.reconnected();
    await this.#settings.reconnected();
  }

  close(): void {
    this.disconnected();
    this.#publisher.close(unavailableQueues(this.#options.namespace));
    this.#settings.close();
    for (const { lanes } of this.#taking.values()) for (const lane of lanes) lane.close();
  }

  /** Sends until it is stored. With a message id, a repetition does not count. */
  async #send(subject: string, payload: Uint8Array, messageId: string | null): Promise<void> {
    for (let attempt = 0; ; attempt++) {
      const sent = messageId === null ? {} : { "Nats-Msg-Id": messageId };
      const outcome = await this.#publisher.send(subject, payload, encodeHeaders(sent));
      if (outcome.kind === "stored") return;
      const error = toMillraceError(outcome.error, `Publishing to ${subject}`);
      if (attempt >= publishTriesMax || !(await this.#options.pause(attempt))) throw error;
    }
  }

  /** Permits 0 to n - 1; those beyond go, also when a task holds them. */
  async #setPermits(queue: string, count: number): Promise<void> {
    const { namespace, manager } = this.#options;
    await this.#streams.permits();
    const { permitStream } = taskNames(namespace);
    const info = await manager.streams.info(permitStream, {
      subjects_filter: permitSubject(namespace, queue, "*"),
    });
    const existing = new Set(Object.keys(info.state.subjects ?? {}));
    const wanted = Array.from({ length: count }, (_, n) => permitSubject(namespace, queue, n));
    const surplus = [...existing].filter((subject) => !wanted.includes(subject));
    await Promise.all([
      ...wanted.filter((subject) => !existing.has(subject)).map((subject) => this.#addPermit(subject)),
      ...surplus.map((filter) => manager.streams.purge(permitStream, { filter })),
    ]);
  }

  async #addPermit(subject: string): Promise<void> {
    try {
      await this.#send(subject, new Uint8Array(0), null);
    } catch (error) {
      // Somebody else, who sets the same limits, made it.
      if (!isMillraceError(error, "limit_exceeded")) throw error;
    }
  }

  #takingOf(queue: string): Taking {
    let taking = this.#taking.get(queue);
    if (taking === undefined) {
      const lanes: TaskLane[] = [];
      const taker = new QueueTaker({
        leaseMs: this.leaseMs,
        now: Date.now,
        priorities: taskPriorities,
        limits: () => this.#settings.limits(queue),
        openLane: (kind, events) => {
          const lane = this.#openLane(queue, kind, events);
          lanes.push(lane);
          return lane;
        },
        usedUntil: () => this.#settings.usedUntil(queue),
        reserve: (rate, count) => this.#settings.reserve(queue, rate, count),
        extend: (reply) => this.#answer(reply, inProgress),
        release: (reply, delayMs) => this.#giveBack(reply, delayMs),
      });
      taking = { taker, lanes };
      this.#taking.set(queue, taking);
    }
    return taking;
  }

  #openLane(queue: string, kind: number | "permits", events: LaneEvents): TaskLane {
    const { connection, namespace } = this.#options;
    const { stream, permitStream } = taskNames(namespace);
    if (kind === "permits") {
      const ensure = () => this.#streams.permitConsumer(queue);
      return new TaskLane({ connection, stream: permitStream, consumer: queue, ensure, events });
    }
    const priority = taskPriorities.find((each) => each === kind) ?? 1;
    const ensure = () => this.#streams.taskConsumer(queue, priority);
    return new TaskLane({ connection, stream, consumer: taskConsumerName(queue, priority), ensure, events });
  }

  /** Handles come back from outside: nothing but an answer to a delivery of ours may be published for one. */
  #parse(handle: string): ReturnType<typeof parseHandle> {
    const parsed = parseHandle(handle);
    const { stream, permitStream } = taskNames(this.#options.namespace);
    if (!isReplyOf(parsed.task, stream)) throw foreignHandle(handle);
    if (parsed.permit !== null && !isReplyOf(parsed.permit, permitStream)) throw foreignHandle(handle);
    return parsed;
  }

  #giveBack(reply: string, delayMs: number): void {
    const delay = delayMs > 0 ? ` ${JSON.stringify({ delay: Math.round(delayMs * 1_000_000) })}` : "";
    this.#answer(reply, new TextEncoder().encode(`-NAK${delay}`));
  }

  #answer(reply: string, payload: Uint8Array): void {
    if (this.#options.connection.isClosed()) return;
    // Lost on the way, it is as if nothing was said: the lease passes.
    this.#options.connection.publish(reply, payload);
  }

  #heartbeatBucket(): Promise<KV> {
    if (this.#heartbeats === null) {
      const { connection, namespace, replicas } = this.#options;
      const { heartbeatBucket } = taskNames(namespace);
      const opening = new Kvm(connection)
        .create(heartbeatBucket, { history: 1, replicas, ttl: heartbeatKeptMs })
        .catch((error: unknown) => {
          throw toMillraceError(error, `Opening ${heartbeatBucket}`);
        });
      this.#heartbeats = opening;
      opening.catch(() => (this.#heartbeats = null));
    }
    return this.#heartbeats;
  }
}

function heartbeatKey({ workflowId, run, name, occurrence }: HeartbeatKey): string {
  return `${workflowId}.${run}.${keyToken(name)}.${occurrence}`;
}

function isReplyOf(reply: string, stream: string): boolean {
  return /^\$JS\.ACK\.[A-Za-z0-9_.-]+$/.test(reply) && reply.split(".").includes(stream);
}
