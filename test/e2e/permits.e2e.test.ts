/**
 * Real cases of a permit process, driven over HTTP by a service that is their orchestrator: many cases at once, each
 * case step by step in the order of time. The recorded data is not part of this repository; where it is missing, cases
 * of the same shape are generated, and those are driven in any case.
 */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterEach, beforeEach, expect, it } from "vitest";
import { hashProjection, openProjection } from "@millrace/projector";
import { eventually } from "./deadline.ts";
import { driveCase, type ExternalCase } from "./external-driver.ts";
import { HttpApi } from "./http-api.ts";
import { MillraceProcess } from "./millrace-process.ts";
import { parseCsv } from "./parse-csv.ts";
import { SeededRandom, testSeed } from "./seeded-random.ts";
import { temporaryFolder, type TemporaryFolder } from "./temporary-folder.ts";

const permitsFile = fileURLToPath(new URL("../../../shared/data/permits.csv", import.meta.url));
const casesAtOnce = 24;
const projectedMs = 60_000;

type Row = Readonly<Record<string, string>>;

let folder: TemporaryFolder;
let server: MillraceProcess;

beforeEach(async () => {
  folder = await temporaryFolder();
  server = await MillraceProcess.start(["dev", "--data", join(folder.path, "data"), "--port", "0"]);
});
afterEach(async () => {
  await server?.stop();
  await folder?.remove();
});

it("drives all 1,434 recorded cases: 8,577 steps, per case in the recorded order", async (context) => {
  const missing = !existsSync(permitsFile);
  if (missing) process.stdout.write(`permits: skipped, there is no ${permitsFile}\n`);
  context.skip(missing, "the recorded cases are not on this machine: ../shared/data/permits.csv");
  const rows = parseCsv(readFileSync(permitsFile, "utf8"));
  expect(rows).toHaveLength(8_577);
  expect(casesOf(rows).length).toBe(1_434);
  const { steps, order, statuses } = await drive(rows);
  expect(steps).toBe(8_577);
  expect(order).toEqual(recordedOrder(rows));
  expect(statuses).toEqual(new Set(["completed"]));
}, 240_000);

it("drives generated cases of the same shape, with ties in time in the order of the file", async () => {
  const seed = testSeed();
  const why = `MILLRACE_TEST_SEED=${seed}`;
  const rows = generatedRows(new SeededRandom(seed), 40);
  const { steps, order, statuses } = await drive(rows);
  expect(steps, why).toBe(rows.length);
  expect(order, why).toEqual(recordedOrder(rows));
  expect(statuses, why).toEqual(new Set(["completed"]));
});

interface Driven {
  readonly steps: number;
  /** Per case its steps in the order of the row in SQLite. */
  readonly order: Map<string, string[]>;
  readonly statuses: Set<string>;
}

async function drive(rows: readonly Row[]): Promise<Driven> {
  const cases = casesOf(rows);
  const { url, projection: path } = server.ready;
  const api = new HttpApi(url);
  const queue = cases.values();
  const driver = async () => {
    // All drivers share one iterator: each takes the next case.
    for (const each of queue) await driveCase(api, each);
  };
  const startedAt = performance.now();
  await Promise.all(Array.from({ length: casesAtOnce }, driver));
  const seconds = (performance.now() - startedAt) / 1_000;
  process.stdout.write(`permits: ${cases.length} cases, ${rows.length} steps in ${seconds.toFixed(1)} s\n`);

  const projection = openProjection({ path });
  try {
    const workflows = () => cases.map(({ id }) => projection.workflow(id));
    await eventually("every case is projected to its end", projectedMs, () =>
      workflows().every((row) => row !== null && row.closedAt !== null),
    );
    const found = workflows().filter((row) => row !== null);
    return {
      steps: hashProjection(path).tables.steps.rows,
      statuses: new Set(found.flatMap(({ status, steps }) => [status, ...steps.map((step) => step.status)])),
      order: new Map(
        found.map(({ id, steps }) => [
          id,
          steps
            .toSorted((one, other) => Date.parse(one.completedAt ?? "") - Date.parse(other.completedAt ?? ""))
            .map(({ name, occurrence, output }) =>
              stepLine(name, occurrence, (output as { instance: string }).instance),
            ),
        ]),
      ),
    };
  } finally {
    projection.close();
  }
}

function stepLine(name: string, occurrence: number, instance: string): string {
  return `${name}#${occurrence} ${instance}`;
}

/** The same from the file, not by way of `casesOf`: sorted by time over the whole file, equal times as they stand. */
function recordedOrder(rows: readonly Row[]): Map<string, string[]> {
  const order = new Map<string, string[]>();
  for (const row of rows.toSorted((one, other) => timeOf(one) - timeOf(other))) {
    const {
      "case:concept:name": id = "",
      "concept:name": name = "",
      "concept:instance": instance = "",
    } = row;
    const before = order.get(id) ?? [];
    const occurrence = 1 + before.filter((line) => line.startsWith(`${name}#`)).length;
    order.set(id, [...before, stepLine(name, occurrence, instance)]);
  }
  return order;
}

function casesOf(rows: readonly Row[]): ExternalCase[] {
  const byCase = new Map<string, Row[]>();
  for (const row of rows) {
    const id = row["case:concept:name"] ?? "";
    byCase.set(id, [...(byCase.get(id) ?? []), row]);
  }
  return [...byCase].map(([id, ofCase]) => {
    const seen = new Map<string, number>();
    const steps = ofCase
      .toSorted((one, other) => timeOf(one) - timeOf(other))
      .map((row) => {
        const name = row["concept:name"] ?? "";
        const occurrence = (seen.get(name) ?? 0) + 1;
        seen.set(name, occurrence);
        const output = {
          instance: row["concept:instance"],
          by: row["org:resource"],
          at: row["time:timestamp"],
        };
        return { step: occurrence === 1 ? name : `${name}#${occurrence}`, output, failures: 0 };
      });
    const [{ "case:channel": channel, "case:department": department } = {}] = ofCase;
    return { id, type: "permit", input: { channel, department }, steps, output: { steps: steps.length } };
  });
}

/** `2011-10-11 13:45:40.276000+02:00`, whose zone changes within a case. */
function timeOf(row: Row): number {
  return Date.parse((row["time:timestamp"] ?? "").replace(" ", "T"));
}

function generatedRows(random: SeededRandom, cases: number): Row[] {
  const names = [
    "Confirmation of receipt",
    'T02 Check, "first" time',
    "T04 Determine confirmation",
    "T10 Determine stop",
  ] as const;
  const rows: Row[] = [];
  for (let number = 0; number < cases; number++) {
    let at = Date.UTC(2011, 9, 1) + random.between(0, 30) * 86_400_000;
    for (let step = random.between(1, 12); step > 0; step--) {
      // A third of the steps are recorded at the very time of the one before.
      at += random.next() < 0.33 ? 0 : random.between(1, 1_000_000);
      rows.push({
        "case:concept:name": `case-${number}`,
        "case:channel": "Internet",
        "case:department": "General",
        "concept:name": random.pick(names),
        "concept:instance": `task-${rows.length}`,
        "org:resource": `Resource${random.between(1, 30)}`,
        "time:timestamp": new Date(at).toISOString(),
      });
    }
  }
  // As a file may have them: the cases mixed, each one's steps as they were written down.
  return rows.toSorted((one, other) => timeOf(one) - timeOf(other));
}
