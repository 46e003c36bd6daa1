import { Counter, Gauge, Histogram, Registry } from "prom-client";

export type Metrics = ReturnType<typeof createMetrics>;

/** What is read when somebody scrapes: no gauge is kept up to date in between. */
export interface Readings {
  readonly connections: Readonly<Record<"millrace.v1" | "updates", number>>;
  readonly subscriptions: Readonly<Record<"live" | "catchup", number>>;
  readonly bufferedBytes: { readonly sum: number; readonly max: number };
  readonly ring: { readonly commits: number; readonly bytes: number; readonly spanSeconds: number };
  /** Commits between the log's last known end and what the tail has delivered. */
  readonly tailLag: number;
  readonly projectorLag: number;
  readonly foldedStates: number;
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
    "Open WebSocket connections",
    (each) => {
      readings = read();
      for (const [kind, count] of Object.entries(readings.connections)) each.set({ kind }, count);
    },
    ["kind"],
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
  gauge("folded_states", "Folded states kept for live state subscriptions", (each) =>
    each.set(readings.foldedStates),
  );

  const counter = <L extends string>(name: string, help: string, labelNames: L[] = []) =>
    new Counter<L>({ name: `millrace_${name}`, help, registers, labelNames });

  return {
    registry,
    demotions: counter("demotions_total", "Live subscriptions that went back to catch-up", ["reason"]),
    promotions: counter("promotions_total", "Subscriptions that went live"),
    resumes: counter("resumes_total", "Subscriptions by cursor", ["result"]),
    resumedCommits: counter("resumed_commits_total", "Commits sent from catch-up pages"),
    catchupReads: counter("catchup_reads_total", "Pages read from the projection"),
    frames: counter("frames_sent_total", "Data frames sent"),
    closes: counter("closes_total", "Connections closed, by WebSocket close code", ["code"]),
    chainBreaks: counter("chain_breaks_total", "Chain breaks that clients reported: the message-loss metric"),
    duplicates: counter("duplicates_total", "Duplicate frames that clients reported"),
    undecodable: counter("undecodable_commits_total", "Commits on the log that this version cannot read"),
    requests: counter("http_requests_total", "HTTP requests", ["method", "route", "status"]),
    deliveryLatency: new Histogram({
      name: "millrace_delivery_latency_seconds",
      help: "From the broker's time of a commit until it was handed to the last live subscriber of a filter",
      registers,
      buckets: [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10],
    }),
  };
}
