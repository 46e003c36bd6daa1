import { JetStreamApiCodes, JetStreamApiError, type JetStreamManager } from "@nats-io/jetstream";
import { taskNames, taskPriorities, taskSubject } from "@millrace/schemas";
import type { QueueInfo } from "../task-queues.ts";
import { toMillraceError } from "./broker-errors.ts";

type QueueStats = Pick<QueueInfo, "depth" | "inFlight" | "oldestAgeMs">;

/** Depths by queue: of consumers, and of subjects that nobody has taken from yet. */
export async function readQueueStats(
  manager: JetStreamManager,
  namespace: string,
): Promise<ReadonlyMap<string, QueueStats>> {
  const { stream, all } = taskNames(namespace);
  const stats = new Map<string, { depth: number; inFlight: number; oldestAgeMs: number | null }>();
  const of = (queue: string) => {
    const known = stats.get(queue) ?? { depth: 0, inFlight: 0, oldestAgeMs: null };
    stats.set(queue, known);
    return known;
  };
  try {
    const seen = new Set<string>();
    for await (const { name, num_pending, num_ack_pending, delivered } of manager.consumers.list(stream)) {
      const priority = taskPriorities.find((each) => name.endsWith(`-${each}`));
      if (priority === undefined) continue;
      const queue = name.slice(0, -2);
      const subject = taskSubject(namespace, queue, priority);
      seen.add(subject);
      const entry = of(queue);
      entry.depth += num_pending;
      entry.inFlight += num_ack_pending;
      if (num_pending > 0)
        entry.oldestAgeMs = older(
          entry.oldestAgeMs,
          await ageOf(manager, stream, subject, delivered.stream_seq),
        );
    }
    const { state } = await manager.streams.info(stream, { subjects_filter: all });
    for (const [subject, count] of Object.entries(state.subjects ?? {})) {
      if (seen.has(subject)) continue;
      const entry = of(subject.split(".")[2] ?? "");
      entry.depth += count;
      entry.oldestAgeMs = older(entry.oldestAgeMs, await ageOf(manager, stream, subject, 0));
    }
    return stats;
  } catch (error) {
    throw toMillraceError(error, `Reading the queues of namespace ${namespace}`);
  }
}

function older(a: number | null, b: number | null): number | null {
  return a === null || b === null ? (a ?? b) : Math.max(a, b);
}

/** Age of the first message of a subject after a sequence; null when it was taken meanwhile. */
async function ageOf(
  manager: JetStreamManager,
  stream: string,
  subject: string,
  after: number,
): Promise<number | null> {
  try {
    // The library's type has no `next_by_subj` here, the broker has.
    const first = { seq: after + 1, next_by_subj: subject };
    const message = await manager.streams.getMessage(stream, first);
    return message === null ? null : Math.max(0, Date.now() - message.time.getTime());
  } catch (error) {
    if (error instanceof JetStreamApiError && error.code === JetStreamApiCodes.NoMessageFound) return null;
    throw error;
  }
}
