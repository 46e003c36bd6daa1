/**
 * What a broker is to the memory twin: streams by namespace, seen by every connection made on it.
 *
 * Owns: stored commits, the check of expectations, sequences, registered types, who listens.
 * Does not own: the append protocol (`settle-append.ts`), what a reader sees (`memory-log.ts`).
 *
 * I1 A store is one synchronous step: check, number, keep, tell the listeners.
 * I2 Sequences of one stream rise by one; after `cutTail` they are used again, as a real log does after tail loss.
 *
 * Faults are not in here: tests wrap the object (see `conformance/`), or call `disconnect`, `cutTail`, `recreate`,
 * which are things that happen to a real server too.
 */
import { defaultShardCount, limits, type RunCondition } from "@millrace/schemas";
import type { CommitHead, RegisteredType } from "../event-log.ts";
import { MemoryKeys } from "./memory-leases.ts";
import type { Expectation } from "../settle-append.ts";
import { createMemoryTaskStore, type MemoryTaskStore } from "./memory-task-store.ts";

export interface MemoryEntry {
  readonly head: CommitHead;
  readonly body: Uint8Array;
}

export interface MemoryBlob {
  readonly bytes: Uint8Array;
  readonly storedAt: number;
}

export interface MemoryPublish {
  readonly workflowId: string;
  readonly type: string;
  readonly commitId: string;
  readonly writer: string | null;
  readonly condition: RunCondition | null;
  readonly dueAt: number | null;
  readonly parent: string | null;
  readonly traceparent?: string | null;
  readonly body: Uint8Array;
}

export type MemoryAck =
  | { readonly kind: "stored"; readonly sequence: number }
  | { readonly kind: "refused"; readonly actual: number }
  | { readonly kind: "run_full"; readonly commits: number };

export interface MemoryServer {
  /** Milliseconds since 1970: the time of commits. */
  readonly clock: () => number;
  /** Calls back after a delay: when a lease expires. The answer takes it back. */
  wake(delayMs: number, callback: () => void): () => void;
  publish(namespace: string, message: MemoryPublish, expectation: Expectation): Promise<MemoryAck>;
  stream(namespace: string): MemoryStream;
  /** The keys of a namespace's leases. They outlive `recreate`, as a bucket does. */
  keys(namespace: string): MemoryKeys;
  /** False while `disconnect` holds: nothing is sent, stored or delivered. */
  readonly connected: boolean;
  onConnected(listener: (connected: boolean) => void): () => void;
  disconnect(): void;
  reconnect(): void;
  /** Loses every commit after `sequence`, as a power cut does to an unflushed log. */
  cutTail(namespace: string, sequence: number): void;
  /** Another, empty log under the same name. */
  recreate(namespace: string): void;
}

/** One namespace's log. Read-only to connections, but for `types`, `tasks` and `topics`. */
export interface MemoryStream {
  readonly created: string;
  readonly shardCount: number;
  /** Entry of sequence n at n - 1. */
  readonly entries: readonly MemoryEntry[];
  /** Sequences of the commits of each id, rising. */
  readonly byId: ReadonlyMap<string, readonly number[]>;
  readonly types: Map<string, RegisteredType>;
  readonly tasks: MemoryTaskStore;
  readonly topics: Set<(topic: string, value: number) => void>;
  /** Payloads that were too large for the log, by key, oldest first. */
  readonly blobs: Map<string, MemoryBlob>;
  /** Who answers questions: null for a question that is not its own. */
  readonly answerers: Set<(topic: string, question: string) => Promise<string | null> | null>;
  /** Told after each stored commit. */
  readonly stored: Set<() => void>;
}

interface Stream extends MemoryStream {
  entries: MemoryEntry[];
  byId: Map<string, number[]>;
}

export interface MemoryServerOptions {
  /** Milliseconds since 1970. Default: the machine's clock. */
  readonly clock?: () => number;
  /** Calls back after a delay. Default: the machine's timers. */
  readonly wake?: (delayMs: number, callback: () => void) => () => void;
  /** Default: `limits.subjectCommits`. */
  readonly runCommitsMax?: number;
}

