import type { BehindReason } from "@millrace/schemas";
import { Counter, Gauge, Histogram, Registry } from "prom-client";
import type { RunCommit } from "./core/run-commit.ts";
import type { Subscription } from "./core/subscription.ts";
import { createCanaryMetrics } from "./canary-metrics.ts";
import { processRegistry } from "./process-registry.ts";

export type Metrics = ReturnType<typeof createMetrics>;

/** What a connection speaks, and over what. */
export const transportOf = { "millrace.v1": "websocket", updates: "websocket" } as const;
export type SessionKind = keyof typeof transportOf;

/** What is read when somebody scrapes: no gauge is kept up to date in between. */
export interface Readings {
  readonly connections: Readonly<Record<SessionKind, number>>;
  readonly subscriptions: Readonly<Record<"live" | "catchup", number>>;
  readonly bufferedBytes: { readonly sum: number; readonly max: number };
  /** Of the subscription that is furthest behind, in sequences. */
  readonly catchupLag: number;
  readonly ring: {
    readonly commits: number;
    readonly bytes: number;
    readonly spanSeconds: number;
    /** Pages read from it so far. */
    readonly pages: number;
  };
  /** Commits between the log's last known end and what the tail has delivered. */
  readonly tailLag: number;
  readonly projectorLag: number;
  /** Age of the oldest commit that the tail has delivered and the projection does not have. */
  readonly projectorLagSeconds: number;
  /** The tail delivers. */
  readonly following: boolean;
  readonly foldedStates: number;
  /** Being read, and in line. */
  readonly snapshotsOpen: number;
}

