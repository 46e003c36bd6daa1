import { Counter, Gauge, Histogram, type Registry } from "prom-client";

/** What a canary tells of itself. Its numbers are there without one too, and 0: rules and dashboards then find them. */
export interface CanaryMetrics {
  /** A canary runs in this process. `unreceivedSeconds` is asked when somebody scrapes: age of the oldest missing commit. */
  start(unreceivedSeconds: () => number): void;
  sent(): void;
  /** After how many seconds from the begin of its append it was received. */
  received(latencySeconds: number): void;
  lost(): void;
  duplicate(): void;
  appendFailed(): void;
}

export function createCanaryMetrics(registry: Registry): CanaryMetrics {
  const registers = [registry];
  const counter = (name: string, help: string) =>
    new Counter({ name: `millrace_canary_${name}`, help, registers });
  const gauge = (name: string, help: string, value: () => number) =>
    new Gauge({
      name: `millrace_canary_${name}`,
      help,
      registers,
      collect() {
        this.set(value());
      },
    });
  let unreceivedSeconds: (() => number) | null = null;
  const sent = counter("sent_total", "Commits that the canary has appended");
  const received = counter("received_total", "Commits of the canary that its client was sent");
  const lost = counter(
    "lost_total",
    "Commits in the log that its client was not sent, although it was sent later ones",
  );
  const duplicates = counter("duplicates_total", "Commits that its client was sent again");
  const appendFailures = counter(
    "append_failures_total",
    "Appends that were refused or not answered in time",
  );
  const latency = new Histogram({
    name: "millrace_canary_latency_seconds",
    help: "From the begin of an append until the client has it",
    registers,
    buckets: [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30],
  });
  gauge("up", "1 when a canary runs in this process", () => (unreceivedSeconds === null ? 0 : 1));
  gauge(
    "unreceived_seconds",
    "Age of the oldest commit of the canary that its client has not been sent",
    () => unreceivedSeconds?.() ?? 0,
  );
  return {
    start: (read) => (unreceivedSeconds = read),
    sent: () => sent.inc(),
    received(latencySeconds) {
      received.inc();
      latency.observe(latencySeconds);
    },
    lost: () => lost.inc(),
    duplicate: () => duplicates.inc(),
    appendFailed: () => appendFailures.inc(),
  };
}
