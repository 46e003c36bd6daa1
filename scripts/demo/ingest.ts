import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { appendFile, readFile } from "node:fs/promises";
import { pipeline } from "node:stream/promises";
import { defineWorkflow, type StepContext } from "@millrace/engine";
import { writeReportRow } from "./report-rows.ts";

export interface IngestInput {
  /** As shown in the report. */
  readonly path: string;
  readonly file: string;
  readonly reportDir: string;
  /** Each execution of a step's function leaves a line here: after a kill there are more of them than steps. */
  readonly executionsFile: string;
}

export interface Reading {
  readonly bytes: number;
  readonly characters: number;
}

export interface WordStatistics {
  readonly words: number;
  readonly distinct: number;
  readonly longestChars: number;
}

export const ingestSteps = ["read", "checksum", "words", "report"] as const;

/** Takes in one file. What a step returns goes into the event log, so no step returns the file. */
export const ingest = defineWorkflow(
  { type: "ingest", steps: ingestSteps },
  async (ctx, { path, file, reportDir, executionsFile }: IngestInput) => {
    const step = <T>(
      name: (typeof ingestSteps)[number],
      work: (step: StepContext) => Promise<T>,
    ): Promise<T> =>
      ctx.step(name, async (attempt) => {
        await appendFile(executionsFile, `${attempt.idempotencyKey}\n`);
        return work(attempt);
      });

    const { bytes, characters } = await step("read", () => measure(file));
    const sha256 = await step("checksum", () => checksum(file));
    const statistics = await step("words", () => countWords(file));
    await step("report", async ({ idempotencyKey }) => {
      await writeReportRow(reportDir, { idempotencyKey, path, sha256, bytes, words: statistics.words });
      return { written: true };
    });
    return { sha256, characters, words: statistics.words };
  },
);

async function measure(file: string): Promise<Reading> {
  const content = await readFile(file);
  return { bytes: content.length, characters: content.toString("utf8").length };
}

async function checksum(file: string): Promise<string> {
  const hash = createHash("sha256");
  await pipeline(createReadStream(file), hash);
  return hash.digest("hex");
}

async function countWords(file: string): Promise<WordStatistics> {
  const words = (await readFile(file, "utf8")).match(/\S+/g) ?? [];
  return {
    words: words.length,
    distinct: new Set(words).size,
    longestChars: words.reduce((longest, word) => Math.max(longest, word.length), 0),
  };
}
