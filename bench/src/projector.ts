/**
 * The projector from a log of three-step runs, against raw better-sqlite3 inserts of the very rows that it made, in
 * transactions of the same size, same pragmas, same indexes.
 */
import { rmSync } from "node:fs";
import { join } from "node:path";
import Database from "better-sqlite3";
import { openEventLog, type EventLog } from "@millrace/event-log";
import { startProjector } from "@millrace/projector";
import { elapsedMs, median, round } from "./figures.ts";
import { fillWithRuns } from "./fill-log.ts";

export interface ProjectorFigures {
  readonly eventsPerS: number;
  readonly rawRowsPerS: number;
  readonly rows: number;
  readonly events: number;
  /** Time of the raw inserts over time of the projector, for the same rows. */
  readonly shareOfRaw: number;
}

const runs = 15_000;
const rounds = 3;
const rowsPerTransaction = 4_000;

export async function benchProjector(
  natsUrl: string,
  namespace: string,
  folder: string,
): Promise<ProjectorFigures> {
  const log = await openEventLog({ servers: natsUrl, namespace });
  try {
    const events = await fillWithRuns(log, runs);
    const { lastSequence } = await log.info();
    const projectedMs: number[] = [];
    const rawMs: number[] = [];
    let rows = 0;
    // The first round of each warms it up.
    for (let round_ = 0; round_ <= rounds; round_++) {
      const projected = join(folder, `projected-${round_}.sqlite`);
      const raw = join(folder, `raw-${round_}.sqlite`);
      const ms = await project(log, projected, lastSequence);
      const copied = insertRaw(projected, raw);
      rows = copied.rows;
      if (round_ > 0) {
        projectedMs.push(ms);
        rawMs.push(copied.ms);
      }
      for (const file of [projected, raw]) rmSync(file, { force: true });
    }
    return {
      eventsPerS: round(events / (median(projectedMs) / 1_000)),
      rawRowsPerS: round(rows / (median(rawMs) / 1_000)),
      rows,
      events,
      shareOfRaw: round(median(rawMs) / median(projectedMs), 2),
    };
  } finally {
    await log.close();
  }
}

/** Milliseconds from opening an empty file to the log's end. */
async function project(log: EventLog, path: string, lastSequence: number): Promise<number> {
  const begun = process.hrtime.bigint();
  let reached = (): void => undefined;
  const done = new Promise<void>((resolve) => (reached = resolve));
  const projector = await startProjector({
    log,
    path,
    onAdvance: (sequence) => {
      if (sequence >= lastSequence) reached();
    },
  });
  await done;
  const ms = elapsedMs(begun);
  await projector.stop();
  return ms;
}

/** Copies all tables row by row through prepared inserts; reading them is not timed. */
function insertRaw(from: string, to: string): { rows: number; ms: number } {
  const source = new Database(from, { readonly: true });
  const target = new Database(to);
  try {
    for (const pragma of [
      "page_size = 8192",
      "journal_mode = WAL",
      "synchronous = NORMAL",
      "cache_size = -65536",
      "temp_store = MEMORY",
    ]) {
      target.pragma(pragma);
    }
    const objects = source
      .prepare("select type, name, sql from sqlite_schema where sql is not null order by type desc")
      .all() as {
      type: string;
      name: string;
      sql: string;
    }[];
    for (const { sql } of objects) target.exec(sql);
    let rows = 0;
    let ms = 0;
    for (const { name } of objects.filter((object) => object.type === "table")) {
      const all = source.prepare(`select * from "${name}"`).raw().all() as unknown[][];
      const width = all[0]?.length ?? 0;
      if (width === 0) continue;
      const insert = target.prepare(
        `insert into "${name}" values (${Array.from({ length: width }, () => "?").join(",")})`,
      );
      const begun = process.hrtime.bigint();
      for (let start = 0; start < all.length; start += rowsPerTransaction) {
        target.exec("begin immediate");
        for (let index = start; index < Math.min(all.length, start + rowsPerTransaction); index++)
          insert.run(all[index]);
        target.exec("commit");
      }
      ms += elapsedMs(begun);
      rows += all.length;
    }
    return { rows, ms };
  } finally {
    source.close();
    target.close();
  }
}
