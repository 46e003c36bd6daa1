/**
 * `npm run fuzz -- --cases 100000 --seed 7`: the cases of `test/fuzz/fuzz.e2e.test.ts`, any number of them. Prints
 * what it did; a failing case is printed with its seed and path. Without a seed, one is drawn and said.
 */
import { spawn } from "node:child_process";
import { parseArgs } from "node:util";

const { values } = parseArgs({
  options: { cases: { type: "string", default: "100000" }, seed: { type: "string" } },
});
const cases = Number(values.cases);
const seed = values.seed === undefined ? Math.floor(Math.random() * 2 ** 31) : Number(values.seed);
if (!Number.isSafeInteger(cases) || cases < 1 || !Number.isSafeInteger(seed)) {
  process.stderr.write("--cases is a whole number from 1 on, --seed a whole number.\n");
  process.exit(2);
}
process.stderr.write(`${cases} cases, seed ${seed}\n`);
const vitest = spawn("npx", ["vitest", "run", "--project", "e2e", "test/fuzz"], {
  stdio: "inherit",
  env: { ...process.env, MILLRACE_FUZZ_CASES: String(cases), MILLRACE_FUZZ_SEED: String(seed) },
});
vitest.once("exit", (code) => {
  if (code !== 0) process.stderr.write(`Again: npm run fuzz -- --cases ${cases} --seed ${seed}\n`);
  process.exitCode = code ?? 1;
});
