import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Seam } from "./seam.ts";
import { simulate, type Outcome } from "./seam.sim.ts";

const schedules = 1_000;
const base = Number(process.env["MILLRACE_SEED"] ?? 1);
const seeds = (count: number) => Array.from({ length: count }, (_, n) => base + n);

describe("the seam between replay and live", () => {
  it(`I1 to I5: exactly once, in order, no false alarm, over ${schedules} schedules`, () => {
    const sums = { demoted: 0, promoted: 0, read: 0, cut: 0, ended: 0, bookmarks: 0, asked: 0 };
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

/** A name, and what is replaced by what in the source. */
type Mutant = readonly [name: string, changes: readonly (readonly [find: string, replace: string])[]];

/** The simulation is worth what it catches: each change of the source below must fail it. */
describe("mutants of the seam", () => {
  let folder = "";
  let source = "";
  const here = fileURLToPath(new URL(".", import.meta.url));

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "millrace-seam-"));
    source = await readFile(join(here, "seam.ts"), "utf8");
  });
  afterAll(() => rm(folder, { recursive: true, force: true }));

  async function mutant([name, changes]: Mutant): Promise<typeof Seam> {
    let text = source;
    for (const [find, replace] of changes) {
      expect(source.split(find), `the text that mutant "${name}" changes: ${find}`).toHaveLength(2);
      text = text.replace(find, replace);
    }
    const file = join(folder, `${name.replaceAll(/[^a-z]+/gi, "-")}.ts`);
    await writeFile(file, text.replaceAll('from "./', `from "${here}`));
    const module = (await import(/* @vite-ignore */ pathToFileURL(file).href)) as { Seam: typeof Seam };
    return module.Seam;
  }

  function caughtBy(Mutant: typeof Seam): number | undefined {
    return seeds(600).find((seed) => {
      try {
        return !simulate(Mutant, seed).ok;
      } catch {
        // An invariant check or a frame that nobody expects: caught as well.
        return true;
      }
    });
  }

  const broken: readonly Mutant[] = [
    [
      "no skip of what a page ran ahead",
      [
        ["if (subscription.pos >= last) continue;", ""],
        ["matching.filter((commit) => commit.sequence > subscription.pos)", "matching"],
      ],
    ],
    ["no chain of its own in mid-batch", [["subscription.pos < first", "subscription.pos < Infinity"]]],
    [
      "live after a read",
      [
        [
          "if (page.upTo > subscription.pos && !this.#sendPage(subscription, page)) return;\n    this.pump(subscription);",
          "if (page.upTo > subscription.pos && !this.#sendPage(subscription, page)) return;\n    this.#goLive(subscription);",
        ],
      ],
    ],
    ["a demotion that claims the head", [["n === frames.length - 1 ? this.head : frame.s", "this.head"]]],
    ["a state that cannot be had is dropped", [['this.#demote(subscription, "tail", before);', "continue;"]]],
    [
      "drop when slow",
      [['this.#demote(subscription, "slow", n === frames.length - 1 ? this.head : frame.s);', ""]],
    ],
    [
      "lastMatch begins beyond the head",
      [["topic.lastMatch = this.head;\n", "topic.lastMatch = this.head + 1;\n"]],
    ],
    [
      "no bookmark at the promotion",
      [["if (subscription.lastS < subscription.pos) this.#bookmark", "if (false) this.#bookmark"]],
    ],
    [
      "a commit whose attributes cannot be told is taken for none",
      [["if (uncertain.has(topic)) this.#demoteAll(topic, before);", "if (uncertain.has(topic)) continue;"]],
    ],
    [
      "a commit whose attributes cannot be told is taken for one that matches",
      [["if (!certain) uncertain.add(topic);", ""]],
    ],
    ["a position that goes back at a demotion", [["Math.max(subscription.pos, sentUpTo)", "sentUpTo"]]],
    [
      "a heartbeat that does not move the chain",
      [["subscription.lastS = Math.max(subscription.lastS, this.head);\n", ""]],
    ],
    [
      "no end of a run that closed before",
      [["if (closed) {\n        this.#end", "if (false) {\n        this.#end"]],
    ],
    [
      "no end of a run while live",
      [["for (const workflowId of closed) {", "for (const workflowId of []) {"]],
    ],
    [
      "a page that is read twice",
      [['subscription.mode !== "catchup" || subscription.reading', 'subscription.mode !== "catchup"']],
    ],
  ];

  it.each(broken)("the schedules notice: %s", async (...row) => {
    const seed = caughtBy(await mutant(row));
    expect(seed, `first of 600 schedules that notices "${row[0]}"`).toBeDefined();
  });

  const blind: readonly Mutant[] = [
    [
      "heartbeats without the last matching sequence",
      [
        [
          "live.push([subscription.topic.f, subscription.topic.lastMatch])",
          "live.push([subscription.topic.f, 0])",
        ],
      ],
    ],
    ["frames that do not say what went before", [["    topic.lastMatch = last;\n", ""]]],
  ];

  it.each(blind)("a lost frame goes unnoticed with %s", async (...row) => {
    const Blind = await mutant(row);
    const unnoticed = seeds(400).filter((seed) => {
      const outcome = simulate(Blind, seed, { loseFrame: 20 + (seed % 60) });
      return outcome.missed > 0 && outcome.alarms === 0;
    });
    expect(unnoticed.length).toBeGreaterThan(0);
  });
});
