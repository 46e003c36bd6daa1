/** The rules of docs/protocol.md hold for this server, and a server that breaks one of them is found out. */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { testSeed } from "../e2e/seeded-random.ts";
import { allRules } from "./rules/rules.ts";
import { runSuite } from "./run-suite.ts";
import { startServerUnderTest, type ServerUnderTest } from "./server-under-test.ts";

const seed = testSeed();
const why = `MILLRACE_TEST_SEED=${seed}`;

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
    expect(
      verdicts.filter(({ outcome }) => outcome === "broken"),
      why,
    ).toEqual([]);
    expect(verdicts).toHaveLength(allRules.length);
  });
});
