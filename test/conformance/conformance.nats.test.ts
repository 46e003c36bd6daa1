/** The rules of docs/protocol.md hold for this server, and a server that breaks one of them is found out. */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { testSeed } from "../e2e/seeded-random.ts";
import { allRules } from "./rules/rules.ts";
import { startMutant, type Mutant } from "./mutant-proxy.ts";
import { mutants, noMutant } from "./mutants.ts";
import { runSuite, type Verdict } from "./run-suite.ts";
import { startServerUnderTest, type ServerUnderTest } from "./server-under-test.ts";

const seed = testSeed();
const why = `MILLRACE_TEST_SEED=${seed}`;

const broken = (verdicts: readonly Verdict[]) => verdicts.filter(({ outcome }) => outcome === "broken");

describe(`conformance (${why})`, () => {
  let server: ServerUnderTest;
  beforeAll(async () => {
    server = await startServerUnderTest();
  });
  afterAll(async () => {
    await server?.stop();
  });

  it("holds for the server as it is", async () => {
    const verdicts = await runSuite({ target: server, rules: allRules, seed, concurrency: 6 });
    for (const { rule, outcome, why: reason } of verdicts)
      if (outcome === "not shown") process.stdout.write(`conformance: ${rule} not shown: ${reason}\n`);
    expect(broken(verdicts), why).toEqual([]);
    // Where the kernel keeps much for a reader that has stopped, it never falls behind; all else is shown here.
    expect(
      verdicts.filter(({ rule, outcome }) => outcome === "not shown" && rule !== "slow-reader-is-exact"),
      why,
    ).toEqual([]);
    expect(verdicts).toHaveLength(allRules.length);
  });

  const through = async (mutant: Mutant): Promise<Verdict[]> => {
    const target = await startMutant(server, mutant);
    try {
      const options = { rules: allRules, seed, concurrency: 6, deadlineMs: 5_000, stopAtFirst: true };
      return await runSuite({ target, ...options });
    } finally {
      await target.close();
    }
  };
  it("holds through the proxy that makes the mutants", async () => {
    expect(broken(await through(noMutant)), why).toEqual([]);
  });

  it.concurrent.each(mutants)("finds a server that $name", async (mutant) => {
    const [found] = broken(await through(mutant));
    expect(found, `${mutant.name}: nothing was found (${why})`).toBeDefined();
    process.stdout.write(
      `conformance: a server that ${mutant.name} breaks ${found?.rule}: ${found?.why.slice(0, 160)}\n`,
    );
  });
});
