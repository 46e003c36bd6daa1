import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { blindSeams, brokenSeams, type Mutant } from "./seam.mutants.ts";
import { Seam } from "./seam.ts";
import { noStats, simulate, type Outcome } from "./seam.sim.ts";

const schedules = 1_000;
const base = Number(process.env["MILLRACE_SEED"] ?? 1);
const seeds = (count: number) => Array.from({ length: count }, (_, n) => base + n);

describe("the seam between replay and live", () => {
  it(`I1 to I7: exactly once, in order, no false alarm, rows exact, no window overrun, over ${schedules} schedules`, () => {
    const sums = { ...noStats };
    for (const seed of seeds(schedules)) {
      let outcome: Outcome;
      try {
        outcome = simulate(Seam, seed);
      } catch (cause) {
        throw new Error(`seed ${seed} (MILLRACE_SEED=${seed} repeats it)`, { cause });
      }
      expect(outcome, `seed ${seed} (MILLRACE_SEED=${seed} repeats it)`).toMatchObject({ ok: true });
      for (const key of Object.keys(sums) as (keyof typeof sums)[]) sums[key] += outcome.stats[key];
    }
    // A schedule that never demotes, reads, cuts or ends would prove nothing.
    for (const [what, count] of Object.entries(sums)) expect(count, what).toBeGreaterThan(schedules / 2);
  });

  it("a lost frame never goes unnoticed: the chain, `live` or the heartbeat tells", () => {
    let losses = 0;
    for (const seed of seeds(400)) {
      const outcome = simulate(Seam, seed, { loseFrame: 20 + (seed % 60) });
      if (outcome.missed === 0) continue;
      losses++;
      expect(outcome.alarms, `seed ${seed}`).toBeGreaterThan(0);
    }
    expect(losses).toBeGreaterThan(50);
  });
});

/** Each change of the sources must fail the simulation. */
describe("mutants of the seam", () => {
  let folder = "";
  const here = fileURLToPath(new URL(".", import.meta.url));

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "millrace-seam-"));
  });
  afterAll(() => rm(folder, { recursive: true, force: true }));

  /** A copy of the seam, and of the files beside it that are changed too, in a folder of its own. */
  async function mutant([name, ...changes]: Mutant): Promise<typeof Seam> {
    const changed = new Map([["seam.ts", await readFile(join(here, "seam.ts"), "utf8")]]);
    for (const [find, replace, file = "seam.ts"] of changes) {
      const text = changed.get(file) ?? (await readFile(join(here, file), "utf8"));
      expect(text.split(find), `the text that mutant "${name}" changes: ${find}`).toHaveLength(2);
      changed.set(
        file,
        text.replace(find, () => replace),
      );
    }
    const own = await mkdtemp(join(folder, "mutant-"));
    for (const [file, text] of changed) {
      const linked = text.replaceAll(/from "\.\/([^"]+)"/g, (_, other: string) =>
        changed.has(other) ? `from "./${other}"` : `from "${here}${other}"`,
      );
      await writeFile(join(own, file), linked);
    }
    const module = (await import(/* @vite-ignore */ pathToFileURL(join(own, "seam.ts")).href)) as {
      Seam: typeof Seam;
    };
    return module.Seam;
  }

  function caughtBy(Broken: typeof Seam): number | undefined {
    return seeds(600).find((seed) => {
      try {
        return !simulate(Broken, seed).ok;
      } catch {
        // An invariant check or a frame that nobody expects: caught as well.
        return true;
      }
    });
  }

  const named = (list: readonly Mutant[]) => list.map((change) => ({ name: change[0], change }));

  it.each(named(brokenSeams))("the schedules notice: $name", async ({ name, change }) => {
    const seed = caughtBy(await mutant(change));
    expect(seed, `first of 600 schedules that notices "${name}"`).toBeDefined();
  });

  it.each(named(blindSeams))("a lost frame goes unnoticed with $name", async ({ change }) => {
    const Blind = await mutant(change);
    const unnoticed = seeds(400).find((seed) => {
      const outcome = simulate(Blind, seed, { loseFrame: 20 + (seed % 60) });
      return outcome.missed > 0 && outcome.alarms === 0;
    });
    expect(unnoticed).toBeDefined();
  });
});
