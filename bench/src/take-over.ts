/**
 * Take-over: an engine with open runs is killed with SIGKILL beside another one of its group. The time is from the end
 * of its lease, when the other one claims its shards, to the last of its runs being in the other one's hands.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { connect, type Millrace } from "@millrace/engine";
import { takeOverGroup, takeOverLeaseMs, waiting, working } from "./take-over-workflows.ts";

export interface TakeOverFigures {
  readonly runs: number;
  /** From the claim of its shards to the last run held. */
  readonly takeOverMs: number;
  /** From the kill, with the lease. */
  readonly afterKillMs: number;
}

const concurrency = 200;
const partFile = fileURLToPath(new URL("./take-over-part.js", import.meta.url));

export async function benchTakeOver(
  natsUrl: string,
  namespace: string,
  kind: "waiting" | "working",
  runs: number,
): Promise<TakeOverFigures> {
  const part = spawn(process.execPath, [partFile, natsUrl, namespace], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const millrace = await connect({ servers: natsUrl, namespace });
  try {
    await once(part.stdout, "data");
    // All runs are the part's first: the other one comes when they are at rest.
    await startAll(millrace, kind, runs);
    const worker = await millrace.worker({
      workflows: [waiting, working],
      group: takeOverGroup,
      leaseMs: takeOverLeaseMs,
      concurrency: 100_000,
    });
    const killed = performance.now();
    part.kill("SIGKILL");
    // Shards that it was about to hand over count too: all runs are to be ours.
    while (held(worker.stats()) < runs || worker.stats().lastTakeOverMs === null)
      await new Promise((resolve) => setTimeout(resolve, 5));
    const { lastTakeOverMs } = worker.stats();
    return {
      runs,
      takeOverMs: Math.round(lastTakeOverMs ?? Number.NaN),
      afterKillMs: Math.round(performance.now() - killed),
    };
  } finally {
    part.kill("SIGKILL");
    await millrace.close();
  }
}

function held({ runs, parked, waiting: queued }: { runs: number; parked: number; waiting: number }): number {
  return runs + parked + queued;
}

async function startAll(millrace: Millrace, kind: "waiting" | "working", runs: number): Promise<void> {
  let next = 0;
  await Promise.all(
    Array.from({ length: concurrency }, async () => {
      while (next < runs) {
        const n = next++;
        await millrace.start(kind === "waiting" ? waiting : working, n, { id: `${kind}-${n}` });
      }
    }),
  );
  // At rest: each has its second commit.
  for (let n = 0; n < runs; n++) {
    while (
      ((await millrace.log.last(`${kind}-${n}`))?.condition ?? null) === null ||
      !(await begun(millrace, `${kind}-${n}`))
    )
      await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

async function begun(millrace: Millrace, id: string): Promise<boolean> {
  const last = await millrace.log.last(id);
  return last?.events.some(({ type }) => type === "StepCompleted") === true;
}
