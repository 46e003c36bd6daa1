/**
 * The memory twin of the event log, for tests of the parts above it. Passes the same conformance suite as the
 * JetStream adapter, faults included. Flushes nothing anywhere.
 *
 * Owns: one connection's followers, listeners and status. Does not own: the stored commits (`memory-server.ts`),
 * the append protocol (`settle-append.ts`), delivery (`memory-follower.ts`).
 *
 * I1 No call-back runs inside a call of this object: commits, hints and statuses come on a later turn.
 * I2 A log that was made anew under this connection is never written to: `log_recreated`.
 */
import { setTimeout as delay } from "node:timers/promises";
import {
  assertNamespace,
  assertWorkflowId,
  epochOf,
  logNames,
  MillraceError,
  shardOf,
} from "@millrace/schemas";
import { encodeAppend } from "../encode-append.ts";
import type { AppendRequest, EventLog, LogStatus, StoredCommit } from "../event-log.ts";
import { LogCommit } from "../log-commit.ts";
import { settleAppend, type AppendTransport } from "../settle-append.ts";
import { verdictOf } from "../verdict-of.ts";
import { createMemoryBlobs } from "./memory-blobs.ts";
import { followMemory, type MemoryFollower } from "./memory-follower.ts";
import { createMemoryLeases } from "./memory-leases.ts";
import { createMemoryServer, type MemoryServer } from "./memory-server.ts";
import { createMemoryTaskQueues } from "./memory-task-queues.ts";

export interface MemoryLogOptions {
  /** Default `default`. */
  readonly namespace?: string;
  /** The server that this connection is made to. Default: one of its own. */
  readonly server?: MemoryServer;
  /** Milliseconds since 1970, for commit times; not with `server`, which has its own. Default: the machine's clock. */
  readonly clock?: () => number;
  /** Part of the epoch. Default `""`. */
  readonly generation?: string;
  /** Time for all attempts of one append, in milliseconds. Default 30,000. */
  readonly appendBudgetMs?: number;
  /** How long a taken task is left alone without a word, in milliseconds. Default 30,000. */
  readonly taskLeaseMs?: number;
}

/**
 * A connection to an event log in memory. Connections with the same `server` and namespace see one log.
 *
 * @example
 * const server = createMemoryServer();
 * const writer = createMemoryLog({ server });
 * const reader = createMemoryLog({ server });
 */
