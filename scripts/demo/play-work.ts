import type { ChangeSignal } from "./change-signal.ts";
import type { Display } from "./display.ts";
import { createCaseDriver } from "./drive-cases.ts";
import type { StreamFollower } from "./follow-stream.ts";
import { ingest } from "./ingest.ts";
import { planFaults, type PlannedFault } from "./plan-faults.ts";
import { interleave, type FileRun, type WorkPlan } from "./plan-work.ts";
import type { Stage } from "./stage.ts";
import { WorkGate } from "./work-gate.ts";

export interface WorkOptions {
  readonly stage: Stage;
  readonly plan: WorkPlan;
  readonly change: ChangeSignal;
  readonly display: Display;
  readonly places: { readonly reportDir: string; readonly executionsFile: string };
  readonly signal: AbortSignal;
}

export interface WorkDone {
  readonly kills: number;
  readonly staleRefused: number;
  /** Requests of the driver that were sent again. */
  readonly resent: number;
  /** What did not go as it should, without ending the work. */
  readonly failures: readonly string[];
}

export interface Work {
  /** Resolves when every run has completed, every fault was dealt with and what was stored has arrived. */
  readonly done: Promise<WorkDone>;
  /** How far it is and what is missing. */
  inWords(): string;
}

/** How long events may be on their way to the clients and to SQLite when all runs have completed. */
const arrivalTimeoutMs = 20_000;
/** Beyond `welcome` and `subbed`, within the first frame of the catch-up. */
const cutAfterBytes = 400;
const missingShown = 5;

/** Does all runs, and disturbs them as planned. */
export function playWork({ stage, plan, change, display, places, signal }: WorkOptions): Work {
  const { server, millrace, direct, cut, proxy, projection, log } = stage;
  const runs = interleave(plan.files, plan.cases);
  const faults = planFaults(runs.length);
  const gate = new WorkGate(faults, change);
  const driver = createCaseDriver(server.ready.url, signal);
  const missing = new Set(runs.map(({ id }) => id));
  const failures: string[] = [];
  let phase = "runs";
  let kills = 0;
  let darkSince = 0;

  const show = (): void => {
    const shown = { runs: gate.completed, events: direct.received.length, cuts: proxy.cuts, kills };
    display.show({ ...shown, totalRuns: runs.length });
  };

  async function ingestFile({ id, file }: FileRun): Promise<void> {
    const input = { path: file.path, file: file.copy, ...places };
    const handle = await millrace.start(ingest, input, { id });
    await handle.result({ signal });
  }

  const work = runs.map((run) => async (): Promise<void> => {
    await ("file" in run ? ingestFile(run) : driver.drive(run));
    missing.delete(run.id);
    show();
  });

  async function cutLive(): Promise<void> {
    await change.until(() => cut.status === "live" && proxy.connected, signal);
    proxy.cut();
  }

  async function dealWith({ fault, atRuns }: PlannedFault): Promise<void> {
    switch (fault.kind) {
      case "cut":
        await cutLive();
        break;
      case "darken":
        await cutLive();
        proxy.dark();
        darkSince = gate.completed;
        break;
      case "relight": {
        await change.until(() => gate.completed >= darkSince + fault.runs, signal);
        const { cuts } = proxy;
        proxy.light({ cutAfterBytes });
        await change.until(() => proxy.cuts > cuts, signal);
        break;
      }
      case "kill": {
        const { killed, next } = await server.kill(fault.part, signal);
        kills += 1;
        display.say(
          `kill -9 of the ${fault.part} (process ${killed}) after ${atRuns} runs; back as process ${next}`,
        );
        break;
      }
    }
    show();
  }

  async function arrive(): Promise<void> {
    const { lastSequence } = await log.info();
    phase = `arrival of sequence ${lastSequence}`;
    const clients = [direct, cut];
    const there = (client: StreamFollower): boolean =>
      client.position >= lastSequence || client.error !== null;
    const patience = AbortSignal.timeout(arrivalTimeoutMs);
    try {
      await change.until(() => clients.every(there), AbortSignal.any([signal, patience]));
    } catch (error) {
      if (!patience.aborted) throw error;
      for (const client of clients)
        if (!there(client)) failures.push(`After ${arrivalTimeoutMs / 1_000} s ${placeOf(client)}.`);
    }
    await projection.waitFor(lastSequence, arrivalTimeoutMs);
    phase = "books";
  }

  async function play(): Promise<WorkDone> {
    await Promise.all([gate.work(work, signal), gate.disturb(dealWith, signal)]);
    await arrive();
    if (proxy.cuts !== faults.cuts)
      failures.push(`The proxy made ${proxy.cuts} cuts, not the ${faults.cuts} planned.`);
    return { kills, staleRefused: driver.staleRefused, resent: driver.resent, failures };
  }

  function inWords(): string {
    const next = gate.nextFault;
    const ids = [...missing].slice(0, missingShown).join(", ");
    return [
      `Phase: ${phase}.`,
      `${gate.completed} of ${runs.length} runs completed${ids === "" ? "" : `; first missing: ${ids}`}.`,
      next === undefined
        ? "All faults dealt with."
        : `Fault not dealt with: ${JSON.stringify(next.fault)} at ${next.atRuns} runs.`,
      `${[direct, cut].map(placeOf).join(", ")}; ${proxy.cuts} of ${faults.cuts} cuts, ${kills} kills.`,
    ].join(" ");
  }

  return { done: play(), inWords };
}

function placeOf({ name, status, position, received }: StreamFollower): string {
  return `client ${name} is ${status} at sequence ${position} with ${received.length} events`;
}
