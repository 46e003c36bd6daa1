import Table from "cli-table3";

/** What `npm run demo -- --json` prints: the first ten keys are its last line, a contract; the others are `details`. */
export interface DemoResult {
  readonly workflows: number;
  /** Steps recorded as completed. */
  readonly steps: number;
  /** Events in the log. */
  readonly events: number;
  /** Connections that were cut by the proxy. */
  readonly cuts: number;
  /** Events received per client; the smaller number when they differ. */
  readonly received: number;
  /** Over both clients, as the following two. */
  readonly lost: number;
  readonly duplicates: number;
  readonly outOfOrder: number;
  /** From stored to delivered, of the events that came live to the client that is not cut by the proxy. */
  readonly p50Ms: number | null;
  readonly p99Ms: number | null;

  readonly receivedByClient: Readonly<Record<string, number>>;
  /** Events of the direct client that the two percentiles are over, and those that came by catching up. */
  readonly liveDeliveries: number;
  readonly catchUpDeliveries: number;
  /** Breaks in the chain of frames that the clients found (and healed). */
  readonly chainBreaks: number;
  readonly kills: number;
  /** Step functions that ran again after a kill, and were still recorded once. */
  readonly stepsRunAgain: number;
  readonly staleTokensRefused: number;
  readonly files: number;
  readonly cases: number;
  readonly bytes: number;
  readonly durability: string;
  readonly elapsedMs: number;
  /** What did not hold; empty when everything did. */
  readonly failures: readonly string[];
}

/** The same for a person. */
export function resultTable(result: DemoResult): string {
  const table = new Table({ style: { head: [], border: [] }, colAligns: ["left", "right", "left"] });
  const ms = (value: number | null): string => (value === null ? "none" : `${value.toFixed(1)} ms`);
  const clients = Object.entries(result.receivedByClient).map(([name, count]) => `${name} ${count}`);
  table.push(
    ["workflows", result.workflows, `${result.files} files ingested, ${result.cases} cases driven over HTTP`],
    ["steps", result.steps, `recorded once each; ${result.stepsRunAgain} ran again after a kill`],
    ["events", result.events, "in the log, and the same in SQLite"],
    ["kills", result.kills, "kill -9: engine, stream server"],
    ["cuts", result.cuts, "connections of the cut client, in mid-stream and in mid-catch-up"],
    ["events received", result.received, `by each client: ${clients.join(", ")}`],
    ["lost", result.lost, ""],
    ["duplicated", result.duplicates, ""],
    ["out of order", result.outOfOrder, ""],
    [
      "p50",
      ms(result.p50Ms),
      `stored to delivered, ${result.liveDeliveries} live deliveries to the direct client`,
    ],
    [
      "p99",
      ms(result.p99Ms),
      `without ${result.catchUpDeliveries} that came by catching up after a cut or kill`,
    ],
    ["durability", result.durability, `took ${(result.elapsedMs / 1_000).toFixed(1)} s`],
  );
  return table.toString();
}

/** The value below which a share (0 to 1) of the samples lies, nearest rank; null for no samples. */
export function percentile(samples: readonly number[], share: number): number | null {
  const sorted = samples.toSorted((a, b) => a - b);
  const value = sorted[Math.ceil(share * sorted.length) - 1];
  return value === undefined ? null : Math.round(value * 10) / 10;
}
