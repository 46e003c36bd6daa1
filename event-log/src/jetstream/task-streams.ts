/** What the task queues have in the broker, made on first use: streams, consumers and buckets. */
import {
  AckPolicy,
  DeliverPolicy,
  DiscardPolicy,
  JetStreamApiError,
  RetentionPolicy,
  StorageType,
  type ConsumerConfig,
  type JetStreamManager,
  type StreamConfig,
} from "@nats-io/jetstream";
import { permitSubject, taskNames, taskSubject, type TaskPriority } from "@millrace/schemas";
import { toMillraceError } from "./broker-errors.ts";

/** Tasks that wait or run in a namespace: one more is `log_full`. */
const tasksMax = 10_000_000;
/** Dead letters kept. The oldest go first: what happened stands in the runs' histories for ever. */
const deadLettersMax = 1_000_000;
/** How long the broker knows a token again. A later repetition is harmless, since the log refuses it. */
const knownTokensMs = 120_000;
/** Pull requests that stand at one consumer, which is one for each process that wants its tasks. */
const waitingPullsMax = 16_384;
const nanos = (ms: number): number => ms * 1_000_000;

export interface TaskStreamsOptions {
  readonly manager: JetStreamManager;
  readonly namespace: string;
  readonly replicas: number;
  readonly leaseMs: number;
}

export class TaskStreams {
  readonly #options: TaskStreamsOptions;
  readonly #made = new Map<string, Promise<void>>();

  constructor(options: TaskStreamsOptions) {
    this.#options = options;
  }

  /** What was made may be gone after a loss of the connection. */
  forget(): void {
    this.#made.clear();
  }

  tasks(): Promise<void> {
    const { stream, all } = taskNames(this.#options.namespace);
    return this.#once(stream, () =>
      this.#addStream({
        name: stream,
        subjects: [all],
        retention: RetentionPolicy.Workqueue,
        discard: DiscardPolicy.New,
        max_msgs: tasksMax,
        duplicate_window: nanos(knownTokensMs),
      }),
    );
  }

  permits(): Promise<void> {
    const { permitStream, permits } = taskNames(this.#options.namespace);
    return this.#once(permitStream, () =>
      this.#addStream({
        name: permitStream,
        subjects: [permits],
        discard: DiscardPolicy.New,
        // A permit that is there already is not made twice.
        discard_new_per_subject: true,
        max_msgs_per_subject: 1,
      }),
    );
  }

  dead(): Promise<void> {
    const { deadStream, dead } = taskNames(this.#options.namespace);
    return this.#once(deadStream, () =>
      this.#addStream({
        name: deadStream,
        subjects: [dead],
        discard: DiscardPolicy.Old,
        max_msgs: deadLettersMax,
        max_msgs_per_subject: 1,
      }),
    );
  }

  /** Priorities need a consumer each: one consumer delivers in the order of the stream. */
  async taskConsumer(queue: string, priority: TaskPriority): Promise<void> {
    const { namespace } = this.#options;
    await this.tasks();
    const { stream } = taskNames(namespace);
    await this.#addConsumer(
      stream,
      taskConsumerName(queue, priority),
      taskSubject(namespace, queue, priority),
    );
  }

  async permitConsumer(queue: string): Promise<void> {
    const { namespace } = this.#options;
    await this.permits();
    const { permitStream } = taskNames(namespace);
    await this.#addConsumer(permitStream, queue, permitSubject(namespace, queue, "*"));
  }

  async #addStream(config: Partial<StreamConfig> & { readonly name: string }): Promise<void> {
    const { manager, replicas } = this.#options;
    try {
      await manager.streams.add({ storage: StorageType.File, num_replicas: replicas, ...config });
    } catch (error) {
      // Made by somebody else, perhaps by another version with other limits: theirs stands.
      if (error instanceof JetStreamApiError && error.code === streamNameInUse) return;
      throw toMillraceError(error, `Opening ${config.name}`);
    }
  }

  #addConsumer(stream: string, name: string, subject: string): Promise<void> {
    return this.#once(`${stream} ${name}`, async () => {
      const { manager, leaseMs } = this.#options;
      const config: Partial<ConsumerConfig> = {
        durable_name: name,
        filter_subject: subject,
        ack_policy: AckPolicy.Explicit,
        deliver_policy: DeliverPolicy.All,
        ack_wait: nanos(leaseMs),
        // How often a task may be tried is for its run to say.
        max_deliver: -1,
        max_ack_pending: -1,
        max_waiting: waitingPullsMax,
      };
      try {
        await manager.consumers.add(stream, config);
      } catch (error) {
        if (error instanceof JetStreamApiError && error.code === consumerExists) return;
        throw toMillraceError(error, `Opening queue consumer ${name} of ${stream}`);
      }
    });
  }

  #once(key: string, make: () => Promise<void>): Promise<void> {
    let made = this.#made.get(key);
    if (made === undefined) {
      made = make();
      this.#made.set(key, made);
      made.catch(() => this.#made.delete(key));
    }
    return made;
  }
}

/** `err_code`s of the broker. */
const streamNameInUse = 10_058;
const consumerExists = 10_148;

export function taskConsumerName(queue: string, priority: TaskPriority): string {
  return `${queue}-${priority}`;
}
