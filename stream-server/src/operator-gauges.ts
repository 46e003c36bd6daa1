/**
 * What an operator asks of the whole namespace, read when somebody scrapes: the log's end, queues, schedules, open runs,
 * workers.
 *
 * G1 A scrape costs the broker nothing more often than every {@link readingMaxAgeMs}, whoever scrapes.
 * G2 What cannot be read in time is left out of the answer, never shown as it was: `millrace_broker_up` is then 0.
 * G3 Labels are bounded: the {@link labelsMax} busiest queues have their own, the others share `_other`.
 *
 * Tested by `metrics.sqlite.test.ts`.
 */
import type { EventLog } from "@millrace/event-log";
import type { Millrace } from "@millrace/engine";
import type { Projection } from "@millrace/projector";
import { limits, type Fleet } from "@millrace/schemas";
import { Gauge, type Registry } from "prom-client";
import { within } from "./within.ts";

export interface OperatorGaugesOptions {
  readonly registry: Registry;
  readonly log: Pick<EventLog, "info">;
  readonly millrace: Pick<Millrace, "fleet" | "tasks">;
  /** Null: what is asked of it is left out. */
  readonly projection: Projection | null;
  /** Sequence of the newest commit that the tail has delivered. */
  readonly head: () => number;
}

const readingMaxAgeMs = 5_000;
/** A scrape must answer while the broker is away. */
const brokerTimeoutMs = 1_500;
const labelsMax = 100;
/** Runs are counted no further: beyond it the gauge says "at least". */
export const runsCountedMax = 5_000;
/** A schedule is late when its next tick was due so long ago. */
const scheduleLateMs = 10_000;

const openStatuses = ["running", "waiting", "paused", "stuck"] as const;

type Queues = Awaited<ReturnType<Millrace["tasks"]["queues"]>>;

interface FromBroker {
  readonly last: number;
  readonly first: number;
  readonly queues: Queues;
  readonly fleet: Fleet;
}

