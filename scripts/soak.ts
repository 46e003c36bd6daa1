/**
 * `npm run soak -- --count 10000 --seed 7`: the random programs of `engine/src/run.sim.test.ts`, any number of them. Prints
 * its progress; a failing program is printed with its seed and path. Without a seed, one is drawn and said.
 */
import { spawn } from "node:child_process";
import { parseArgs } from "node:util";

const { values } = parseArgs({
  options: { count: { type: "string", default: "10000" }, seed: { type: "string" } },
});
const count = Number(values.count);
const seed = values.seed === undefined ? Math.floor(Math.random() * 2 ** 31) : Number(values.seed);
if (!Number.isSafeInteger(count) || count < 1 || !Number.isSafeInteger(seed)) {
  process.stderr.write("--count is a whole number from 1 on, --seed a whole number.\n");
  process.exit(2);
}
process.stderr.write(`${count} programs, seed ${seed}\n`);
const vitest = spawn("npx", ["vitest", "run", "--project", "unit", "engine/src/run.sim.test.ts"], {
  stdio: "inherit",
  env: { ...process.env, MILLRACE_SOAK_COUNT: String(count), MILLRACE_SOAK_SEED: String(seed) },
});
vitest.once("exit", (code) => {
  if (code !== 0) process.stderr.write(`Again: npm run soak -- --count ${count} --seed ${seed}\n`);
  process.exitCode = code ?? 1;
});
