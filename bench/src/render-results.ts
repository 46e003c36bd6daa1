import type { AppendFigures } from "./append.ts";
import type { DeliveryFigures, ResumeFigures } from "./delivery.ts";
import type { ProjectorFigures } from "./projector.ts";
import { round } from "./figures.ts";
import type { TakeOverFigures } from "./take-over.ts";
import type { TaskFigures } from "./tasks.ts";
import type { WaitFigures } from "./waits.ts";
import type { WorkflowFigures } from "./workflows.ts";

export interface Figures {
  readonly date: string;
  readonly machine: string;
  readonly durability: "default" | "fsync";
  readonly append: AppendFigures;
  readonly workflows: {
    readonly c1: WorkflowFigures;
    readonly c100: WorkflowFigures;
    readonly throughput: WorkflowFigures;
  };
  readonly tasks: TaskFigures;
  readonly waits: WaitFigures;
  readonly projector: ProjectorFigures;
  /** Of runs that wait, and of runs that work. */
  readonly takeOver: readonly [TakeOverFigures, TakeOverFigures];
  readonly delivery: readonly DeliveryFigures[];
  readonly resume: ResumeFigures;
}

export function renderResults(figures: Figures): string {
  const { append, workflows, tasks, waits, projector, takeOver, delivery, resume } = figures;
  const mode =
    figures.durability === "default"
      ? "broker's default flush (an acknowledged commit survives a killed process, not a power cut)"
      : "fsync before every acknowledgement";
  const lines = [
    "# Benchmark results",
    "",
    `Made by \`npm run bench\` on ${figures.date}. Machine: ${figures.machine}. Durability: ${mode}.`,
    "Broker, engine, servers and clients share the machine; other work may run beside them, so trust the ratios of one run.",
    "",
    "| What | Figure | Against | Target |",
    "| --- | --- | --- | --- |",
    row(
      "Append, 256 at a time",
      `${append.leanPerS}/s, ${append.leanCpuUs} µs CPU`,
      `\`js.publish\` ${append.jsPublishPerS}/s, ${append.jsPublishCpuUs} µs: ${ratio(append.leanPerS, append.jsPublishPerS)}`,
      "",
    ),
    row(
      "3-step workflows completed, 400 at a time",
      `${workflows.throughput.perS}/s`,
      `p50 ${workflows.throughput.p50Ms} ms, p99 ${workflows.throughput.p99Ms} ms`,
      "1,500/s",
    ),
    row(
      "3-step workflow, 100 at a time",
      `${workflows.c100.perS}/s`,
      `p50 ${workflows.c100.p50Ms} ms, p99 ${workflows.c100.p99Ms} ms`,
      "",
    ),
    row(
      "3-step workflow, one at a time",
      `p50 ${workflows.c1.p50Ms} ms`,
      `p99 ${workflows.c1.p99Ms} ms, ${workflows.c1.perS}/s`,
      "p50 under 4 ms",
    ),
    row(
      "Tasks done by one worker, one a run, 400 runs at a time",
      `${tasks.onePerS}/s`,
      `ten a run, 60 runs at a time: ${tasks.tenPerS}/s`,
      "3,000/s",
    ),
    row("Run of one task, one at a time", `p50 ${tasks.p50Ms} ms`, `p99 ${tasks.p99Ms} ms`, ""),
    row("Timers fired and recorded, 500 runs at a time", `${waits.timersPerS}/s`, "", ""),
    row(
      "Lateness of timers, 250 due a second",
      `p99 ${waits.lateP99Ms} ms`,
      `p50 ${waits.lateP50Ms} ms`,
      "p99 under 20 ms",
    ),
    row("Signals sent, recorded and taken by 500 runs", `${waits.signalsPerS}/s`, "", ""),
    row(
      "Heap of the owner for a run that waits, parked",
      `${waits.parkedBytes} bytes`,
      `kept in memory: ${waits.inMemoryBytes} bytes`,
      "under 2,048 bytes",
    ),
    row(
      "Projector",
      `${projector.eventsPerS} events/s`,
      `raw inserts of its ${projector.rows} rows: ${projector.rawRowsPerS} rows/s; time share ${projector.shareOfRaw}`,
      "30,000 events/s",
    ),
    ...takeOver.map(({ runs, takeOverMs, afterKillMs }, which) =>
      row(
        `Take-over of ${runs} ${which === 0 ? "waiting" : "working"} runs of a killed engine`,
        `${takeOverMs} ms after the lease`,
        `${afterKillMs} ms after the kill, lease 2 s`,
        "under 2,000 ms after the lease",
      ),
    ),
    ...delivery.map((entry) =>
      row(
        `Stored to delivered, ${entry.subscribers} subscriber${entry.subscribers === 1 ? "" : "s"} of one run, 20 events/s`,
        `p50 ${entry.p50Ms} ms, p99 ${entry.p99Ms} ms`,
        `${entry.deliveredPerS} deliveries/s, ${entry.serverCpuUsPerDelivery} µs server CPU each`,
        entry.subscribers === 1_000 ? "p99 under 100 ms" : "",
      ),
    ),
    row(
      "Resume of 10,000 missed events",
      `${resume.sqliteMs} ms from SQLite`,
      `${resume.ringMs} ms from the ring`,
      "under 1,000 ms",
    ),
    "",
    "Not measured: a network between the parts, replicated brokers, payloads beyond a few hundred bytes, TLS.",
    "",
  ];
  return lines.join("\n");
}

function row(...cells: readonly string[]): string {
  return `| ${cells.join(" | ")} |`;
}

function ratio(a: number, b: number): string {
  return `${round(a / b, 1)} times`;
}
