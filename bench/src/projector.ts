/**
 * The projector from a log of three-step runs, against raw better-sqlite3 inserts of the very rows that it made, in
 * transactions of the same size, same pragmas, same indexes.
 */
import { rmSync } from "node:fs";
import { join } from "node:path";
import Database from "better-sqlite3";
import { openEventLog } from "@millrace/event-log";
import { startProjector } from "@millrace/projector";
import { elapsedMs, round } from "./figures.ts";
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
const rowsPerTransaction = 4_000;

export async function benchProjector(
  natsUrl: string,
  namespace: string,
  folder: string,
): Promise<ProjectorFigures> {
  const log = await openEventLog({ servers: natsUrl, namespace });
  const projected = join(folder, "projected.sqlite");
  const raw = join(folder, "raw.sqlite");
  try {
    const events = await fillWithRuns(log, runs);
    const { lastSequence } = await log.info();
    const begun = process.hrtime.bigint();
    await new Promise<void>((resolve, reject) => {
      startProjector({
        log,
        path: projected,
        onAdvance: (sequence) => {
          if (sequence >= lastSequence) resolve();
        },
      }).catch(reject);
    });
    const projectedMs = elapsedMs(begun);
    const { rows, ms } = insertRaw(projected, raw);
    return {
      eventsPerS: round(events / (projectedMs / 1_000)),
      rawRowsPerS: round(rows / (ms / 1_000)),
      rows,
      events,
      shareOfRaw: round(ms / projectedMs, 2),
    };
  } finally {
    await log.close();
    rmSync(raw, { force: true });
  }
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
