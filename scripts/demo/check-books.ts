import { readFile } from "node:fs/promises";
import { checkHistory } from "./check-history.ts";
import { checkReport } from "./check-report.ts";
import { checkRuns } from "./check-runs.ts";
import { compareStream, type LoggedEvent } from "./compare-stream.ts";
import type { StreamFollower } from "./follow-stream.ts";
import type { WorkPlan } from "./plan-work.ts";
import { eventsOf, readHistory, readLog, readRows } from "./read-log.ts";
import { readReportRows } from "./report-rows.ts";
import type { Stage } from "./stage.ts";

export interface Books {
  readonly events: number;
  readonly steps: number;
  readonly receivedByClient: Readonly<Record<string, number>>;
  readonly lost: number;
  readonly duplicates: number;
  readonly outOfOrder: number;
  readonly chainBreaks: number;
  readonly stepsRunAgain: number;
  readonly failures: readonly string[];
}

/**
 * Reads the log from the broker, its copy in SQLite, the read model over HTTP, the report and what the clients got,
 * each by itself, and compares them all with the log and the log with the plan.
 */
export async function checkBooks(
  stage: Stage,
  plan: WorkPlan,
  places: { readonly reportDir: string; readonly executionsFile: string },
  signal: AbortSignal,
): Promise<Books> {
  const commits = await readLog(stage.log, signal);
  const history = readHistory(stage.projection);
  const rows = await readRows(stage.server.ready.url, signal);
  const log = eventsOf(commits);
  const runs = checkRuns([...plan.files, ...plan.cases], log, rows);
  const report = checkReport(
    plan.files.map(({ reportRow }) => reportRow),
    await readReportRows(places.reportDir),
  );
  const executed = await readLines(places.executionsFile);
  const clients = [stage.direct, stage.cut].map((client) => checkClient(client, log, eventsOf(history)));
  const sum = (key: "lost" | "duplicates" | "outOfOrder" | "chainBreaks"): number =>
    clients.reduce((total, client) => total + client[key], 0);
  return {
    events: log.length,
    steps: runs.steps,
    receivedByClient: Object.fromEntries(clients.map(({ name, received }) => [name, received])),
    lost: sum("lost"),
    duplicates: sum("duplicates"),
    outOfOrder: sum("outOfOrder"),
    chainBreaks: sum("chainBreaks"),
    stepsRunAgain: executed.length - new Set(executed).size,
    failures: [
      ...clients.flatMap(({ failures }) => failures),
      ...checkHistory(commits, history),
      ...runs.problems,
      ...report,
    ],
  };
}

async function readLines(file: string): Promise<string[]> {
  return (await readFile(file, "utf8")).split("\n").filter((line) => line !== "");
}

interface ClientCheck {
  readonly name: string;
  readonly received: number;
  readonly lost: number;
  readonly duplicates: number;
  readonly outOfOrder: number;
  readonly chainBreaks: number;
  readonly failures: readonly string[];
}

function checkClient(
  { name, received, stats, error }: StreamFollower,
  log: readonly LoggedEvent[],
  history: readonly LoggedEvent[],
): ClientCheck {
  const failures: string[] = [];
  if (error !== null) failures.push(`Client ${name} ended: ${error.message}`);
  if (stats.gaps > 0)
    failures.push(`Client ${name} found ${stats.gaps} breaks in the chain of frames and healed them.`);
  for (const [what, events] of [
    ["the log", log],
    ["the history in SQLite", history],
  ] as const) {
    const { lost, duplicates, outOfOrder, unknown, examples } = compareStream(events, received);
    if (lost + duplicates + outOfOrder + unknown === 0) continue;
    failures.push(
      `Client ${name} against ${what}: ${lost} lost, ${duplicates} duplicated, ${outOfOrder} out of order, ` +
        `${unknown} unknown (${examples.join("; ")}).`,
    );
  }
  const { lost, duplicates, outOfOrder } = compareStream(log, received);
  return { name, received: received.length, lost, duplicates, outOfOrder, chainBreaks: stats.gaps, failures };
}
