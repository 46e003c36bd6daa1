/** A log in memory, a clock that stands still until told, and connections to them: for tests of schedules. */
import { createMemoryLog, createMemoryServer, type EventLog, type MemoryServer } from "@millrace/event-log";
import { decodeCommit, type WorkflowEvent } from "@millrace/schemas";
import { connect } from "../../connect.ts";
import { defineWorkflow, type WorkflowDefinition } from "../../definition.ts";
import type { Clock } from "../../due-timers.ts";
import type { Millrace } from "../../millrace.ts";
import type { PayloadOptions } from "../../payloads/payloads.ts";

/** What the wall clock says can be set; timers count elapsed time, as the system's do. */
export class ManualClock implements Clock {
  #now: number;
  #elapsed = 0;
  readonly #wakes = new Set<{ readonly at: number; readonly callback: () => void }>();

  constructor(start: number) {
    this.#now = start;
  }

  now(): number {
    return this.#now;
  }

  wake(delayMs: number, callback: () => void): () => void {
    const wake = { at: this.#elapsed + delayMs, callback };
    this.#wakes.add(wake);
    return () => this.#wakes.delete(wake);
  }

  /** Milliseconds until the next timer of the system; null when none is set. */
  get nextInMs(): number | null {
    return this.#wakes.size === 0 ? null : Math.min(...[...this.#wakes].map(({ at }) => at)) - this.#elapsed;
  }

  /** Lets time pass, at most to the next timer, which is then called. */
  pass(ms: number): void {
    const passed = Math.max(0, Math.min(ms, this.nextInMs ?? ms));
    this.#elapsed += passed;
    this.#now += passed;
    for (const wake of [...this.#wakes]) {
      if (wake.at > this.#elapsed) continue;
      this.#wakes.delete(wake);
      wake.callback();
    }
  }

  /** The wall clock jumps; no time passes. */
  jump(ms: number): void {
    this.#now += ms;
  }
}

export interface ScheduleWorld {
  readonly server: MemoryServer;
  readonly clock: ManualClock;
  /** A connection with its own log, which `through` may wrap. */
  connect(through?: (log: EventLog) => EventLog, payloads?: PayloadOptions): Promise<Millrace>;
  /** Lets time pass up to a time of the wall clock, timer by timer, and all work be done after each. */
  goTo(time: string): Promise<void>;
  /** Resolves when nothing moves any more. */
  settle(): Promise<void>;
  /** Ids of all runs, in the order of their starts. */
  runs(): string[];
  /** Events of an id. */
  events(id: string): WorkflowEvent[];
  /** Closes a connection, so that its shards are free. */
  stop(connection: Millrace): Promise<void>;
  close(): Promise<void>;
}

export function scheduleWorld(start: string): ScheduleWorld {
  const clock = new ManualClock(Date.parse(start));
  const server = createMemoryServer({ clock: () => clock.now() });
  const connections: Millrace[] = [];
  const stream = () => server.stream("default");
  const eventsOf = (sequence: number): readonly WorkflowEvent[] => {
    const entry = stream().entries[sequence - 1];
    return entry === undefined ? [] : decodeCommit(new TextDecoder().decode(entry.body), sequence);
  };

  async function settle(): Promise<void> {
    // In memory nothing takes time, so what does not move for some turns has ended.
    let still = 0;
    let seen = "";
    while (still < 12) {
      await new Promise((resolve) => setImmediate(resolve));
      const now = `${stream().entries.length} ${clock.nextInMs}`;
      still = now === seen ? still + 1 : 0;
      seen = now;
    }
  }

  async function stop(connection: Millrace): Promise<void> {
    const state = { closed: false };
    const closing = connection.close().finally(() => (state.closed = true));
    // A drain gives what still runs some time, which has to pass.
    while (!state.closed) {
      clock.pass(clock.nextInMs ?? 0);
      await new Promise((resolve) => setImmediate(resolve));
    }
    await closing;
  }

  return {
    server,
    clock,
    async connect(through = (log) => log, payloads = {}) {
      const connection = await connect({ log: through(createMemoryLog({ server })), clock, payloads });
      connections.push(connection);
      return connection;
    },
    async goTo(time) {
      const until = Date.parse(time);
      await settle();
      while (clock.now() < until) {
        const { length } = stream().entries;
        clock.pass(until - clock.now());
        await new Promise((resolve) => setImmediate(resolve));
        // Most timers only look at the clock: a month has a quarter of a million of them.
        if (stream().entries.length > length || clock.nextInMs === null) await settle();
      }
      await settle();
    },
    settle,
    runs: () =>
      stream()
        .entries.filter(({ head }) => eventsOf(head.sequence)[0]?.type === "WorkflowStarted")
        .map(({ head }) => head.workflowId),
    events: (id) => (stream().byId.get(id) ?? []).flatMap((sequence) => [...eventsOf(sequence)]),
    stop,
    close: () => Promise.all(connections.splice(0).map(stop)).then(() => undefined),
  };
}

/** A workflow whose runs end when they are told to, or at once. */
export function heldWorkflow(type = "report"): {
  readonly definition: WorkflowDefinition;
  readonly began: string[];
  /** Lets a run end; without one, all that are open and those to come. */
  readonly release: (id?: string) => void;
} {
  const began: string[] = [];
  const held = new Map<string, () => void>();
  let open = false;
  const definition = defineWorkflow({ type }, async (ctx) =>
    ctx.step(
      "work",
      ({ signal }) =>
        new Promise((resolve, reject) => {
          began.push(ctx.workflowId);
          if (open) return resolve(null);
          held.set(ctx.workflowId, () => resolve(null));
          signal.addEventListener("abort", () => reject(signal.reason as Error));
        }),
      { retry: { maxAttempts: 1 } },
    ),
  );
  return {
    definition,
    began,
    release(id) {
      if (id === undefined) open = true;
      for (const [each, resolve] of held) if (id === undefined || id === each) resolve();
    },
  };
}