/** A fresh, empty server: pass it to several `createMemoryLog` to let them see one log. */
export function createMemoryServer(options: MemoryServerOptions = {}): MemoryServer {
  const clock = options.clock ?? Date.now;
  const wake = options.wake ?? systemWake;
  const keys = new Map<string, MemoryKeys>();
  const runCommitsMax = options.runCommitsMax ?? limits.subjectCommits;
  const streams = new Map<string, Stream>();
  const connectedListeners = new Set<(connected: boolean) => void>();
  let connected = true;
  let creations = 0;

  function createStream(): Stream {
    creations++;
    // Two logs created in the same millisecond must differ, as they do with the broker's nanoseconds.
    const created = new Date(clock()).toISOString().replace("Z", `${String(creations).padStart(6, "0")}Z`);
    return {
      created,
      shardCount: defaultShardCount,
      entries: [],
      byId: new Map(),
      types: new Map(),
      tasks: createMemoryTaskStore(),
      topics: new Set(),
      blobs: new Map(),
      answerers: new Set(),
      stored: new Set(),
    };
  }

  function streamOf(namespace: string): Stream {
    let stream = streams.get(namespace);
    if (stream === undefined) {
      stream = createStream();
      streams.set(namespace, stream);
    }
    return stream;
  }

  function setConnected(value: boolean): void {
    if (connected === value) return;
    connected = value;
    for (const listener of [...connectedListeners]) listener(value);
  }

  function store(namespace: string, message: MemoryPublish, expectation: Expectation): MemoryAck {
    const stream = streamOf(namespace);
    const { workflowId, type, commitId, writer, condition, dueAt, parent, body } = message;
    const ofId = stream.byId.get(workflowId) ?? [];
    const ofRun = ofId.filter((sequence) => stream.entries[sequence - 1]?.head.type === type);
    const actual = (expectation.anyType ? ofId : ofRun).at(-1) ?? 0;
    if (actual !== expectation.sequence) return { kind: "refused", actual };
    if (ofRun.length >= runCommitsMax) return { kind: "run_full", commits: ofRun.length };
    const sequence = stream.entries.length + 1;
    const at = clock();
    const head = {
      sequence,
      workflowId,
      type,
      at,
      commitId,
      writer,
      condition,
      dueAt,
      parent,
      traceparent: message.traceparent ?? null,
    };
    stream.entries.push({ head, body });
    stream.byId.set(workflowId, ofId);
    ofId.push(sequence);
    for (const listener of [...stream.stored]) listener();
    return { kind: "stored", sequence };
  }

  return {
    clock,
    wake,
    keys(namespace) {
      const found = keys.get(namespace) ?? new MemoryKeys(wake);
      keys.set(namespace, found);
      return found;
    },
    get connected() {
      return connected;
    },
    async publish(namespace, message, expectation) {
      return store(namespace, message, expectation);
    },
    stream: streamOf,
    onConnected(listener) {
      connectedListeners.add(listener);
      return () => connectedListeners.delete(listener);
    },
    disconnect() {
      setConnected(false);
    },
    reconnect() {
      setConnected(true);
    },
    cutTail(namespace, sequence) {
      const stream = streamOf(namespace);
      for (const { head } of stream.entries.splice(sequence)) {
        const ofId = stream.byId.get(head.workflowId);
        ofId?.splice(ofId.indexOf(head.sequence), 1);
        if (ofId?.length === 0) stream.byId.delete(head.workflowId);
      }
    },
    recreate(namespace) {
      const before = streamOf(namespace);
      const after = createStream();
      for (const listener of before.stored) after.stored.add(listener);
      for (const listener of before.topics) after.topics.add(listener);
      for (const answerer of before.answerers) after.answerers.add(answerer);
      streams.set(namespace, after);
    },
  };
}

function systemWake(delayMs: number, callback: () => void): () => void {
  // A server in memory is gone with its process: a lease that is pending must not keep it.
  const timer = setTimeout(callback, delayMs).unref();
  return () => clearTimeout(timer);
}
