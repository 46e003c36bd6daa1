/** Child process: appends events to the real log at a steady rate, or tells a bare server to send at the same rate. */
import { setTimeout as sleep } from "node:timers/promises";
import { openEventLog, type EventLog } from "@millrace/event-log";
import type { WorkflowEvent } from "@millrace/schemas";
import { ulid } from "ulid";
import { elapsedMs } from "../figures.ts";
import { serveParent } from "./part.ts";
import { RawSocket } from "./raw-socket.ts";

export interface PublisherOptions {
  readonly natsUrl: string;
  readonly namespace: string;
  /** Runs `<prefix>-0` to `<prefix>-<runs - 1>`, taken in turn. */
  readonly prefix: string;
  readonly runs: number;
}

export interface Published {
  readonly appended: number;
  /** Of each run, the sequences of its commits in order, the start's included. */
  readonly sequences: readonly (readonly number[])[];
}

let log: EventLog;
let options: PublisherOptions;
let bare: RawSocket | null = null;
let sequences: number[][] = [];
/** Of each run, its last append: the next one expects it. */
let last: Promise<unknown>[] = [];
let next = 0;
let pacing: Promise<void> = Promise.resolve();
const pacer = { running: false };

async function open(given: PublisherOptions): Promise<void> {
  options = given;
  log = await openEventLog({ servers: options.natsUrl, namespace: options.namespace });
  const started: WorkflowEvent = {
    type: "WorkflowStarted",
    data: { version: "1", input: null, driver: "external" },
  };
  sequences = [];
  for (let from = 0; from < options.runs; from += 200) {
    const some = Math.min(200, options.runs - from);
    const results = await Promise.all(
      Array.from({ length: some }, async (_, n) => await append(from + n, "new", started)),
    );
    for (const { sequence } of results) sequences.push([sequence]);
  }
  last = sequences.map(() => Promise.resolve());
}

async function append(run: number, expected: number | "new", event: WorkflowEvent) {
  const workflowId = `${options.prefix}-${run}`;
  return await log.append({
    commitId: ulid(),
    workflowId,
    type: "bench",
    condition: "waiting",
    expected,
    events: [event],
  });
}

async function publish(run: number, n: number): Promise<void> {
  const own = sequences[run] ?? [];
  // `at`: when the publisher asked for it, for latencies finer than the broker's milliseconds.
  const message = `part ${n} at ${(performance.timeOrigin + performance.now()).toFixed(3)}`;
  const event: WorkflowEvent = { type: "ProgressReported", data: { current: n, total: 100_000, message } };
  const { sequence } = await append(run, own.at(-1) ?? 0, event);
  own.push(sequence);
}

function emit(): void {
  const n = next++;
  if (bare !== null) {
    bare.send(String(n % options.runs));
    return;
  }
  const run = n % options.runs;
  last[run] = (last[run] ?? Promise.resolve()).then(async () => publish(run, n));
  // Looked at when the run is next published to, and by `stop`.
  last[run].catch(() => undefined);
}

async function pace(perS: number): Promise<void> {
  const begun = process.hrtime.bigint();
  for (let sent = 0; pacer.running;) {
    const due = Math.floor((elapsedMs(begun) * perS) / 1_000);
    while (sent < due) {
      emit();
      sent++;
    }
    await sleep(1);
  }
}

serveParent(
  {
    open,
    async openBare(value: { readonly port: number; readonly runs: number }): Promise<void> {
      options = { natsUrl: "", namespace: "", prefix: "", runs: value.runs };
      await new Promise<void>((resolve, reject) => {
        bare = new RawSocket(
          { port: value.port, path: "/publish" },
          {
            onOpen: resolve,
            onFrame: () => undefined,
            onClose: () => reject(new Error("The bare server closed the publisher's connection.")),
          },
        );
      });
    },
    start(perS: number): void {
      pacer.running = true;
      pacing = pace(perS);
    },
    async stop(): Promise<void> {
      pacer.running = false;
      await pacing;
      await Promise.all(last);
    },
    /** As fast as so many appends at a time allow, over all runs; gives the milliseconds that it took. */
    async burst({ count, atATime }: { readonly count: number; readonly atATime: number }): Promise<number> {
      const begun = process.hrtime.bigint();
      const lanes = Math.min(atATime, options.runs);
      let left = count;
      await Promise.all(
        Array.from({ length: lanes }, async (_, lane) => {
          for (; left > 0;) await publish(lane, count - left--);
        }),
      );
      return elapsedMs(begun);
    },
    published: (): Published => ({
      appended: sequences.reduce((sum, own) => sum + own.length, 0),
      sequences,
    }),
  },
  async () => {
    bare?.cut();
    await (log as EventLog | undefined)?.close();
  },
);
