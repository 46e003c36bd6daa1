/**
 * The main job: real work through all parts, faults on purpose, and then the books are checked.
 *
 * Owns: the order of things and everything that it starts. Does not own: how parts are restarted (the supervisor).
 *
 * I1 Whatever happens, all processes are ended and the folder is removed (unless it is to be kept).
 * I2 Nothing waits longer than the deadline; after it the error says what was missing.
 * I3 What the clients got is compared with the log as read from the broker, not with each other.
 *
 * Tested by `demo.e2e.test.ts`.
 */
import { setMaxListeners } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ChangeSignal } from "./change-signal.ts";
import { checkBooks } from "./check-books.ts";
import { percentile, type DemoResult } from "./demo-result.ts";
import type { Display } from "./display.ts";
import { planWork } from "./plan-work.ts";
import { playWork } from "./play-work.ts";
import { selectFiles } from "./select-files.ts";
import { setStage } from "./stage.ts";

export interface DemoOptions {
  /** The folder whose files are ingested. */
  readonly dir: string;
  /** Leave the temporary folder for a look at it. */
  readonly keep: boolean;
  /** From the moment when all parts are ready. */
  readonly deadlineMs: number;
  /** Ends the demo early, with the signal's reason. */
  readonly signal: AbortSignal;
}

/** A broker may have to be fetched first, over a slow line. */
const startTimeoutMs = 300_000;

/** Resolves with the result, also when something did not hold (`failures`); rejects when it could not come to an end. */
export async function runDemo(options: DemoOptions, display: Display): Promise<DemoResult> {
  const folder = await mkdtemp(join(tmpdir(), "millrace-demo-"));
  const closers: (() => unknown)[] = [];
  try {
    return await playDemo(options, display, folder, closers);
  } finally {
    display.stop();
    for (const close of closers.toReversed()) {
      try {
        await close();
      } catch (error) {
        // The others must still be closed.
        display.say(`While ending: ${String(error)}`);
      }
    }
    if (options.keep) display.say(`Kept ${folder}`);
    else await rm(folder, { recursive: true, force: true, maxRetries: 3 });
  }
}

async function playDemo(
  { dir, deadlineMs, signal: given }: DemoOptions,
  display: Display,
  folder: string,
  closers: (() => unknown)[],
): Promise<DemoResult> {
  const { files, leftOut } = await selectFiles(dir, join(folder, "files"));
  const plan = await planWork(files);
  const bytes = files.reduce((sum, file) => sum + file.bytes.length, 0);
  display.say(
    `${files.length} files (${bytes} bytes) of ${dir}, ${plan.cases.length} cases for a driver over HTTP`,
  );
  for (const what of leftOut) display.say(`Left out: ${what}`);

  const failed = new AbortController();
  const signal = AbortSignal.any([given, failed.signal]);
  // Every run that is under way listens to it: that is no leak.
  setMaxListeners(0, signal);
  const startTimer = setTimeout(() => {
    failed.abort(new Error(`The parts were not ready after ${startTimeoutMs / 1_000} s.`));
  }, startTimeoutMs);
  closers.push(() => clearTimeout(startTimer));
  const change = new ChangeSignal();
  const stage = await setStage({
    folder,
    change,
    closers,
    onStarting: (line) => display.say(line),
    onFailed: (error) => failed.abort(error),
    signal,
  });
  clearTimeout(startTimer);

  const begunAt = performance.now();
  const places = { reportDir: join(folder, "report"), executionsFile: join(folder, "executions.log") };
  const work = playWork({ stage, plan, change, display, places, signal });
  const deadline = setTimeout(() => {
    failed.abort(new Error(`Not done after ${deadlineMs / 1_000} s. ${work.inWords()}`));
  }, deadlineMs);
  closers.push(() => clearTimeout(deadline));
  const done = await stopOnFailure(work.done, failed);
  const books = await checkBooks(stage, plan, places, signal);
  const elapsedMs = Math.round(performance.now() - begunAt);
  const { direct, proxy, server } = stage;
  return {
    workflows: plan.files.length + plan.cases.length,
    steps: books.steps,
    events: books.events,
    cuts: proxy.cuts,
    received: Math.min(...Object.values(books.receivedByClient)),
    lost: books.lost,
    duplicates: books.duplicates,
    outOfOrder: books.outOfOrder,
    p50Ms: percentile(direct.liveDelaysMs, 0.5),
    p99Ms: percentile(direct.liveDelaysMs, 0.99),
    receivedByClient: books.receivedByClient,
    liveDeliveries: direct.liveDelaysMs.length,
    catchUpDeliveries: direct.received.length - direct.liveDelaysMs.length,
    chainBreaks: books.chainBreaks,
    kills: done.kills,
    stepsRunAgain: books.stepsRunAgain,
    staleTokensRefused: done.staleRefused,
    files: plan.files.length,
    cases: plan.cases.length,
    bytes,
    durability: server.ready.durability,
    elapsedMs,
    failures: [...done.failures, ...books.failures],
  };
}

/** What fails takes along whatever else still waits. */
async function stopOnFailure<T>(work: Promise<T>, others: AbortController): Promise<T> {
  try {
    return await work;
  } catch (error) {
    others.abort(error);
    throw error;
  }
}
