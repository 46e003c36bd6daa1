/**
 * The memory twin of the task queues. Passes the same conformance suite as the JetStream adapter.
 *
 * Owns: one connection's takers. Does not own: what is stored (`memory-task-store.ts`).
 */
import { assertQueueName, MillraceError, taskPriorities } from "@millrace/schemas";
import { tokensAt, usedUntilAfter } from "../queue-rate.ts";
import { QueueTaker, type Lane, type LaneEvents } from "../queue-taker.ts";
import { assertQueueLimits, encodeTask, foreignHandle, parseHandle, takenTasks } from "../task-message.ts";
import { noQueueLimits, type HeartbeatKey, type QueueInfo, type TaskQueues } from "../task-queues.ts";
import type { MemoryServer } from "./memory-server.ts";
import { MemoryLane, type MemoryTaskStore } from "./memory-task-store.ts";

export interface MemoryTaskQueues extends TaskQueues {
  /** The connection was lost or came back. */
  connectionChanged(connected: boolean): void;
  close(): void;
}

export function createMemoryTaskQueues(
  server: MemoryServer,
  namespace: string,
  leaseMs: number,
): MemoryTaskQueues {
  const store = (): MemoryTaskStore => server.stream(namespace).tasks;
  const takers = new Map<
    string,
    { readonly taker: QueueTaker; readonly takeBack: Map<string, () => void> }
  >();
  let closed = false;

  function unavailable(): MillraceError {
    return new MillraceError(
      "unavailable",
      `The task queues of namespace ${namespace} are not reachable. Try again.`,
    );
  }
  function requireConnected(): void {
    if (closed || !server.connected) throw unavailable();
  }
  function laneOf(name: string): MemoryLane {
    const { lanes } = store();
    const lane = lanes.get(name) ?? new MemoryLane(name);
    lanes.set(name, lane);
    return lane;
  }
  function laneOfReply(reply: string): MemoryLane {
    const [queue, kind] = reply.split(".");
    const lane = store().lanes.get(`${queue}.${kind}`);
    if (lane === undefined) throw foreignHandle(reply);
    return lane;
  }
  function openLane(name: string, events: LaneEvents, takeBack: Map<string, () => void>): Lane {
    const asked = (delivery: Parameters<LaneEvents["onArrival"]>[0]): void => {
      takeBack.delete(name);
      events.onArrival(delivery);
    };
    return {
      get asked() {
        return takeBack.has(name);
      },
      async pull(count) {
        await Promise.resolve();
        requireConnected();
        return laneOf(name).pull(count, leaseMs);
      },
      ask() {
        if (takeBack.has(name) || closed || !server.connected) return;
        // It may be served at once: what takes it back is then of no use.
        let served = false;
        const undo = laneOf(name).ask(leaseMs, {
          onArrival: (delivery) => {
            served = true;
            asked(delivery);
          },
          onEnded: events.onEnded,
        });
        if (!served) takeBack.set(name, undo);
      },
    };
  }
  function takerOf(queue: string): QueueTaker {
    const known = takers.get(queue);
    if (known !== undefined) return known.taker;
    const takeBack = new Map<string, () => void>();
    const taker = new QueueTaker({
      leaseMs,
      now: server.clock,
      priorities: taskPriorities,
      limits: async () => store().limits.get(queue) ?? noQueueLimits,
      openLane: (kind, events) => openLane(`${queue}.${kind}`, events, takeBack),
      usedUntil: () => store().usedUntil.get(queue) ?? 0,
      async reserve(rate, count) {
        const used = store().usedUntil.get(queue) ?? 0;
        const now = server.clock();
        const granted = Math.min(count, tokensAt(rate, used, now));
        store().usedUntil.set(queue, usedUntilAfter(rate, used, now, granted));
        return granted;
      },
      extend: (reply) => laneOfReply(reply).extend(reply),
      release: (reply, delayMs) => laneOfReply(reply).release(reply, delayMs),
    });
    takers.set(queue, { taker, takeBack });
    return taker;
  }
  const onChanged = (queue: string): void => takers.get(queue)?.taker.wake();
  store().changed.add(onChanged);

  function failAll(): void {
    for (const { taker, takeBack } of takers.values()) {
      for (const undo of takeBack.values()) undo();
      takeBack.clear();
      taker.fail(unavailable());
    }
  }
  function infoOf(queue: string): QueueInfo {
    const lanes = taskPriorities.map((priority) => laneOf(`${queue}.${priority}`));
    const waiting = lanes.flatMap((lane) => lane.waiting);
    const oldest = Math.min(...waiting.map(({ publishedAt }) => publishedAt));
    return {
      queue,
      depth: waiting.length,
      inFlight: lanes.reduce((sum, lane) => sum + lane.takenCount, 0),
      oldestAgeMs: waiting.length === 0 ? null : Math.max(0, server.clock() - oldest),
      deadLetters: store().dead.filter(({ task }) => task.queue === queue).length,
      limits: store().limits.get(queue) ?? noQueueLimits,
    };
  }

  return {
    leaseMs,
    async publish(task) {
      assertQueueName(task.queue);
      requireConnected();
      if (store().published.has(task.token)) return;
      store().published.add(task.token);
      laneOf(`${task.queue}.${task.priority}`).add(encodeTask(task), server.clock());
    },
    async take(queue, options) {
      assertQueueName(queue);
      requireConnected();
      return takenTasks(await takerOf(queue).take(options)).tasks;
    },
    extend(handle) {
      const { task, permit } = parseHandle(handle);
      laneOfReply(task).extend(task);
      if (permit !== null) laneOfReply(permit).extend(permit);
    },
    finish(handle) {
      const { task, permit } = parseHandle(handle);
      laneOfReply(task).settle(task);
      if (permit !== null) laneOfReply(permit).release(permit, 0);
    },
    release(handle, delayMs = 0) {
      const { task, permit } = parseHandle(handle);
      laneOfReply(task).release(task, delayMs);
      if (permit !== null) laneOfReply(permit).release(permit, 0);
    },
    async beat(key, heartbeat) {
      requireConnected();
      store().beats.set(keyOf(key), { ...heartbeat, at: server.clock() });
    },
    async lastBeat(key) {
      requireConnected();
      return store().beats.get(keyOf(key)) ?? null;
    },
    async bury(letter) {
      requireConnected();
      const { dead } = store();
      const at = dead.findIndex(({ task }) => task.token === letter.task.token);
      if (at !== -1) dead.splice(at, 1);
      dead.push({ ...letter, sequence: ++store().deadCount, at: server.clock() });
    },
    async deadLetters(queue, { after = 0, limit }) {
      assertQueueName(queue);
      requireConnected();
      return store()
        .dead.filter(({ task, sequence }) => task.queue === queue && sequence > after)
        .slice(0, limit);
    },
    async deadLetter(queue, token) {
      assertQueueName(queue);
      requireConnected();
      return store().dead.find(({ task }) => task.queue === queue && task.token === token) ?? null;
    },
    async removeDeadLetter(queue, token) {
      assertQueueName(queue);
      requireConnected();
      const { dead } = store();
      const at = dead.findIndex(({ task }) => task.queue === queue && task.token === token);
      if (at !== -1) dead.splice(at, 1);
      return at !== -1;
    },
    async queues() {
      requireConnected();
      const names = new Set([
        ...[...store().lanes.keys()].map((name) => name.split(".")[0] ?? ""),
        ...store().dead.map(({ task }) => task.queue),
        ...store().limits.keys(),
      ]);
      return [...names].toSorted().map(infoOf);
    },
    async limits(queue) {
      assertQueueName(queue);
      requireConnected();
      return store().limits.get(queue) ?? noQueueLimits;
    },
    async setLimits(queue, limits) {
      assertQueueName(queue);
      assertQueueLimits(queue, limits);
      requireConnected();
      const permits = laneOf(`${queue}.permits`);
      if (limits.concurrency !== null) {
        while (permits.size < limits.concurrency) permits.add(new Uint8Array(0), server.clock());
        while (permits.size > limits.concurrency) permits.drop();
      }
      store().limits.set(queue, limits);
      for (const tell of [...store().changed]) tell(queue);
    },
    connectionChanged(connected) {
      if (!connected) failAll();
    },
    close() {
      closed = true;
      store().changed.delete(onChanged);
      failAll();
    },
  };
}

function keyOf({ workflowId, run, name, occurrence }: HeartbeatKey): string {
  return JSON.stringify([workflowId, run, name, occurrence]);
}