export function addOperatorGauges({
  registry,
  log,
  millrace,
  projection,
  head,
}: OperatorGaugesOptions): void {
  const lag = new TailLag();
  const fromBroker = shared(async (): Promise<FromBroker | null> => {
    try {
      const [info, queues, fleet] = await within(
        Promise.all([log.info(), millrace.tasks.queues(), millrace.fleet()]),
        brokerTimeoutMs,
      );
      lag.note(info.lastSequence, head(), Date.now());
      return { first: info.firstSequence, last: info.lastSequence, queues, fleet };
    } catch {
      // Said by `millrace_broker_up`, and by the log line of whoever needs the broker for more than a number.
      return null;
    }
  });
  const gauge = <L extends string>(
    name: string,
    help: string,
    labelNames: L[],
    collect: (gauge: Gauge<L>) => Promise<void> | void,
  ) =>
    new Gauge<L>({
      name: `millrace_${name}`,
      help,
      registers: [registry],
      labelNames,
      collect() {
        return collect(this);
      },
    });
  const brokerGauge = <L extends string>(
    name: string,
    help: string,
    labelNames: L[],
    collect: (gauge: Gauge<L>, broker: FromBroker) => void,
  ) =>
    gauge(name, help, labelNames, async (each) => {
      const broker = await fromBroker();
      // In the turn in which it is set anew: scrapes may overlap.
      each.reset();
      if (broker !== null) collect(each, broker);
      // Without a label a gauge shows 0 after its reset: a lie, where "nothing" is the truth.
      else if (labelNames.length === 0) each.remove();
    });

  gauge(
    "broker_up",
    "1 when the broker answered within 1.5 s of this scrape or 5 s before it",
    [],
    async (each) => each.set((await fromBroker()) === null ? 0 : 1),
  );
  brokerGauge("log_first_sequence", "Sequence of the oldest commit kept", [], (each, { first }) =>
    each.set(first),
  );
  brokerGauge("log_last_sequence", "Sequence of the newest commit", [], (each, { last }) => each.set(last));
  gauge(
    "tail_lag_seconds",
    "For how long a commit has been known that the tail has not delivered",
    [],
    async (each) => {
      await fromBroker();
      each.set(lag.seconds(head(), Date.now()));
    },
  );

  const queueGauge = (name: string, help: string, valueOf: (queue: Queues[number]) => number) =>
    brokerGauge(name, help, ["queue"], (each, { queues }) => {
      const byBusiness = [...queues].sort((a, b) => b.depth + b.deadLetters - (a.depth + a.deadLetters));
      for (const [n, queue] of byBusiness.entries())
        each.inc({ queue: n < labelsMax ? queue.queue : "_other" }, valueOf(queue));
    });
  queueGauge("queue_depth", "Tasks that wait in a queue", ({ depth }) => depth);
  queueGauge(
    "queue_in_flight",
    "Tasks that are taken, or wait for a delay to pass",
    ({ inFlight }) => inFlight,
  );
  queueGauge(
    "queue_dead_letters",
    "Tasks that failed for good and wait for an operator",
    (each) => each.deadLetters,
  );
  queueGauge(
    "queue_oldest_age_seconds",
    "Age of the oldest task that waits; of several queues under _other, their sum",
    ({ oldestAgeMs }) => (oldestAgeMs ?? 0) / 1_000,
  );

  brokerGauge("workers", "Live engine workers, by group", ["group"], (each, { fleet }) => {
    for (const { group, sessions } of fleet.groups.slice(0, labelsMax)) each.set({ group }, sessions);
  });
  brokerGauge("shards_held", "Shards that a live worker holds, by group", ["group"], (each, { fleet }) => {
    for (const { group, shardsHeld } of fleet.groups.slice(0, labelsMax)) each.set({ group }, shardsHeld);
  });
  brokerGauge("shards_total", "Shards that there are, by group", ["group"], (each, { fleet }) => {
    for (const { group, shardsTotal } of fleet.groups.slice(0, labelsMax)) each.set({ group }, shardsTotal);
  });

  if (projection === null) return;
  const fromProjection = shared(() => Promise.resolve(readProjection(projection)));
  gauge("runs_open", `Open runs by status, counted up to ${runsCountedMax}`, ["status"], async (each) => {
    for (const [status, count] of Object.entries((await fromProjection()).runs)) each.set({ status }, count);
  });
  gauge("schedules", "Schedules by status, counted up to 1000", ["status"], async (each) => {
    const { active, paused } = (await fromProjection()).schedules;
    each.set({ status: "active" }, active);
    each.set({ status: "paused" }, paused);
  });
  gauge("schedules_late", "Active schedules whose next tick was due more than 10 s ago", [], async (each) =>
    each.set((await fromProjection()).schedules.late),
  );
  gauge(
    "quarantined_commits",
    "Commits that the projection could not apply, counted up to 100",
    [],
    async (each) => each.set((await fromProjection()).quarantined),
  );
}

function readProjection(projection: Projection) {
  const now = Date.now();
  const runs = Object.fromEntries(
    openStatuses.map((status) => [status, projection.count({ status }, runsCountedMax)]),
  );
  const active = projection.schedules({ status: "active", limit: limits.pageItems }).items;
  const paused = projection.schedules({ status: "paused", limit: limits.pageItems }).items.length;
  const late = active.filter(
    ({ nextDueAt }) => nextDueAt !== null && Date.parse(nextDueAt) + scheduleLateMs < now,
  ).length;
  return {
    runs,
    schedules: { active: active.length, paused, late },
    quarantined: projection.quarantined().length,
  };
}

/** For how long the tail has not delivered a commit of which the broker said that it is there. */
export class TailLag {
  #waits: { readonly for: number; readonly since: number } | null = null;

  note(last: number, head: number, now: number): void {
    if (this.#waits !== null && head >= this.#waits.for) this.#waits = null;
    if (this.#waits === null && last > head) this.#waits = { for: last, since: now };
  }

  seconds(head: number, now: number): number {
    return this.#waits === null || head >= this.#waits.for ? 0 : (now - this.#waits.since) / 1_000;
  }
}

/** One reading for all who ask within {@link readingMaxAgeMs} of it. */
function shared<T>(read: () => Promise<T>): () => Promise<T> {
  let last: { readonly at: number; readonly reading: Promise<T> } | null = null;
  return () => {
    const now = Date.now();
    if (last === null || now - last.at > readingMaxAgeMs) last = { at: now, reading: read() };
    return last.reading;
  };
}