/** All metrics of one stream server, in a registry of its own. Names and labels are a contract with dashboards. */
export function createMetrics(read: () => Readings) {
  const registry = new Registry();
  const registers = [registry];
  let readings: Readings;
  const gauge = <L extends string>(
    name: string,
    help: string,
    collect: (gauge: Gauge<L>) => void,
    labelNames: L[] = [],
  ) =>
    new Gauge<L>({
      name: `millrace_${name}`,
      help,
      registers,
      labelNames,
      collect() {
        collect(this);
      },
    });

  // The first gauge takes the readings for all of them.
  gauge(
    "connections",
    "Open connections of the live stream, by what they speak and over which transport",
    (each) => {
      readings = read();
      for (const [kind, transport] of Object.entries(transportOf))
        each.set({ kind, transport }, readings.connections[kind as SessionKind]);
    },
    ["kind", "transport"],
  );
  gauge(
    "subscriptions",
    "Subscriptions by mode",
    (each) => {
      for (const [mode, count] of Object.entries(readings.subscriptions)) each.set({ mode }, count);
    },
    ["mode"],
  );
  gauge("buffered_bytes", "Bytes that clients have not taken yet", (each) =>
    each.set(readings.bufferedBytes.sum),
  );
  gauge("buffered_bytes_max", "The same for the slowest client", (each) =>
    each.set(readings.bufferedBytes.max),
  );
  gauge("ring_commits", "Commits in the ring", (each) => each.set(readings.ring.commits));
  gauge("ring_bytes", "Memory of the ring", (each) => each.set(readings.ring.bytes));
  gauge("ring_span_seconds", "Age of the oldest commit in the ring", (each) =>
    each.set(readings.ring.spanSeconds),
  );
  gauge("tail_lag", "Commits that the log has and the tail has not delivered, as last known", (each) =>
    each.set(readings.tailLag),
  );
  gauge("projector_lag", "Commits that the tail has delivered and the projection does not have", (each) =>
    each.set(readings.projectorLag),
  );
  gauge("catchup_lag", "Sequences that the subscription furthest behind has to catch up", (each) =>
    each.set(readings.catchupLag),
  );
  gauge(
    "projector_lag_seconds",
    "Age of the oldest commit that the tail has delivered and the projection does not have",
    (each) => each.set(readings.projectorLagSeconds),
  );
  gauge("tail_up", "1 while the tail of the event log delivers, 0 while the broker is away", (each) =>
    each.set(readings.following ? 1 : 0),
  );
  gauge("snapshots_open", "Snapshots that are being read or wait in line", (each) =>
    each.set(readings.snapshotsOpen),
  );
  gauge("folded_states", "Folded states kept for live state subscriptions", (each) =>
    each.set(readings.foldedStates),
  );

  const counter = <L extends string>(
    name: string,
    help: string,
    labelNames: L[] = [],
    collect: (counter: Counter<L>) => void = () => undefined,
  ) =>
    new Counter<L>({
      name: `millrace_${name}`,
      help,
      registers,
      labelNames,
      collect() {
        collect(this);
      },
    });

  const demotions = counter("demotions_total", "Live subscriptions that went back to catch-up", ["reason"]);
  const promotions = counter(
    "promotions_total",
    "Subscriptions that went live, by why they had been behind; start: they were new",
    ["reason"],
  );
  const resumes = counter("resumes_total", "Subscriptions by cursor, by result", ["result"]);
  const resumedEvents = new Histogram({
    name: "millrace_resumed_events",
    help: "Events sent to a subscription before it went live, by why it had been behind",
    registers,
    labelNames: ["reason"],
    buckets: [0, 1, 10, 100, 1_000, 10_000, 100_000, 1_000_000],
  });
  let ringPages = 0;
  const catchupReads = counter(
    "catchup_reads_total",
    "Pages read to catch up, by source",
    ["source"],
    (each) => {
      each.inc({ source: "ring" }, readings.ring.pages - ringPages);
      ringPages = readings.ring.pages;
    },
  );
  const events = new Map<string, number>();
  counter("events_total", "Events that the tail has delivered, by type", ["type"], (each) => {
    for (const [type, count] of events) each.inc({ type }, count);
    events.clear();
  });
  // A rate over a series that begins with its first increase does not see that one.
  for (const reason of ["slow", "window", "tail"]) demotions.inc({ reason }, 0);
  for (const reason of ["start", "slow", "window", "tail"]) promotions.inc({ reason }, 0);
  for (const source of ["ring", "projection", "broker", "shared"]) catchupReads.inc({ source }, 0);
  for (const result of ["ok", "epoch", "expired", "future"]) resumes.inc({ result }, 0);
  // What is measured over time begins with the server, not with the first scrape.
  processRegistry();
  /** Of subscriptions that are catching up. Nothing here keeps a subscription that has ended. */
  const behind = new WeakMap<Subscription, { reason: BehindReason | "start"; events: number }>();
  const behindOf = (subscription: Subscription) => {
    let account = behind.get(subscription);
    if (account === undefined) behind.set(subscription, (account = { reason: "start", events: 0 }));
    return account;
  };

  return {
    /** This server's own metrics and those of its process. */
    async text(): Promise<string> {
      // One after the other: the first gauge has taken the readings before anything else is asked.
      return `${await registry.metrics()}\n${await processRegistry().metrics()}`;
    },
    registry,
    canary: createCanaryMetrics(registry),
    demoted(subscription: Subscription, reason: BehindReason): void {
      demotions.inc({ reason });
      behind.set(subscription, { reason, events: 0 });
    },
    /** Events left for a subscription that is not live. */
    caughtUp(subscription: Subscription, count: number): void {
      behindOf(subscription).events += count;
    },
    promoted(subscription: Subscription): void {
      const account = behindOf(subscription);
      promotions.inc({ reason: account.reason });
      resumedEvents.observe({ reason: account.reason }, account.events);
      behind.delete(subscription);
    },
    /** What the tail brought: counted here, and handed to the counter when somebody scrapes. */
    delivered(commits: readonly RunCommit[]): void {
      for (const commit of commits)
        for (const { type } of commit.events) events.set(type, (events.get(type) ?? 0) + 1);
    },
    resumes,
    resumedCommits: counter("resumed_commits_total", "Commits sent from catch-up pages"),
    catchupReads,
    frames: counter("frames_sent_total", "Data frames sent"),
    closes: counter("closes_total", "Connections closed, by WebSocket close code", ["code"]),
    chainBreaks: counter("chain_breaks_total", "Chain breaks that clients reported: the message-loss metric"),
    duplicates: counter("duplicates_total", "Duplicate frames that clients skipped and reported"),
    undecodable: counter("undecodable_commits_total", "Commits on the log that this version cannot read"),
    requests: counter("http_requests_total", "HTTP requests", ["method", "route", "status"]),
    deliveryLatency: new Histogram({
      name: "millrace_delivery_latency_seconds",
      help: "From the broker's time of a commit until it was handed to the last live subscriber of a filter",
      registers,
      buckets: [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10],
    }),
    pingRoundTrip: new Histogram({
      name: "millrace_ping_round_trip_seconds",
      help: "From a WebSocket ping of ours to its pong, of a few connections per second",
      registers,
      buckets: [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10],
    }),
  };
}
