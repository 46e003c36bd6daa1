/** Tasks that failed for good: one message each, in a stream of their own. */
import {
  JetStreamApiCodes,
  JetStreamApiError,
  type JetStreamManager,
  type StoredMsg,
} from "@nats-io/jetstream";
import { deadSubject, MillraceError, taskNames } from "@millrace/schemas";
import type { DeadLetter, StoredDeadLetter } from "../task-queues.ts";
import { toMillraceError } from "./broker-errors.ts";

export class DeadLetters {
  readonly #manager: JetStreamManager;
  readonly #namespace: string;
  readonly #ensure: () => Promise<void>;
  readonly #stream: string;

  constructor(manager: JetStreamManager, namespace: string, ensure: () => Promise<void>) {
    this.#manager = manager;
    this.#namespace = namespace;
    this.#ensure = ensure;
    this.#stream = taskNames(namespace).deadStream;
  }

  async list(
    queue: string,
    page: { readonly after?: number; readonly limit: number },
  ): Promise<readonly StoredDeadLetter[]> {
    await this.#ensure();
    const letters: StoredDeadLetter[] = [];
    let sequence = (page.after ?? 0) + 1;
    while (letters.length < page.limit) {
      const message = await this.#read({
        seq: sequence,
        next_by_subj: deadSubject(this.#namespace, queue, "*"),
      });
      if (message === null) break;
      letters.push(letterOf(message));
      sequence = message.seq + 1;
    }
    return letters;
  }

  async get(queue: string, token: string): Promise<StoredDeadLetter | null> {
    await this.#ensure();
    const message = await this.#read({ last_by_subj: deadSubject(this.#namespace, queue, token) });
    return message === null ? null : letterOf(message);
  }

  async remove(queue: string, token: string): Promise<boolean> {
    const letter = await this.get(queue, token);
    if (letter === null) return false;
    try {
      return await this.#manager.streams.deleteMessage(this.#stream, letter.sequence);
    } catch (error) {
      // Somebody else removed it just now.
      if (error instanceof JetStreamApiError && error.code === messageGone) return false;
      throw toMillraceError(error, `Removing the dead letter ${token} of queue ${queue}`);
    }
  }

  /** How many each queue has. */
  async counts(): Promise<ReadonlyMap<string, number>> {
    await this.#ensure();
    const counts = new Map<string, number>();
    try {
      const info = await this.#manager.streams.info(this.#stream, {
        subjects_filter: taskNames(this.#namespace).dead,
      });
      for (const subject of Object.keys(info.state.subjects ?? {})) {
        const queue = subject.split(".")[2] ?? "";
        counts.set(queue, (counts.get(queue) ?? 0) + 1);
      }
      return counts;
    } catch (error) {
      throw toMillraceError(error, "Counting dead letters");
    }
  }

  async #read(
    query: { seq: number; next_by_subj: string } | { last_by_subj: string },
  ): Promise<StoredMsg | null> {
    try {
      return await this.#manager.streams.getMessage(this.#stream, query);
    } catch (error) {
      if (error instanceof JetStreamApiError && error.code === JetStreamApiCodes.NoMessageFound) return null;
      throw toMillraceError(error, "Reading dead letters");
    }
  }
}

/** `err_code` of the broker for a message that is not there. */
const messageGone = 10_057;

function letterOf(message: StoredMsg): StoredDeadLetter {
  try {
    return { ...message.json<DeadLetter>(), sequence: message.seq, at: message.time.getTime() };
  } catch (cause) {
    throw new MillraceError(
      "commit_malformed",
      `Dead letter at sequence ${message.seq} on ${message.subject} is not one of ours. Remove it from the stream.`,
      { cause },
    );
  }
}
