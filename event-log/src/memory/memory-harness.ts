import { setTimeout as delay } from "node:timers/promises";
import type { AppendFault, EventLogHarness } from "../conformance/event-log-harness.ts";
import type { EventLog } from "../event-log.ts";
import { createMemoryLog } from "./memory-log.ts";
import { createMemoryServer, type MemoryServer, type MemoryServerOptions } from "./memory-server.ts";

/** How long a client of the twin waits for an answer that does not come. */
const lostAnswerMs = 20;

/** The memory twin's server with the faults of a real one around it. */
export function createMemoryHarness(serverOptions: MemoryServerOptions = {}): EventLogHarness {
  const real = createMemoryServer(serverOptions);
  const armed: { fault: AppendFault; struck: () => void }[] = [];
  const server: MemoryServer = Object.assign(Object.create(real) as MemoryServer, {
    publish: async (...message: Parameters<MemoryServer["publish"]>) => {
      const next = armed.shift();
      switch (next?.fault) {
        case undefined:
          return await real.publish(...message);
        case "lose-append":
          next.struck();
          await delay(lostAnswerMs);
          break;
        case "cut-mid-append":
          real.disconnect();
          next.struck();
          setImmediate(() => real.reconnect());
          break;
        case "duplicate-append": {
          const first = await real.publish(...message);
          await real.publish(...message);
          next.struck();
          return first;
        }
        case "lose-answer":
        case "delay-answer":
          await real.publish(...message);
          next.struck();
          await delay(lostAnswerMs);
          break;
        case "cut-before-answer":
          await real.publish(...message);
          real.disconnect();
          next.struck();
          setImmediate(() => real.reconnect());
          break;
      }
      throw new Error("no answer");
    },
  });
  const opened: EventLog[] = [];
  const backUps = new Map<string, number>();
  const namespaces = new Set<string>();

  return {
    async open(namespace, options = {}) {
      namespaces.add(namespace);
      const { appendBudgetMs = 30_000, taskLeaseMs = 30_000 } = options;
      const log = createMemoryLog({ namespace, server, appendBudgetMs, taskLeaseMs });
      opened.push(log);
      return log;
    },
    async openCapped(namespace, runCommitsMax) {
      const log = createMemoryLog({ namespace, server: createMemoryServer({ runCommitsMax }) });
      opened.push(log);
      return log;
    },
    strikeNext: (fault) => new Promise((struck) => armed.push({ fault, struck })),
    async kill() {
      real.disconnect();
    },
    async start() {
      real.reconnect();
    },
    async backUp() {
      for (const namespace of namespaces) backUps.set(namespace, real.stream(namespace).entries.length);
    },
    async restore() {
      real.disconnect();
      for (const [namespace, sequence] of backUps) real.cutTail(namespace, sequence);
      real.reconnect();
    },
    async recreate(namespace) {
      real.disconnect();
      real.recreate(namespace);
      real.reconnect();
    },
    async stop() {
      await Promise.all(opened.map((log) => log.close()));
    },
  };
}