export function createMemoryLog(options: MemoryLogOptions = {}): EventLog {
  const namespace = options.namespace ?? "default";
  assertNamespace(namespace);
  const server =
    options.server ?? createMemoryServer(options.clock === undefined ? {} : { clock: options.clock });
  const generation = options.generation ?? "";
  const budgetMs = options.appendBudgetMs ?? 30_000;
  const tasks = createMemoryTaskQueues(server, namespace, options.taskLeaseMs ?? 30_000);
  const stream = () => server.stream(namespace);
  const { created } = stream();

  let status: LogStatus = server.connected ? "connected" : "disconnected";
  const statusListeners = new Set<(status: LogStatus) => void>();
  const topicListeners = new Map<string, Set<(value: number) => void>>();
  const followers = new Set<MemoryFollower>();
  const ownAnswerers = new Set<(topic: string, question: string) => Promise<string | null> | null>();
  const closing = new AbortController();

  function setStatus(next: LogStatus): void {
    if (status === next || status === "closed") return;
    status = next;
    for (const listener of [...statusListeners]) queueMicrotask(() => listener(next));
  }
  function onTopic(topic: string, value: number): void {
    queueMicrotask(() => {
      for (const listener of [...(topicListeners.get(topic) ?? [])]) listener(value);
    });
  }
  stream().topics.add(onTopic);
  const offConnected = server.onConnected((connected) => {
    if (!connected) setStatus("disconnected");
    else setStatus(stream().created === created ? "connected" : "recreated");
    for (const follower of [...followers]) follower.connectionChanged();
    leases.connectionChanged();
    tasks.connectionChanged(connected);
  });
  const leases = createMemoryLeases(server, namespace);

  function requireOpen(): void {
    if (status !== "closed") return;
    throw new MillraceError(
      "unavailable",
      `The event log of namespace ${namespace} was closed. Open it again.`,
      {
        retryable: false,
      },
    );
  }
  function requireConnected(): void {
    requireOpen();
    if (server.connected) return;
    throw new MillraceError(
      "unavailable",
      `The event log of namespace ${namespace} is not reachable. Try again.`,
    );
  }
  function requireSame(): void {
    if (stream().created === created) return;
    throw new MillraceError(
      "log_recreated",
      `The event log of namespace ${namespace} was created anew at ${stream().created} (this connection knows ${created}). ` +
        "Restart this process.",
      { details: { expected: created, actual: stream().created } },
    );
  }
  function commitAt(sequence: number): StoredCommit | null {
    const entry = stream().entries[sequence - 1];
    return entry === undefined ? null : new LogCommit(entry.head, entry.body);
  }
  function sequencesOf(workflowId: string, type: string | null): number[] {
    const all = stream().byId.get(workflowId) ?? [];
    return all.filter((sequence) => type === null || stream().entries[sequence - 1]?.head.type === type);
  }

  const transport: AppendTransport = {
    async send(request, expectation) {
      if (!server.connected)
        return { kind: "unsent", error: new MillraceError("unavailable", "The log is not reachable.") };
      requireSame();
      const ack = await server
        .publish(
          namespace,
          {
            workflowId: request.workflowId,
            type: request.type,
            commitId: request.commitId,
            writer: request.writer ?? null,
            condition: request.condition ?? null,
            dueAt: request.dueAt ?? null,
            parent: request.parent ?? null,
            traceparent: request.traceparent ?? null,
            body: encodeAppend(request),
          },
          expectation,
        )
        .catch((error: unknown) => (error instanceof Error ? error : new Error(String(error))));
      if (ack instanceof Error) return { kind: "unanswered", error: ack };
      if (ack.kind === "stored") return ack;
      if (ack.kind === "refused")
        return { kind: "refused", error: new Error(`wrong last sequence: ${ack.actual}`) };
      throw new MillraceError(
        "limit_exceeded",
        `Append to ${request.workflowId} refused: the run has ${ack.commits} commits, which is the limit. End the run.`,
        { details: { limit: ack.commits, actual: ack.commits + 1 } },
      );
    },
    async lastHead(request, anyType) {
      requireConnected();
      return commitAt(sequencesOf(request.workflowId, anyType ? null : request.type).at(-1) ?? 0);
    },
    async find(request, after, until) {
      requireConnected();
      const inside = sequencesOf(request.workflowId, null).filter(
        (sequence) => sequence > after && sequence <= until,
      );
      return inside.find((sequence) => commitAt(sequence)?.commitId === request.commitId) ?? null;
    },
  };
  const policy = {
    budgetMs,
    now: () => performance.now(),
    random: Math.random,
    wait: (ms: number) => delay(ms, undefined, { signal: closing.signal }),
  };

  return {
    namespace,
    blobs: createMemoryBlobs(server, namespace),
    tasks,
    async append(request: AppendRequest) {
      requireOpen();
      requireSame();
      encodeAppend(request);
      try {
        return await settleAppend(transport, policy, request);
      } catch (error) {
        requireOpen();
        throw error;
      }
    },
    async load(workflowId, range = {}) {
      assertWorkflowId(workflowId);
      requireConnected();
      const commits: StoredCommit[] = [];
      for (const sequence of sequencesOf(workflowId, null)) {
        const commit = sequence > (range.after ?? 0) ? commitAt(sequence) : null;
        if (commit !== null) commits.push(commit);
      }
      return commits;
    },
    async last(workflowId) {
      assertWorkflowId(workflowId);
      requireConnected();
      return commitAt(sequencesOf(workflowId, null).at(-1) ?? 0);
    },
    async read(sequence) {
      requireConnected();
      return commitAt(sequence);
    },
    async page({ after, upTo, workflows, types, commitsMax, bytesMax }) {
      requireConnected();
      const end = Math.min(upTo, stream().entries.length);
      const commits: StoredCommit[] = [];
      let bytes = 0;
      for (let sequence = after + 1; sequence <= end; sequence++) {
        const commit = commitAt(sequence);
        if (commit === null || workflows?.includes(commit.workflowId) === false) continue;
        if (types?.includes(commit.type) === false) continue;
        commits.push(commit);
        bytes += commit.body.length;
        if (commits.length >= commitsMax || bytes >= bytesMax) return { commits, upTo: sequence };
      }
      return { commits, upTo };
    },
    async heads(onHead, { types, shards } = {}) {
      requireConnected();
      const end = stream().entries.length;
      const heads = [...stream().byId.values()].map(
        (sequences) => stream().entries[(sequences.at(-1) ?? 0) - 1]?.head,
      );
      await Promise.resolve();
      for (const head of heads) {
        if (head === undefined || types?.includes(head.type) === false) continue;
        if (shards?.includes(shardOf(head.workflowId, stream().shardCount)) === false) continue;
        onHead(head);
      }
      return end;
    },
    async follow(following) {
      requireConnected();
      requireSame();
      const follower = followMemory(server, namespace, following, () => followers.delete(follower));
      followers.add(follower);
      return follower;
    },
    async info() {
      requireConnected();
      const { created: createdNow, entries, shardCount } = stream();
      return {
        epoch: epochOf(logNames(namespace).stream, createdNow, generation),
        created: createdNow,
        firstSequence: entries.length === 0 ? 0 : 1,
        lastSequence: entries.length,
        shardCount,
      };
    },
    async verify(checkpoint) {
      requireConnected();
      return verdictOf(checkpoint, {
        created: stream().created,
        firstSequence: 1,
        lastSequence: stream().entries.length,
        commitId: commitAt(checkpoint.sequence)?.commitId ?? null,
      });
    },
    async registerTypes(types) {
      requireConnected();
      for (const type of types) stream().types.set(type.type, type);
    },
    registeredType(type) {
      return stream().types.get(type) ?? null;
    },
    async leases() {
      requireOpen();
      return leases;
    },
    announce(topic, value) {
      if (status !== "connected") return;
      for (const listener of [...stream().topics]) listener(topic, value);
    },
    onAnnounce(topic, listener) {
      const listeners = topicListeners.get(topic) ?? new Set();
      topicListeners.set(topic, listeners.add(listener));
      return () => listeners.delete(listener);
    },
    async ask(topic, question, { timeoutMs }) {
      requireConnected();
      const asked = [...stream().answerers]
        .map((answerer) => answerer(topic, question))
        .filter((answer) => answer !== null);
      if (asked.length === 0) {
        throw new MillraceError(
          "unavailable",
          `Nobody answers questions about ${topic} now. Start a worker.`,
          {
            details: { listeners: 0 },
          },
        );
      }
      const ended = new AbortController();
      const late = delay(timeoutMs, undefined, {
        signal: AbortSignal.any([ended.signal, closing.signal]),
      }).then(() => {
        throw new MillraceError(
          "timeout",
          `A question about ${topic} was not answered within ${timeoutMs} ms.`,
          { details: { limit: timeoutMs } },
        );
      });
      const own = asked.map(
        (answer) =>
          new Promise<string>((resolve) => {
            answer.then(
              (text) => void (text !== null && resolve(text)),
              // The asker's time-out tells it.
              () => undefined,
            );
          }),
      );
      try {
        return await Promise.race([late, ...own]);
      } catch (error) {
        requireOpen();
        throw error;
      } finally {
        late.catch(() => undefined);
        ended.abort();
      }
    },
    answer(topic, handler) {
      requireOpen();
      const answerer = (asked: string, question: string): Promise<string | null> | null =>
        asked === topic && status === "connected" ? handler(question) : null;
      const { answerers } = stream();
      answerers.add(answerer);
      ownAnswerers.add(answerer);
      return () => {
        stream().answerers.delete(answerer);
        ownAnswerers.delete(answerer);
      };
    },
    status: () => status,
    onStatus(listener) {
      statusListeners.add(listener);
      return () => statusListeners.delete(listener);
    },
    async close() {
      if (status === "closed") return;
      setStatus("closed");
      closing.abort();
      leases.close();
      tasks.close();
      offConnected();
      stream().topics.delete(onTopic);
      for (const answerer of ownAnswerers) stream().answerers.delete(answerer);
      await Promise.all([...followers].map((follower) => follower.stop()));
    },
  };
}
