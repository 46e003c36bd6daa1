import { DeliverPolicy, type JetStreamClient } from "@nats-io/jetstream";
import { MillraceError } from "@millrace/schemas";
import type { CommitHead } from "../event-log.ts";
import { headOf, timeOf } from "./commit-message.ts";

/**
 * The last commit head of every run, up to the log's end `until`. A run that moved past `until` in the meantime is
 * left out: whoever follows from `until` gets its newer commit.
 *
 * Rejects when the consumer or the connection is lost: the order in which a last-per-subject consumer would go on
 * cannot be taken up again, so the caller begins anew.
 */
export async function readHeads(
  client: JetStreamClient,
  stream: string,
  options: { readonly subjects: readonly string[] | null; readonly until: number; readonly aheadMax: number },
  onHead: (head: CommitHead) => void,
): Promise<void> {
  const consumer = await client.consumers.get(stream, {
    deliver_policy: DeliverPolicy.LastPerSubject,
    headers_only: true,
    inactive_threshold: 10_000,
    ...(options.subjects === null ? {} : { filter_subjects: [...options.subjects] }),
  });
  const { name, num_pending: ready } = await consumer.info(true);
  try {
    if (ready === 0) return;
    let settle: (error: Error | null) => void;
    const done = new Promise<Error | null>((resolve) => (settle = resolve));
    const interrupted = () =>
      settle(
        new MillraceError(
          "unavailable",
          `Reading the runs' last commits from ${stream} was interrupted. Try again.`,
        ),
      );
    let ended = false;
    const messages = await consumer.consume({
      max_messages: options.aheadMax,
      callback: (message) => {
        if (ended) return;
        if (message.info.consumer !== name) return interrupted();
        try {
          const { streamSequence: sequence, pending } = message.info;
          if (sequence <= options.until)
            onHead(headOf(message.subject, sequence, timeOf(message), message.headers));
          if (pending === 0 || sequence >= options.until) settle(null);
        } catch (error) {
          settle(error instanceof Error ? error : new Error(String(error)));
        }
      },
    });
    void messages.closed().then(interrupted, interrupted);
    const watch = async (): Promise<void> => {
      for await (const { type } of messages.status())
        if (type === "heartbeats_missed" || type === "reset") interrupted();
    };
    void watch().then(interrupted, interrupted);
    const failure = await done;
    ended = true;
    await messages.close();
    if (failure !== null) throw failure;
  } finally {
    // Best effort: the broker drops an abandoned consumer by itself.
    void consumer.delete().catch(() => false);
  }
}
