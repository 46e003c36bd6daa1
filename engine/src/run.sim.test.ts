/**
 * Random programs over all of `ctx` against a plain in-memory oracle, undisturbed and in trouble. Invariants R1 to R6 of
 * `run.ts`, A1 to A3 of `activation.ts`, W1 of `worker.ts`. A failing program is printed with its seed; run it again, or
 * more of them, with `npm run soak -- --seed N --count N`.
 */
import fc from "fast-check";
import { expect, test } from "vitest";
import { program } from "./testing/simulation/random-program.ts";
import { seeded, simulate } from "./testing/simulation/simulate.ts";

const count = Number(process.env["MILLRACE_SOAK_COUNT"] ?? 500);
const seed = process.env["MILLRACE_SOAK_SEED"];
/** Of the programs, those that nothing disturbs. */
const undisturbedShare = 0.2;

test.each([
  ["undisturbed", false],
  ["with conflicts, lost acknowledgements, kills, zombies, pauses and cancels", true],
])(
  "programs %s: right result, each outcome recorded once, replay equals live",
  { timeout: 120_000 + count * 2_000 },
  async (_title, isTroubled) => {
    const numRuns = Math.ceil(count * (isTroubled ? 1 - undisturbedShare : undisturbedShare));
    let done = 0;
    const begun = performance.now();
    await fc.assert(
      fc.asyncProperty(program, fc.noShrink(fc.nat()), async (drawn, roll) => {
        await simulate(drawn, { chance: seeded(roll), isTroubled });
        done++;
        if (seed !== undefined && done % 100 === 0)
          process.stderr.write(`${done} of ${numRuns}, ${Math.round(performance.now() - begun)} ms\n`);
      }),
      { numRuns, endOnFailure: true, ...(seed === undefined ? {} : { seed: Number(seed) }) },
    );
    expect(done).toBeGreaterThanOrEqual(numRuns);
  },
);
